"""Something to sweep whose trials are arithmetic, fail, turn NaN, die or have epochs, as their point says."""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clarep_ray import dotted
from clarep_ray.cluster.sweep_study import Cell, Report
from clarep_ray.config import DistillConfig, Point

NUM_EPOCHS = 9


@dataclass(frozen=True)
class FakeStudy:
    """`loss.temperature` is the metric; with `loss.weight_ce` 1 a trial raises, 2 is NaN, 3 kills its process, 4 has
    epochs, 5 meets a fault of the machine once."""

    config: DistillConfig
    job = "sweep fake"
    metrics = ("score", "val_accuracy")

    @property
    def root(self) -> Path:
        return Path(self.config.output)

    @property
    def num_epochs(self) -> int:
        return NUM_EPOCHS

    def seeded(self, point: Point, seed: int) -> DistillConfig:
        return dotted.override(self.config, {**point, "seed": seed})

    def basis(self, point: Point, seed: int) -> str:
        return ""

    def has_basis(self, name: str) -> bool:
        return False

    def identity(self) -> dict[str, Any]:
        return dotted.fingerprint_fields(self.config)

    def check(self, points: Sequence[Point], seeds: Sequence[int]) -> None:
        pass

    def prepare(self, cells: Sequence[Cell], say: Callable[[str], None]) -> None:
        pass

    def resources(self, cluster: Mapping[str, float]) -> dict[str, float]:
        return {"CPU": 1}

    @property
    def waits_for_machines(self) -> bool:
        return False

    def measure(self, point: Point, seed: int, folder: Path, report: Report) -> dict[str, float]:
        folder.mkdir(parents=True, exist_ok=True)
        starts = len(list(folder.glob("start-*")))
        (folder / f"start-{starts}").touch()
        score, kind = float(point["loss.temperature"]), point.get("loss.weight_ce", 0.0)
        if kind == 1:
            raise RuntimeError("it cannot be")
        if kind == 3:
            os.abort()
        if kind == 4:
            self.replay(folder, report)
            for epoch in range(len(_epochs(folder)) + 1, NUM_EPOCHS + 1):
                with (folder / "epochs").open("a") as file:
                    file.write(f"{score * epoch}\n")
                report(epoch, score * epoch)
            return {"val_accuracy": score * NUM_EPOCHS, "score": score}
        if kind == 5 and starts == 0:
            raise OSError("the disk is gone")
        return {"score": math.nan if kind == 2 else score + seed, "val_accuracy": 0.5}

    def replay(self, folder: Path, report: Report) -> None:
        for epoch, value in enumerate(_epochs(folder), 1):
            report(epoch, value)


def _epochs(folder: Path) -> list[float]:
    path = folder / "epochs"
    return [float(line) for line in path.read_text().splitlines()] if path.is_file() else []


def starts(root: Path) -> dict[str, int]:
    """Return how often each trial and seed was started."""
    found: dict[str, int] = {}
    for path in root.glob("trials/*/*/start-*"):
        name = "/".join(path.parts[-3:-1])
        found[name] = found.get(name, 0) + 1
    return found
