"""Which class each image of a flat folder has, by the file that came with it."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from clarep_ray.data.sources.imagenet_devkit import STEM, devkit_file, read_devkit
from clarep_ray.data.untrusted import read_text


@dataclass(frozen=True)
class ImageLabels:
    """{image name without suffix: class}; where `complete_for` is set, every image whose name starts so is in it."""

    classes: dict[str, str]
    complete_for: str | None = None


def read_image_labels(path: str | None) -> ImageLabels:
    """Return the classes of a CSV such as Kaggle's `LOC_val_solution.csv`, or of ImageNet's devkit.

    The devkit is named by its folder, or by its ground-truth file with meta.mat beside it. Raises ValueError naming
    the file and what is wrong.
    """
    devkit = devkit_file(Path(path or ""))
    return ImageLabels(_read_csv(path)) if devkit is None else ImageLabels(read_devkit(devkit), STEM)


def _read_csv(path: str | None) -> dict[str, str]:
    """Return {image name without suffix: class}; of the second column the first word counts (boxes follow it)."""
    try:
        lines = read_text(Path(path or "")).splitlines()
    except (OSError, ValueError) as error:
        raise ValueError(f"data.labels_file: {path!r} cannot be read: {error}") from None
    classes: dict[str, str] = {}
    for number, row in enumerate(csv.reader(lines), 1):
        if number == 1 and row[:1] == ["ImageId"]:
            continue
        if len(row) < 2 or not row[1].split():
            raise ValueError(f"data.labels_file: {path!r}, line {number}: {row}; valid: NAME,CLASS")
        classes[Path(row[0]).stem] = row[1].split()[0]
    return classes
