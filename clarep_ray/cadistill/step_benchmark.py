"""What a method's training step costs beside plain training, and whether its loader keeps up, in one run."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from clarep_ray import dotted
from clarep_ray.cadistill.batches import Batch
from clarep_ray.cadistill.diffusion_teacher import DiffusionTeacher
from clarep_ray.cadistill.inputs import make_learner, open_inputs, open_teacher
from clarep_ray.cadistill.teachers import Teacher
from clarep_ray.cadistill.training import Distiller, train_step
from clarep_ray.config import DistillBenchmarkConfig, DistillConfig

HEADER = ("method", "step, ms", "images/s", "loader images/s", "loader / step", "over vanilla", "over twice vanilla")
FLOOR = "vanilla, twice the images"
WARM_UP = 2


@dataclass(frozen=True)
class _Measured:
    """Seconds of a step and of loading its batch, of `images` training images."""

    step: float
    load: float
    images: int


def run(config: DistillBenchmarkConfig, base: DistillConfig) -> str:
    """Return markdown: milliseconds of a step, images per second of step and of loader, and ratios to vanilla.

    Images are the training images of a step: Canonical Samples and second views come on top. The floor of a method
    with CLAReps is vanilla at twice the batch, which sends as many pictures through the student. One thread for the
    loader; on the CPU one for the step.
    """
    torch.set_num_threads(1)
    base = dotted.override(base, {"clareps.path": config.clareps, "use_gpu": torch.cuda.is_available()})
    twice = {"method": "vanilla", "schedule.batch_size": 2 * base.schedule.batch_size}
    runs = {name: dotted.override(base, {"method": name}) for name in dict.fromkeys(("vanilla", *config.methods))}
    trainings = {name: _Training(run) for name, run in {**runs, FLOOR: dotted.override(base, twice)}.items()}
    rounds = [
        {name: each.measure(config.num_steps) for name, each in trainings.items()} for _ in range(config.num_repeats)
    ]
    fastest = {name: _fastest([found[name] for found in rounds]) for name in trainings}
    lines = [HEADER, ("---",) * len(HEADER)]
    lines += [_cells(name, found, fastest["vanilla"], fastest[FLOOR]) for name, found in fastest.items()]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


class _Training:
    """A training whose steps are taken on batches that were loaded before."""

    def __init__(self, config: DistillConfig) -> None:
        device = "cuda" if config.use_gpu else "cpu"
        self.config, self.opened = config, open_inputs(config)
        self.teacher: Teacher | DiffusionTeacher | None = open_teacher(config, self.opened.class_names)
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


def _fastest(found: list[_Measured]) -> _Measured:
    return _Measured(min(one.step for one in found), min(one.load for one in found), found[0].images)


def _cells(name: str, found: _Measured, vanilla: _Measured, floor: _Measured) -> tuple[str, ...]:
    return (
        name,
        f"{1000 * found.step:.1f}",
        f"{found.images / found.step:.0f}",
        f"{found.images / found.load:.0f}",
        f"{found.step / found.load:.1f}",
        f"{found.step / vanilla.step:.2f}",
        f"{found.step / floor.step:.2f}",
    )
