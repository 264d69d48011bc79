"""Labelled pictures for training: in memory where they fit, else read when they are needed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clarep_ray.config import DataConfig
from clarep_ray.data.class_list import ClassList, Match
from clarep_ray.data.records import RejectedImage, RejectReason, safe_key, shown
from clarep_ray.data.selection import select
from clarep_ray.data.sources import Listed, Source, open_source
from clarep_ray.data.units import decode_picture

HELD_BYTES = 4 * 2**30
"""Pictures that take no more than this are decoded once and held: CIFAR-10 takes 0.15 GB, ImageNet100 25."""


@dataclass(frozen=True)
class Pictures:
    """Pictures with sides of `size` pixels by row: labels (n,), what they stand for, the key of each, and a sha256.

    The sha256 is over id, size in bytes and label of every row, and over the bytes of pictures that are held.
    """

    rows: Sequence[Listed]
    decode: Callable[[Listed], NDArray[np.uint8]]
    size: int
    classes: ClassList
    held: NDArray[np.uint8] | None
    match: Match | None = None
    """How the input's own classes became `classes`; None where these are its own, or nothing names its labels."""
    root: Path | None = None
    """Folder that the rows' sources are relative to, None for images that are no files."""
    notes: tuple[str, ...] = ()
    """What the reader chose by itself and passed over, and how classes were matched."""

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.classes.names

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        return np.array([row.label for row in self.rows], np.int64)

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """Keys as an extraction of the same pictures gives them."""
        return tuple(safe_key(row.id) for row in self.rows)

    @cached_property
    def sha256(self) -> str:
        total = hashlib.sha256()
        for row in self.rows:
            total.update(f"{row.id}\0{row.size}\0{row.label}\n".encode())
        if self.held is not None:
            total.update(self.held.data)
        return total.hexdigest()

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, row: int) -> NDArray[np.uint8]:
        """Return one picture (h, w, 3); ValueError naming it where it cannot be read."""
        return self.decode(self.rows[row]) if self.held is None else self.held[row]


def open_pictures(
    config: DataConfig, size: int, known: ClassList | None = None, name: str = "data", held_bytes: int = HELD_BYTES
) -> Pictures:
    """Return the pictures a config selects, in their order.

    `known` are the only classes there may be; labels become theirs. Raises ValueError, naming the first, for a picture
    of an unknown class, and, of those that are held, for one that cannot be read.
    """
    source = open_source(config, known, "the training set")
    rows = select(source.rows(), config, source.classes)
    unknown = [row for row in rows if row.label < 0]
    if unknown:
        row, count = unknown[0], len(unknown)
        what = "no label" if row.reason == RejectReason.UNLABELLED else f"the unknown class {shown(row.class_name)!r}"
        raise ValueError(
            f"{name}: {row.id!r} has {what} ({count} of {len(rows)} images); {name}.classes chooses others"
        )
    decode = partial(_decode, source, size, config)
    held = None
    if len(rows) * size * size * 3 <= held_bytes:
        with ThreadPoolExecutor(2) as pool:
            held = np.stack(list(pool.map(decode, rows)))
    root = source.root if config.path else None
    return Pictures(rows, decode, size, source.classes, held, source.match, root, tuple(source.notes()))


def check_apart(images: Pictures, val: Pictures) -> None:
    """Raise ValueError where images to measure accuracy on are files that are trained on."""
    if images.root is None or val.root is None:
        return
    trained = {(str(images.root / row.source), row.offset) for row in images.rows}
    shared = [row for row in val.rows if (str(val.root / row.source), row.offset) in trained]
    if shared:
        raise ValueError(
            f"val.path: {len(shared)} of its {len(val)} images are those of data.path, first: {shared[0].id!r}; "
            "valid: other files, or another val.split"
        )


def _decode(source: Source, size: int, config: DataConfig, row: Listed) -> NDArray[np.uint8]:
    try:
        return decode_picture(source.read(row.source, row.offset, row.size), size, config)
    except RejectedImage as rejected:
        raise ValueError(f"data: {row.id!r} is no usable picture: {rejected.reason.value}") from None
