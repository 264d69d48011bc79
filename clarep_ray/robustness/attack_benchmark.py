"""Our attacks against the loop over torchattacks at the same budgets, in one run: speed and robust accuracy."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from clarep_ray.config import (
    ApgdConfig,
    AttackBenchmarkConfig,
    AttacksConfig,
    BenchmarksConfig,
    ClassifierConfig,
    CwConfig,
    DigitsConfig,
    PgdConfig,
    SquareConfig,
)
from clarep_ray.measured import Cell, Spread, Table
from clarep_ray.robustness.attack import Attack
from clarep_ray.robustness.attacks import Running, build_attack
from clarep_ray.robustness.benchmarks import open_benchmark
from clarep_ray.robustness.classifier import load_classifier
from clarep_ray.robustness.evaluate import to_unit_range
from clarep_ray.robustness.torchattacks_as_published import require_torchattacks

COLUMNS = {
    "eps": "g",
    "attack": "",
    "samples/s": ".0f",
    "torchattacks, samples/s": ".0f",
    "ratio": ".2f",
    "robust": ".4f",
    "torchattacks, robust": ".4f",
    "calls": ".1f",
    "torchattacks, calls": ".1f",
}
WARM_UP = 8


@dataclass(frozen=True)
class _Pictures:
    model: nn.Module
    images: Float[Tensor, " n c h w"]
    labels: Int[Tensor, " n"]
    keys: list[str]


@dataclass(frozen=True)
class _Measured:
    seconds: float
    robust: Bool[Tensor, " n"]
    calls: float
    """Gradients, and forward passes without one, of a picture in the mean; torchattacks tells its settings alone."""


def run(config: AttackBenchmarkConfig) -> list[Table]:
    """Return samples per second of CPU time, their ratio, robust accuracies and network calls per picture.

    Ours is called as an actor calls it, all pictures at once in padded micro-batches; torchattacks once per batch.
    Speeds are those of the fastest turn; the ratio is one of each turn.
    """
    require_torchattacks()
    torch.set_num_threads(1)
    pictures = _pictures(config.num_samples)
    rows: list[tuple[Cell, ...]] = []
    for eps in config.eps_255:
        settings = _settings(config, eps)
        for name in config.names:
            ours = build_attack(name, settings, Running(micro_batch=config.batch_size, padded=True))
            theirs = build_attack(name, replace(settings, implementation="torchattacks"))
            for attack in (ours, theirs):  # lazy imports are nobody's speed
                _whole(pictures, attack, WARM_UP)
            runs: list[tuple[_Measured, _Measured]] = []
            for _ in range(config.num_repeats):
                first = _measure(lambda ours=ours: [_whole(pictures, ours, config.num_samples)])
                second = _measure(lambda theirs=theirs: _batches(pictures, theirs, config.batch_size))
                runs.append((first, second))
            rows.append(_row(eps, name, config.num_samples, runs))
    return [Table(COLUMNS, rows)]


def _pictures(count: int) -> _Pictures:
    benchmark = open_benchmark(
        "spurious_digits", BenchmarksConfig(digits=DigitsConfig(count=count), digits_splits=("test",))
    )
    rows = benchmark.rows("test")
    return _Pictures(
        load_classifier(ClassifierConfig()),
        to_unit_range(np.stack([benchmark.read(row) for row in rows])),
        torch.tensor([row.labels[0] for row in rows]),
        [row.key for row in rows],
    )


def _settings(config: AttackBenchmarkConfig, eps_255: float) -> AttacksConfig:
    return AttacksConfig(
        eps_255=eps_255,
        pgd=PgdConfig(num_steps=config.num_steps, step_relative=0.2),
        cw=CwConfig(num_steps=config.num_steps, c=0.2),
        apgd=ApgdConfig(num_steps=config.num_steps),
        square=SquareConfig(num_queries=config.num_queries),
    )


Verdict = tuple[Tensor, Tensor]
"""Which pictures stand (b,), and gradients and queries of each (b,)."""


def _whole(pictures: _Pictures, attack: Attack, stop: int, start: int = 0) -> Verdict:
    some = slice(start, stop)
    result = attack(pictures.model, pictures.images[some], pictures.labels[some], pictures.keys[some])
    return ~result.success, result.num_gradients + result.num_queries


def _batches(pictures: _Pictures, attack: Attack, size: int) -> list[Verdict]:
    total = len(pictures.images)
    return [_whole(pictures, attack, min(start + size, total), start) for start in range(0, total, size)]


def _measure(run: Callable[[], list[Verdict]]) -> _Measured:
    began = time.process_time()
    verdicts = run()
    seconds = time.process_time() - began
    robust, calls = (torch.cat(part) for part in zip(*verdicts, strict=True))
    return _Measured(seconds, robust, float(calls.double().mean()))


def _row(eps: float, name: str, count: int, runs: Sequence[tuple[_Measured, _Measured]]) -> tuple[Cell, ...]:
    ours, theirs = (min(side, key=lambda run: run.seconds) for side in zip(*runs, strict=True))
    return (
        eps,
        name,
        *(count / one.seconds for one in (ours, theirs)),
        Spread.of([second.seconds / first.seconds for first, second in runs]),
        *(float(one.robust.float().mean()) for one in (ours, theirs)),
        *(one.calls for one in (ours, theirs)),
    )
