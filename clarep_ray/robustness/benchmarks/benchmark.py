"""What a benchmark is: slices of labelled pictures, a rule that turns logits into answers, and a score."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clarep_ray.data.class_list import ClassList
from clarep_ray.data.sources.files import Listing, image_files
from clarep_ray.data.views import View
from clarep_ray.models.answers import NO_ANSWER


@dataclass(frozen=True, kw_only=True)
class Row:
    """One picture of a slice.

    `labels` are the answers that count as right, in the benchmark's own numbering; most have one. `source` and
    `offset` say where the picture lies.
    """

    key: str
    labels: tuple[int, ...]
    source: str
    offset: int = 0


class Benchmark(ABC):
    """A test set in slices. `classes` are the logits it expects; making one checks its files and label map."""

    name: str
    classes: ClassList
    stored_at_final_size = False
    """Whether its images are published as classifiers get them, so that nothing is cut away."""

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def answer_classes(self) -> ClassList:
        """What the labels of rows, and answers, stand for."""
        return self.classes

    @abstractmethod
    def slices(self) -> tuple[str, ...]:
        """Return the names of the slices, such as corruption/severity, in a fixed order."""

    @abstractmethod
    def rows(self, part: str) -> list[Row]:
        """Return the pictures of a slice in a fixed order; ValueError for an unknown slice."""

    @abstractmethod
    def open(self, row: Row) -> Image.Image:
        """Return an image as it is stored, RGB. Raises RejectedImage for a damaged one."""

    def read(self, row: Row, view: View) -> NDArray[np.uint8]:
        """Return an image (image_size, image_size, 3) as a classifier sees it. Raises RejectedImage."""
        return view.of(self.open(row), self.stored_at_final_size)

    def notes(self) -> list[str]:
        """Return what was passed over when the files were listed, a short line each."""
        return []

    @cached_property
    def answers(self) -> tuple[int, ...]:
        """The answer that each logit stands for; -1 for one that is wrong in any case."""
        return tuple(range(self.num_classes))

    @cached_property
    def considered(self) -> NDArray[np.int64]:
        """The logits that compete for the answer."""
        return np.arange(self.num_classes)

    def predict(self, logits: NDArray[np.floating]) -> NDArray[np.int64]:
        """Return the answers (b,) of logits (b, classes); NO_ANSWER where one of a row is not finite.

        Raises ValueError for another number of classes.
        """
        if logits.ndim != 2 or logits.shape[1] != self.num_classes:
            raise ValueError(f"{self.name}: logits {logits.shape} are not valid; valid: (b, {self.num_classes})")
        best = self.considered[logits[:, self.considered].argmax(1)]
        answers = np.asarray(self.answers, dtype=np.int64)[best]
        return np.where(np.isfinite(logits).all(1), answers, NO_ANSWER)

    def correct(self, part: str, predictions: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Return which answers of a slice are right. Raises ValueError for another number of answers."""
        rows = self.rows(part)
        if len(rows) != len(predictions):
            raise ValueError(f"{self.name}: {part!r} has {len(rows)} pictures, not {len(predictions)}")
        return np.array([int(answer) in row.labels for row, answer in zip(rows, predictions, strict=True)], dtype=bool)

    def score(self, predictions: Mapping[str, NDArray[np.integer]]) -> dict[str, float]:
        """Return the accuracy of every slice and `top1`, their mean, from the answers of each slice.

        Raises ValueError where a slice is missing.
        """
        missing = [part for part in self.slices() if part not in predictions]
        if missing:
            raise ValueError(f"{self.name}: no answers for the slice {missing[0]!r}; valid: all of its slices")
        accuracies = {part: float(self.correct(part, predictions[part]).mean()) for part in self.slices()}
        return {**self.summary(accuracies), **accuracies}

    def summary(self, accuracies: Mapping[str, float]) -> dict[str, float]:
        """Return the figures that stand for the whole benchmark."""
        return {"top1": float(np.mean(list(accuracies.values())))}

    def part_of(self, part: str) -> str:
        """Return the slice's name; ValueError for an unknown one, with the known ones."""
        if part not in self.slices():
            raise ValueError(f"{self.name}: {part!r} is no slice; valid: {', '.join(self.slices())}")
        return part


def folder_of(path: str | None, field: str) -> Path:
    """Return a folder of the config; ValueError, naming the field, where there is none."""
    folder = Path(path or "")
    if not path or not folder.is_dir():
        raise ValueError(f"benchmarks.{field}: {path!r} is not valid; valid: a folder")
    return folder.absolute()


def require_count(name: str, found: int, published: int, partial: bool) -> None:
    """Raise ValueError for other numbers of pictures than published, unless a part was asked for (never for none)."""
    if found == 0 or found > published or (found < published and not partial):
        raise ValueError(
            f"{name}: {found} pictures found, {published} published; complete the folder, or set benchmarks.partial "
            "for figures of a part"
        )


def images_below(folder: Path, listing: Listing) -> list[Path]:
    """Return the image files below a folder, by the rule that sources and trainings list theirs by."""
    return [folder.parent / path for _, path in image_files(folder.parent, folder.name, listing)]
