"""The embedded data set's variants: what a background changes, without any download."""

from __future__ import annotations

from PIL import Image

from clarep_ray.config import BenchmarksConfig
from clarep_ray.data.class_list import ClassList
from clarep_ray.data.spurious_digits import CLASS_NAMES, Split, SpuriousDigits
from clarep_ray.robustness.benchmarks.benchmark import Benchmark, Row


class SpuriousDigitsVariants(Benchmark):
    """Each split of `benchmarks.digits_splits` is a slice, whatever `benchmarks.digits.split` says."""

    name, classes, stored_at_final_size = "spurious_digits", ClassList(CLASS_NAMES), True

    def __init__(self, config: BenchmarksConfig) -> None:
        self._pictures = {split: _pictures(config, split) for split in config.digits_splits}

    def slices(self) -> tuple[str, ...]:
        return tuple(self._pictures)

    def rows(self, part: str) -> list[Row]:
        pictures = self._pictures[self.part_of(part)]
        return [
            Row(key=f"{part}-{number:06d}", labels=(pictures[number].label,), source=part, offset=number)
            for number in range(len(pictures))
        ]

    def open(self, row: Row) -> Image.Image:
        return Image.fromarray(self._pictures[row.source][row.offset].image)


def _pictures(config: BenchmarksConfig, split: Split) -> SpuriousDigits:
    digits = config.digits
    return SpuriousDigits(
        split=split, count=digits.count, image_size=digits.image_size, correlation=digits.correlation, seed=digits.seed
    )
