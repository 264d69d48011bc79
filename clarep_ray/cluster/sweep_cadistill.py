"""Sweeps of CaDistill: a trial is one training in one process, measured on the pictures it did not see."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clarep_ray import dotted
from clarep_ray.cluster.digits_student import COLUMNS, evaluate_one
from clarep_ray.cluster.identity import environment_fields
from clarep_ray.cluster.sweep_study import Cell, Report, at_point
from clarep_ray.config import DistillConfig, Point

TRAINING_CODE = ("cluster.digits_student",)
"""Our own modules that can change what a training comes to, by what they do or import."""


@dataclass(frozen=True)
class CadistillStudy:
    """CaDistill, or any other method of training, as something to sweep."""

    config: DistillConfig
    """With absolute paths; `output` is the sweep's folder."""
    job = "sweep cadistill"

    @property
    def root(self) -> Path:
        return Path(self.config.output)

    @property
    def embedded(self) -> bool:
        """Whether the pictures have backgrounds to be measured by."""
        return self.config.val.source == "spurious_digits"

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("val_accuracy", *(COLUMNS if self.embedded else ()))

    @property
    def num_epochs(self) -> int:
        return self.config.schedule.epochs + self.config.second_stage.epochs

    def seeded(self, point: Point, seed: int) -> DistillConfig:
        return dotted.override(self.config, {"seed": seed, "clareps.seed": seed, **point, "tracking.enabled": False})

    def basis(self, point: Point, seed: int) -> str:
        return ""

    def has_basis(self, name: str) -> bool:
        return False

    def identity(self) -> dict[str, Any]:
        from clarep_ray.cadistill.inputs import open_inputs

        found = dotted.fingerprint_fields(self.config) | open_inputs(self.config).sha256
        return found | environment_fields(modules=TRAINING_CODE)

    def check(self, points: Sequence[Point], seeds: Sequence[int]) -> None:
        from clarep_ray.cadistill.run import prepare

        if self.config.num_workers != 1:
            raise ValueError(f"num_workers: {self.config.num_workers} is not valid; valid: 1 (a trial is one process)")
        for point in points:
            with at_point(point):
                prepare(self.seeded(point, seeds[0]))

    def prepare(self, cells: Sequence[Cell], say: Callable[[str], None]) -> None:
        """Do nothing: trainings build on a finished extraction."""

    def resources(self, cluster: Mapping[str, float]) -> dict[str, float]:
        return {"CPU": 1, "GPU": 1 if self.config.use_gpu else 0}

    @property
    def waits_for_machines(self) -> bool:
        return False

    def measure(self, point: Point, seed: int, folder: Path, report: Report) -> dict[str, float]:
        from clarep_ray.cadistill.run import read_result, train_alone

        config = dotted.override(self.seeded(point, seed), {"output": str(folder)})
        self.replay(folder, report)  # what a training that is continued has reported before

        def on_epoch(record: dict[str, Any]) -> None:
            if "epoch" in record:
                report(record["epoch"], record["val_accuracy"])

        if self.embedded:
            found = evaluate_one(dotted.flatten(config), on_epoch)
        else:
            train_alone(config, on_epoch)
            found = {}
        return {"val_accuracy": read_result(folder)["last"]["val_accuracy"], **found}

    def replay(self, folder: Path, report: Report) -> None:
        from clarep_ray.cadistill.run import read_metrics

        for record in read_metrics(folder) if folder.is_dir() else []:
            report(record["epoch"], record["val_accuracy"])
