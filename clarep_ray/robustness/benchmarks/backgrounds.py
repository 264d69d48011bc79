"""The Backgrounds Challenge (Xiao et al. 2021): nine coarse classes, foregrounds on other backgrounds."""

from __future__ import annotations

from functools import cached_property

from clarep_ray.config import BenchmarksConfig
from clarep_ray.data.class_list import ClassList
from clarep_ray.robustness.benchmarks.benchmark import Row, folder_of
from clarep_ray.robustness.benchmarks.imagenet import ImageNetPictures
from clarep_ray.robustness.benchmarks.labels import BACKGROUND_CLASSES, background_answers, class_folders

VARIANTS: dict[str, str] = {
    "original": "original",
    "bg_same": "mixed_same",
    "bg_rand": "mixed_rand",
    "only_fg": "only_fg",
}
"""The paper's four (Table 2) and their folders."""


class Backgrounds(ImageNetPictures):
    """Answers are ImageNet's, mapped to nine classes; one of the 630 labels without a class is wrong.

    How many pictures a variant has is not checked: no source for the number was at hand. All must have equally many.
    """

    name, stored_at_final_size = "backgrounds", True

    def __init__(self, config: BenchmarksConfig) -> None:
        super().__init__(config, folder_of(config.backgrounds, "backgrounds"))
        self._parts = {part: self._read(folder) for part, folder in VARIANTS.items()}
        counts = {part: len(rows) for part, rows in self._parts.items()}
        if 0 in counts.values() or (len(set(counts.values())) > 1 and not config.partial):
            raise ValueError(f"backgrounds: {counts} pictures found; valid: equally many of each variant, not none")

    @cached_property
    def answers(self) -> tuple[int, ...]:
        return background_answers()

    @property
    def answer_classes(self) -> ClassList:
        return ClassList(BACKGROUND_CLASSES)

    def slices(self) -> tuple[str, ...]:
        return tuple(VARIANTS)

    def rows(self, part: str) -> list[Row]:
        return self._parts[self.part_of(part)]

    def _read(self, variant: str) -> list[Row]:
        folder = folder_of(str(self.root / variant / "val"), "backgrounds")
        return self.folder_rows(class_folders(folder, self.answer_classes, self.name, self.config.partial))
