"""What an actor of a calibration does: a piece, a micro-batch of pictures or of samples, becomes a part on disk."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clarep_ray import dotted
from clarep_ray.cluster.attempts import Attempt, Ledger, name_poison, survive
from clarep_ray.cluster.memory import while_memory_is_short
from clarep_ray.cluster.stages import cached_source
from clarep_ray.config import CalibrateConfig
from clarep_ray.data.parts import LABELS, Parts
from clarep_ray.data.records import InputRow
from clarep_ray.data.store import OutputStore
from clarep_ray.data.units import OK, STAND_IN, decode_unit

if TYPE_CHECKING:
    from clarep_ray.models.calibrator import Calibrator

JUDGED, TWO_STAGE, FEATURES = "judged", "two_stage", "features"
Item = dict[str, Any]
"""One piece of work for an actor: its group and number, and what to do."""


@dataclass(frozen=True)
class CalibrationContext:
    """What every worker needs, small and picklable."""

    config: dict[str, Any]
    output: str
    image_size: int
    class_names: tuple[str, ...]
    run_id: str

    @property
    def calibrate_config(self) -> CalibrateConfig:
        return dotted.from_flat(CalibrateConfig, self.config)

    @property
    def parts(self) -> Parts:
        return Parts(Path(self.output))


class CalibrateStage:
    """One model, loaded once, that does pieces of a calibration and writes what it found."""

    def __init__(self, context: CalibrationContext) -> None:
        import ray

        from clarep_ray.models.calibrator import Calibrator

        self.context = context
        device = "cuda" if ray.get_runtime_context().get_accelerator_ids()["GPU"] else "cpu"
        config = context.calibrate_config
        self.calibrator = while_memory_is_short(
            "loading an actor's model", config.engine, lambda: Calibrator(config, device)
        )

    def __call__(self, table: pa.Table) -> pa.Table:
        item = json.loads(table["item"][0].as_py())
        name = f"{item['group']}.{item['number']:05d}"
        engine = self.context.calibrate_config.engine
        rows: list[dict[str, Any]] = item.get("rows", [])  # two-stage sampling has no pictures

        def do(attempt: Attempt, poison: Mapping[int, str]) -> int:
            if not attempt.probe and not poison:
                return do_item(self.calibrator, self.context, item)
            found_in(self.calibrator, self.context, with_some(item, attempt.rows))
            name_poison(f"piece {name}", [row["id"] for row in rows], poison)
            return 0

        ledger = Ledger(OutputStore(Path(self.context.output)), self.context.run_id, name)
        tried = partial(survive, ledger, len(rows), engine, do, alike=False)
        count: int = while_memory_is_short(f"piece {name}", engine, tried)
        return pa.Table.from_pylist([{"name": name, "count": count}])


def with_some(item: Item, rows: Collection[int]) -> Item:
    """Return a piece of work with some of its pictures; with none, a grey one stands in for the first."""
    if item["group"] == TWO_STAGE:
        return item
    return item | ({"rows": [item["rows"][row] for row in sorted(rows)]} if rows else {"stand_in": True})


def do_item(calibrator: Calibrator, context: CalibrationContext, item: Item) -> int:
    """Do one piece of work, write its part, and return how many samples it had."""
    labels, arrays = found_in(calibrator, context, item)
    if not labels:  # every picture of the piece is unreadable
        return 0
    if item["number"] > 0:  # the first part's pictures are enough to look at
        arrays = {name: array for name, array in arrays.items() if not name.endswith("/pictures")}
    context.parts.write(item["group"], item["number"], arrays | {LABELS: np.array(labels)})
    return len(labels)


def found_in(
    calibrator: Calibrator, context: CalibrationContext, item: Item
) -> tuple[list[int], dict[str, NDArray[Any]]]:
    """Return the labels of a piece of work and what comes of it; both are empty where no picture can be read."""
    if item["group"] == TWO_STAGE:
        return item["labels"], calibrator.two_stage(item["labels"], item["keys"], item["switches"])
    images, labels, keys = (_stand_in if "stand_in" in item else _decode)(context, item["rows"])
    if not labels:
        return [], {}
    if item["group"] == JUDGED:
        return labels, calibrator.judge(images)
    if item["group"] == FEATURES:
        return labels, calibrator.feature_map(images, labels, keys, item["layers"], item["times"])
    return labels, calibrator.project(images, labels, keys, item["cell"])


def _stand_in(
    context: CalibrationContext, rows: Sequence[Mapping[str, Any]]
) -> tuple[NDArray[np.uint8], list[int], list[str]]:
    first, side = InputRow(**rows[0]), context.image_size
    return np.full((1, side, side, 3), STAND_IN, np.uint8), [first.label], [first.image_key]


def _decode(
    context: CalibrationContext, rows: Sequence[Mapping[str, Any]]
) -> tuple[NDArray[np.uint8], list[int], list[str]]:
    config = context.calibrate_config.data
    blob = decode_unit(cached_source(config), [InputRow(**row) for row in rows], context.image_size, config)
    good = [record for record in blob.records if record["status"] == OK]
    return blob.arrays["images"], [record["label"] for record in good], [record["key"] for record in good]
