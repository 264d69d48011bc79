"""What a method's training step costs beside plain training, and whether its loader keeps up, in one run."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from clarep_ray import dotted
from clarep_ray.cadistill.batches import Batch
from clarep_ray.cadistill.diffusion_teacher import DiffusionTeacher
from clarep_ray.cadistill.inputs import make_learner, open_inputs, open_teacher
from clarep_ray.cadistill.teachers import Teacher
from clarep_ray.cadistill.training import Distiller, train_step
from clarep_ray.config import DistillBenchmarkConfig, DistillConfig
from clarep_ray.measured import Cell, Spread, Table

COLUMNS = {
    "method": "",
    "step, ms": ".1f",
    "images/s": ".0f",
    "loader images/s": ".0f",
    "loader / step": ".1f",
    "over vanilla": ".2f",
    "over twice vanilla": ".2f",
}
FLOOR = "vanilla, twice the images"
WARM_UP = 2


@dataclass(frozen=True)
class _Measured:
    """Seconds of a step and of loading its batch, of `images` training images."""

    step: float
    load: float
    images: int


def run(config: DistillBenchmarkConfig, base: DistillConfig) -> list[Table]:
    """Return milliseconds of a step, images per second of step and of loader, and ratios to vanilla.

    Images are the training images of a step: Canonical Samples and second views come on top. The floor of a method
    with CLAReps is vanilla at twice the batch, which sends as many pictures through the student. Figures are of the
    fastest turn, ratios one of each turn. One thread for the loader; on the CPU one for the step.
    """
    torch.set_num_threads(1)
    base = dotted.override(base, {"clareps.path": config.clareps, "use_gpu": torch.cuda.is_available()})
    twice = {"method": "vanilla", "schedule.batch_size": 2 * base.schedule.batch_size}
    runs = {name: dotted.override(base, {"method": name}) for name in dict.fromkeys(("vanilla", *config.methods))}
    trainings = {name: _Training(run) for name, run in {**runs, FLOOR: dotted.override(base, twice)}.items()}
    rounds = [
        {name: each.measure(config.num_steps) for name, each in trainings.items()} for _ in range(config.num_repeats)
    ]
    return [Table(COLUMNS, [_row(name, rounds) for name in trainings])]


class _Training:
    """A training whose steps are taken on batches that were loaded before."""

    def __init__(self, config: DistillConfig) -> None:
        device = "cuda" if config.use_gpu else "cpu"
        self.config, self.opened = config, open_inputs(config)
        self.teacher: Teacher | DiffusionTeacher | None = open_teacher(config, self.opened.classes)
        self.learner = make_learner(config, self.opened, self.teacher).to(device)
        if self.teacher is not None:
            self.teacher = self.teacher.to(torch.device(device))
        per_epoch = self.opened.inputs.steps_per_epoch(config.schedule.batch_size)
        self.trainer = Distiller.start(self.learner, config, per_epoch)
        self.coming = itertools.cycle(range(per_epoch))

    def measure(self, num_steps: int) -> _Measured:
        began = time.perf_counter()
        batches = [self.opened.inputs.batch(self.config, next(self.coming)) for _ in range(num_steps)]
        load = (time.perf_counter() - began) / num_steps
        for batch in batches[:WARM_UP]:
            self._step(batch)
        step = _timed(lambda: [self._step(batch) for batch in batches]) / num_steps
        return _Measured(step, load, self.config.schedule.batch_size)

    def _step(self, batch: Batch) -> None:
        train_step(self.trainer, self.learner, batch, self.teacher)
        self.trainer.step = 0  # rates and stages stay those of the first step, however long this goes on


def _timed(run: Callable[[], object]) -> float:
    def now() -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()

    began = now()
    run()
    return now() - began


def _row(name: str, rounds: Sequence[Mapping[str, _Measured]]) -> tuple[Cell, ...]:
    turns = [found[name] for found in rounds]
    step, load, images = min(one.step for one in turns), min(one.load for one in turns), turns[0].images
    ratios = {
        "loader / step": [one.step / one.load for one in turns],
        "over vanilla": [found[name].step / found["vanilla"].step for found in rounds],
        "over twice vanilla": [found[name].step / found[FLOOR].step for found in rounds],
    }
    return (name, 1000 * step, images / step, images / load, *map(Spread.of, ratios.values()))
