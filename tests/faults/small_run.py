"""A real driver on two tiny units: the engine's streaming and the model are replaced, all file operations are not."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clarep_ray.cluster import extract, runtime
from clarep_ray.cluster.plan import Plan
from clarep_ray.config import ExtractConfig
from clarep_ray.data import owner
from clarep_ray.data.records import InputRow
from clarep_ray.data.store import WORK
from clarep_ray.data.units import SPECTRUM_ARRAYS, UnitBlob, unit_files, unit_manifest
from clarep_ray.data.verify import Damage
from clarep_ray.dotted import override

UNIT_SIZE, NUM_ROWS = 2, 4
NUM_UNITS = 2
SHAPES = {"x_t": (3,), "singular_values": (2,), "right_vectors": (2, 3), "residuals": (2,), "value_errors": (2,)}


def rows() -> list[InputRow]:
    return [
        InputRow(
            ordinal=i,
            id=f"{i % 2}/img_{i}.png",
            key=f"key-{i}",
            source=f"{i % 2}/img_{i}.png",
            offset=0,
            size=10,
            sha256=hashlib.sha256(bytes([i])).hexdigest(),
            label=i % 2,
            class_name=str(i % 2),
        )
        for i in range(NUM_ROWS)
    ]


@lru_cache
def unit_blob(unit: int) -> UnitBlob:
    """Return what the model would make of a unit: the second row of unit 1 is a reject."""
    mine = rows()[unit * UNIT_SIZE : (unit + 1) * UNIT_SIZE]
    random, count = np.random.default_rng(unit), len(mine)
    arrays = {name: random.random((count, *SHAPES.get(name, ())), np.float32) for name in SPECTRUM_ARRAYS}
    arrays["features"] = random.random((count, 3), np.float32)
    arrays["samples"] = random.integers(0, 256, (count, 2, 2, 3), np.uint8)
    records = [
        {"key": row.key, "id": row.id, "source": row.source, "label": row.label, "class_name": row.class_name}
        | {"slot": slot, "status": "ok", "reason": None}
        for slot, row in enumerate(mine)
    ]
    if unit == 1:
        records[1] |= {"status": "rejected", "reason": "truncated"}
    return UnitBlob(arrays, records)


@lru_cache
def unit_bytes(unit: int) -> dict[str, bytes]:
    return unit_files(unit_blob(unit), {}, (), keep_spectrum=True)


NOBODY = owner.Process("here", 2**31, owner.this_process().machine, 0, "long ago")


@lru_cache
def _plan(root: str, **changes: Any) -> Plan:
    config = override(
        ExtractConfig(), {"output.path": root, "engine.unit_size": UNIT_SIZE, "health.enabled": False} | changes
    )
    return Plan(config, rows(), ("0", "1"), 2, 3, "a clock", FIELDS)


@dataclass
class SmallRun:
    """The driver of an extraction; `computed` and `reported` are the units that it started and finished."""

    computed: list[int] = field(default_factory=list[int])
    reported: list[int] = field(default_factory=list[int])
    on_report: Callable[[int], None] = lambda unit: None

    def __call__(self, root: Path | str, damages: Sequence[Damage] = (), **changes: Any) -> dict[str, Any]:
        """Run, or continue, or repair into `root`, a folder or a URL, and return the summary."""
        plan = _plan(str(root), **changes)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(extract, "make_plan", lambda *_: plan)
            patch.setattr(owner, "this_process", lambda: NOBODY)  # each run's process is gone when the next one comes
            patch.setattr(runtime, "connect", lambda: {"CPU": 1.0})
            patch.setattr(extract, "stream", self.stream)
            return extract.run_extraction(plan.config, lambda _: None, damages)

    def stream(self, context: Any, todo: Sequence[int], workers: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for unit in todo:
            self.computed.append(unit)
            manifest = unit_manifest(unit_blob(unit), context.identity)
            fresh = context.store.commit(unit, unit_bytes(unit), manifest)
            self.reported.append(unit)
            self.on_report(unit)
            yield {
                "num_rows": len(manifest["rows"]),
                "num_ok": manifest["num_ok"],
                "num_removed": [],
                "poison": [],
                "fresh": fresh,
            } | {"decode_s": 0.0, "extract_s": 0.0, "commit_s": 0.0}


FIELDS = {"label_map_sha256": "0" * 64, "classes_sha256": None, "weights_sha256": "0" * 64}


def visible(root: Path) -> dict[str, bytes]:
    """Return every file that a reader may look at: all but temporary ones."""
    temporary = (WORK, ".tmp-")
    files = (path for path in root.rglob("*") if path.is_file())
    found = (path for path in files if path.parent.name != temporary[0] and not path.name.startswith(temporary[1]))
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in found}
