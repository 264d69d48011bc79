"""CIFAR-10's test pictures and CIFAR-10-C (Hendrycks and Dietterich 2019)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clarep_ray.config import BenchmarksConfig
from clarep_ray.data.cifar10 import CIFAR10_NAMES, Cifar10Files
from clarep_ray.data.class_list import ClassList
from clarep_ray.data.untrusted import check_plain_file
from clarep_ray.robustness.benchmarks.benchmark import Benchmark, Row, folder_of, require_count
from clarep_ray.robustness.benchmarks.corruptions import (
    CORRUPTIONS,
    NUM_SEVERITIES,
    corruption_slices,
    corruption_summary,
)

TEST_IMAGES, SIDE = 10_000, 32


class Cifar10Test(Benchmark):
    """CIFAR-10's test split from its python batches, one slice."""

    name, classes, stored_at_final_size = "cifar10", ClassList(CIFAR10_NAMES), True

    def __init__(self, config: BenchmarksConfig) -> None:
        self._files = Cifar10Files(folder_of(config.cifar10, "cifar10"), "test")
        self._rows = [
            Row(key=f"cifar10-test-{number:05d}", labels=(label,), source=name, offset=number)
            for name, number, label in self._files.labels()
        ]
        require_count(self.name, len(self._rows), TEST_IMAGES, config.partial)
        _require_labels(np.array([row.labels[0] for row in self._rows]), self.name)

    def slices(self) -> tuple[str, ...]:
        return ("test",)

    def rows(self, part: str) -> list[Row]:
        self.part_of(part)
        return self._rows

    def open(self, row: Row) -> Image.Image:
        return Image.fromarray(self._files.batch(row.source).images[row.offset])


class Cifar10C(Benchmark):
    """Fifteen corruptions in five severities, the rows of a severity in one block of each file."""

    name, classes, stored_at_final_size = "cifar10_c", ClassList(CIFAR10_NAMES), True

    def __init__(self, config: BenchmarksConfig) -> None:
        self.root = folder_of(config.cifar10_c, "cifar10_c")
        self._labels = self._checked_labels(config.partial)
        for corruption in CORRUPTIONS:
            self._open(corruption)

    @cached_property
    def _arrays(self) -> dict[str, NDArray[np.uint8]]:
        return {}

    def slices(self) -> tuple[str, ...]:
        return corruption_slices()

    def rows(self, part: str) -> list[Row]:
        corruption, severity = self.part_of(part).split("/")
        first = (int(severity) - 1) * len(self._labels)
        return [
            Row(key=f"{corruption}-{severity}-{i:05d}", labels=(label,), source=corruption, offset=first + i)
            for i, label in enumerate(self._labels.tolist())
        ]

    def open(self, row: Row) -> Image.Image:
        return Image.fromarray(np.array(self._open(row.source)[row.offset]))

    def summary(self, accuracies: Mapping[str, float]) -> dict[str, float]:
        return corruption_summary(accuracies)

    def _open(self, corruption: str) -> NDArray[np.uint8]:
        if corruption not in self._arrays:
            stored = _load(self.root / f"{corruption}.npy")
            shape = (NUM_SEVERITIES * len(self._labels), SIDE, SIDE, 3)
            if stored.dtype != np.uint8 or stored.shape != shape:
                raise ValueError(
                    f"{self.name}: {corruption}.npy is {stored.dtype} {stored.shape}; valid: uint8 {shape}"
                )
            self._arrays[corruption] = stored
        return self._arrays[corruption]

    def _checked_labels(self, partial: bool) -> NDArray[np.int64]:
        """Return the labels of one severity; ValueError where the five blocks of labels.npy are not the same."""
        found = _load(self.root / "labels.npy")
        few = found.ndim == 1 and 0 < len(found) <= NUM_SEVERITIES * TEST_IMAGES
        if found.dtype.kind not in "iu" or not few or len(found) % NUM_SEVERITIES:
            raise ValueError(f"{self.name}: labels.npy is {found.dtype} {found.shape}; valid: five equal blocks")
        stored = np.asarray(found, dtype=np.int64)
        blocks = stored.reshape(NUM_SEVERITIES, -1)
        if (blocks != blocks[0]).any():
            raise ValueError(f"{self.name}: the five blocks of labels.npy are not the same")
        require_count(self.name, blocks.shape[1], TEST_IMAGES, partial)
        _require_labels(blocks[0], self.name)
        return blocks[0]


def _load(path: Path) -> NDArray[Any]:
    try:
        check_plain_file(path)
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"benchmarks.cifar10_c: {str(path)!r} cannot be read: {error}") from None


def _require_labels(labels: NDArray[np.integer], name: str) -> None:
    if labels.min() < 0 or labels.max() >= len(CIFAR10_NAMES):
        raise ValueError(
            f"{name}: labels from {labels.min()} to {labels.max()} are not valid; valid: 0 to {len(CIFAR10_NAMES) - 1}"
        )
