"""ImageNet's validation pictures, ImageNet-ReaL (Beyer et al. 2020), ImageNet-A (2021) and ImageNet-C (2019)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clarep_ray.config import BenchmarksConfig
from clarep_ray.data.class_list import IMAGENET_CLASSES, ClassList, imagenet_wnids
from clarep_ray.data.pixels import MAX_BYTES, open_rgb
from clarep_ray.data.sources.files import Listing, folder_names, only_split
from clarep_ray.data.untrusted import read_json
from clarep_ray.robustness.benchmarks.benchmark import (
    Benchmark,
    Row,
    folder_of,
    images_below,
    require_count,
)
from clarep_ray.robustness.benchmarks.corruptions import (
    CORRUPTIONS,
    corruption_slices,
    corruption_summary,
    mean_corruption_error,
)
from clarep_ray.robustness.benchmarks.labels import IMAGENET_A, class_folders

VALIDATION_IMAGES, IMAGENET_A_IMAGES = 50_000, 7_500
GROUPS = ("blur", "digital", "noise", "weather")
"""Folders of ImageNet-C's archives, which some leave in the tree and some do not."""
VALIDATION_NAME = re.compile(r"ILSVRC2012_val_(\d{8})")


class ImageNetPictures(Benchmark):
    """What ImageNet's benchmarks share: folders of JPEGs, one per wnid."""

    def __init__(self, config: BenchmarksConfig, root: Path) -> None:
        self.root, self.config, self.classes = root, config, ClassList(imagenet_wnids())
        self.listing = Listing()

    def notes(self) -> list[str]:
        return self.listing.lines()

    def open(self, row: Row) -> Image.Image:
        with (self.root / row.source).open("rb") as file:
            return open_rgb(file.read(MAX_BYTES + 1))

    def folder_rows(self, folders: Iterable[tuple[Path, int]]) -> list[Row]:
        """Return the pictures of class folders, keyed by their path."""
        return [
            Row(
                key=path.relative_to(self.root).as_posix(),
                labels=(label,),
                source=path.relative_to(self.root).as_posix(),
            )
            for folder, label in folders
            for path in images_below(folder, self.listing)
        ]


class ClassFolders(ImageNetPictures):
    """Any pictures with a folder per class, one slice: a hundred classes of ImageNet, for one.

    Where a classifier knows more classes, the logits of the folders' alone compete.
    """

    name = "image_folder"

    def __init__(self, config: BenchmarksConfig) -> None:
        super().__init__(config, folder_of(config.image_folder, "image_folder"))
        self.root = only_split(self.root, "benchmarks.image_folder")
        self.classes = ClassList.of_folders(folder_names(self.root, self.listing))
        names = self.classes.names
        self._rows = self.folder_rows((self.root / name, label) for label, name in enumerate(names))
        if not self._rows:
            raise ValueError(f"image_folder: {str(self.root)!r} has no images; valid: CLASS/IMAGE")
        if empty := sorted(set(range(len(names))) - {row.labels[0] for row in self._rows}):
            raise ValueError(f"image_folder: the class folder {names[empty[0]]!r} has no file; remove it")

    def slices(self) -> tuple[str, ...]:
        return ("all",)

    def rows(self, part: str) -> list[Row]:
        self.part_of(part)
        return self._rows


class ImageNetValidation(ImageNetPictures):
    """ImageNet's validation pictures with a folder per wnid, one slice."""

    name = "imagenet"

    def __init__(self, config: BenchmarksConfig) -> None:
        super().__init__(config, folder_of(config.imagenet, "imagenet"))
        self._rows = self.folder_rows(class_folders(self.root, self.classes, self.name, config.partial))
        require_count(self.name, len(self._rows), VALIDATION_IMAGES, config.partial)

    def slices(self) -> tuple[str, ...]:
        return ("val",)

    def rows(self, part: str) -> list[Row]:
        self.part_of(part)
        return self._rows


class ImageNetReal(ImageNetValidation):
    """The validation pictures with all labels that fit; pictures without any are left out of the figure."""

    name = "imagenet_real"

    def __init__(self, config: BenchmarksConfig) -> None:
        super().__init__(config)
        real = _read_real(Path(config.imagenet_real or ""))
        labelled = [(row, real[_number(row) - 1]) for row in self._rows]
        self._rows = [Row(key=row.key, labels=labels, source=row.source) for row, labels in labelled if labels]
        if not self._rows:
            raise ValueError("imagenet_real: not one of the pictures has a label")


class ImageNetA(ImageNetPictures):
    """ImageNet-A's 200 classes; as published, only their logits compete."""

    name = "imagenet_a"

    def __init__(self, config: BenchmarksConfig) -> None:
        super().__init__(config, folder_of(config.imagenet_a, "imagenet_a"))
        self._rows = self.folder_rows(class_folders(self.root, self.classes, self.name, config.partial, IMAGENET_A))
        require_count(self.name, len(self._rows), IMAGENET_A_IMAGES, config.partial)

    @cached_property
    def considered(self) -> NDArray[np.int64]:
        return np.array(IMAGENET_A)

    def slices(self) -> tuple[str, ...]:
        return ("all",)

    def rows(self, part: str) -> list[Row]:
        self.part_of(part)
        return self._rows


class ImageNetAFull(ImageNetA):
    """ImageNet-A with all thousand logits competing: a harder, unofficial protocol."""

    name = "imagenet_a_full1000"

    @cached_property
    def considered(self) -> NDArray[np.int64]:
        return np.arange(self.num_classes)


class ImageNetC(ImageNetPictures):
    """ImageNet-C as stored: fifteen corruptions in five severities, JPEGs of 224 pixels."""

    name, stored_at_final_size = "imagenet_c", True

    def __init__(self, config: BenchmarksConfig) -> None:
        super().__init__(config, folder_of(config.imagenet_c, "imagenet_c"))
        self._folders = {part: self._folder(part) for part in self.slices()}
        self._cached: dict[str, list[Row]] = {}
        if not config.partial:
            require_count(f"{self.name} {self.slices()[0]}", len(self.rows(self.slices()[0])), VALIDATION_IMAGES, False)

    def slices(self) -> tuple[str, ...]:
        return corruption_slices()

    def rows(self, part: str) -> list[Row]:
        if part not in self._cached:
            known = class_folders(self._folders[self.part_of(part)], self.classes, self.name, self.config.partial)
            rows = self.folder_rows(known)
            require_count(f"{self.name} {part}", len(rows), VALIDATION_IMAGES, self.config.partial)
            self._cached = {part: rows}  # one slice at a time: 75 of 50,000 rows would be gigabytes
        return self._cached[part]

    def summary(self, accuracies: Mapping[str, float]) -> dict[str, float]:
        return {**corruption_summary(accuracies), "mce": mean_corruption_error(accuracies)}

    def _folder(self, part: str) -> Path:
        for candidate in (self.root / part, *(self.root / group / part for group in GROUPS)):
            if candidate.is_dir():
                return candidate
        raise ValueError(
            f"imagenet_c: {str(self.root)!r} has no folder {part!r}; valid: all of {', '.join(CORRUPTIONS)}"
        )


def _read_real(path: Path) -> list[tuple[int, ...]]:
    """Return the labels of the 50,000 validation pictures in the order of their numbers."""
    try:
        stored: Any = read_json(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"benchmarks.imagenet_real: {str(path)!r} cannot be read: {error}") from None
    if not isinstance(stored, list) or len(stored) != VALIDATION_IMAGES:
        raise ValueError(
            f"benchmarks.imagenet_real: {str(path)!r} is not valid; valid: {VALIDATION_IMAGES} lists of labels"
        )
    if not all(isinstance(entry, list) and all(type(label) is int for label in entry) for entry in stored):
        raise ValueError(f"benchmarks.imagenet_real: {str(path)!r} is not valid; valid: lists of whole numbers")
    labels = [tuple(entry) for entry in stored]
    if any(not 0 <= label < IMAGENET_CLASSES for entry in labels for label in entry):
        raise ValueError(f"benchmarks.imagenet_real: {str(path)!r} has a label outside 0 to {IMAGENET_CLASSES - 1}")
    return labels


def _number(row: Row) -> int:
    found = VALIDATION_NAME.search(row.source)
    if found is None or not 1 <= int(found[1]) <= VALIDATION_IMAGES:
        raise ValueError(
            f"imagenet_real: {row.source!r} is no validation picture; valid: ILSVRC2012_val_00000001 and on"
        )
    return int(found[1])
