"""Benchmarks by name, each checked when it is opened."""

from __future__ import annotations

from collections.abc import Callable

from clarep_ray.config import BenchmarksConfig
from clarep_ray.robustness.benchmarks.backgrounds import Backgrounds
from clarep_ray.robustness.benchmarks.benchmark import Benchmark, Row
from clarep_ray.robustness.benchmarks.cifar import Cifar10C, Cifar10Test
from clarep_ray.robustness.benchmarks.digits import SpuriousDigitsVariants
from clarep_ray.robustness.benchmarks.imagenet import (
    ClassFolders,
    ImageNetA,
    ImageNetAFull,
    ImageNetC,
    ImageNetReal,
    ImageNetValidation,
)

__all__ = ["BENCHMARKS", "Benchmark", "Row", "open_benchmark"]

BENCHMARKS: dict[str, Callable[[BenchmarksConfig], Benchmark]] = {
    kind.name: kind
    for kind in (
        *(SpuriousDigitsVariants, ClassFolders, Cifar10Test, Cifar10C, ImageNetValidation, ImageNetC),
        *(ImageNetA, ImageNetAFull, ImageNetReal, Backgrounds),
    )
}


def open_benchmark(name: str, config: BenchmarksConfig) -> Benchmark:
    """Return a benchmark after checking its files, counts and label map; ValueError with what is wrong."""
    if name not in BENCHMARKS:
        raise ValueError(f"benchmarks.names: {name!r} is unknown; valid: {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name](config)
