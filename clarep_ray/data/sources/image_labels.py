"""Which class each image of a flat folder has, by the file that came with it."""

from __future__ import annotations

import csv
from pathlib import Path


def read_image_labels(path: str | None) -> dict[str, str]:
    """Return {image name without suffix: class} of a CSV such as Kaggle's `LOC_val_solution.csv`.

    Of the second column the first word counts (there, boxes follow it). Raises ValueError naming the file and the
    line that is wrong.
    """
    try:
        lines = Path(path or "").read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"data.labels_file: {path!r} cannot be read: {error}") from None
    classes: dict[str, str] = {}
    for number, row in enumerate(csv.reader(lines), 1):
        if number == 1 and row[:1] == ["ImageId"]:
            continue
        if len(row) < 2 or not row[1].split():
            raise ValueError(f"data.labels_file: {path!r}, line {number}: {row}; valid: NAME,CLASS")
        classes[Path(row[0]).stem] = row[1].split()[0]
    return classes
