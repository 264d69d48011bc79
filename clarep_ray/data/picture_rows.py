"""Labelled images for training: in memory where they fit, else read when they are needed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clarep_ray.config import DataConfig
from clarep_ray.data.class_list import ClassList, Match
from clarep_ray.data.pixels import WholeImage, open_rgb
from clarep_ray.data.records import RejectedImage, RejectReason, safe_key, shown
from clarep_ray.data.selection import select
from clarep_ray.data.sources import Listed, Source, open_source
from clarep_ray.data.units import decode_picture
from clarep_ray.data.views import View

HELD_BYTES = 4 * 2**30
"""Images that take no more than this are held, encoded or as they were cut: CIFAR-10 takes 0.15 GB, ImageNet100 13."""
CHUNK = 1024
"""Rows after which it is asked whether all will fit."""
Load = Callable[[Listed], NDArray[np.uint8] | bytes]
OF_ONE_SIZE = ("cifar10", "spurious_digits")
"""Sources whose images are stored at their final size: nothing is cut away, and they need no decoder for long."""


@dataclass(frozen=True)
class Pictures:
    """Images by row: labels (n,), what they stand for, the key of each, and a sha256.

    The sha256 is over id, size in bytes and label of every row, and over the bytes of images that are held.
    """

    rows: Sequence[Listed]
    load: Load
    """Return a row's image as it was cut, or its encoded bytes where crops are taken from the whole of it."""
    classes: ClassList
    held: Sequence[NDArray[np.uint8] | bytes] | None
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
        """Keys as an extraction of the same images gives them."""
        return tuple(safe_key(row.id) for row in self.rows)

    @cached_property
    def sha256(self) -> str:
        total = hashlib.sha256()
        for row in self.rows:
            total.update(f"{row.id}\0{row.size}\0{row.label}\n".encode())
        for item in self.held or ():
            total.update(item if isinstance(item, bytes) else item.data)
        return total.hexdigest()

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, row: int) -> NDArray[np.uint8]:
        """Return one image (h, w, 3) as it was cut, a whole one whole; ValueError naming it where it cannot be read."""
        found = self.whole(row)
        return found.pixels() if isinstance(found, WholeImage) else found

    def whole(self, row: int) -> NDArray[np.uint8] | WholeImage:
        """Return one image to take a random crop from; errors as `read`, of an encoded one when it is decoded."""
        found = self.load(self.rows[row]) if self.held is None else self.held[row]
        return WholeImage(found, self.rows[row].id) if isinstance(found, bytes) else found


def open_pictures(
    config: DataConfig,
    view: View | None,
    known: ClassList | None = None,
    name: str = "data",
    held_bytes: int = HELD_BYTES,
) -> Pictures:
    """Return the images a config selects, in their order: made by a view, or whole where `view` is None.

    Whole images are held as they are encoded; those of sources of one size are pixels in any case. `known` are the only
    classes there may be; labels become theirs. Raises ValueError, naming the first, for an image of an unknown class,
    and, of those that are held, for one that cannot be read.
    """
    with _called(name):
        source = open_source(config, known, "the training set")
        rows = select(source.rows(), config, source.classes)
    unknown = [row for row in rows if row.label < 0]
    if unknown:
        row, count = unknown[0], len(unknown)
        what = "no label" if row.reason == RejectReason.UNLABELLED else f"the unknown class {shown(row.class_name)!r}"
        raise ValueError(
            f"{name}: {row.id!r} has {what} ({count} of {len(rows)} images); {name}.classes chooses others"
        )
    encoded = view is None and config.source not in OF_ONE_SIZE
    load = partial(_encoded, source) if encoded else partial(_cut, source, view, config)
    held = None
    if encoded or view is None or len(rows) * 3 * view.image_size**2 <= held_bytes:
        held = _held(load, rows, held_bytes)
    root = source.root if config.path else None
    return Pictures(rows, load, source.classes, held, source.match, root, tuple(source.notes()))


@contextmanager
def _called(name: str) -> Generator[None]:
    """Name the user's own setting, `val.path`, say, in errors of a source, which knows its settings as `data`."""
    try:
        yield
    except ValueError as error:
        if name == "data" or not str(error).startswith("data."):
            raise
        raise type(error)(f"{name}{str(error).removeprefix('data')}") from None


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


def _encoded(source: Source, row: Listed) -> bytes:
    return source.read(row.source, row.offset, row.size)


def _held(load: Load, rows: Sequence[Listed], limit: int) -> list[NDArray[np.uint8] | bytes] | None:
    """Return what is loaded of all rows, each checked; None as soon as it is going to take more than `limit` bytes."""
    held, total = list[NDArray[np.uint8] | bytes](), 0
    with ThreadPoolExecutor(2) as pool:
        for start in range(0, len(rows), CHUNK):
            chunk = rows[start : start + CHUNK]
            held += pool.map(load, chunk)
            total += sum(len(item) if isinstance(item, bytes) else item.nbytes for item in held[start:])
            if total * len(rows) > limit * len(held):
                return None
            list(pool.map(_check, chunk, held[start:]))
    return held


def _check(row: Listed, item: NDArray[np.uint8] | bytes) -> None:
    """Decode an encoded image once: what cannot be read ends a training before it begins."""
    if isinstance(item, bytes):
        WholeImage(item, row.id).check()


def _cut(source: Source, view: View | None, config: DataConfig, row: Listed) -> NDArray[np.uint8]:
    data = source.read(row.source, row.offset, row.size)
    try:
        if config.source == "spurious_digits":  # its bytes are pixels
            image = Image.fromarray(decode_picture(data, config.digits.image_size, config))
        else:
            image = open_rgb(data)
        return np.asarray(image if view is None else view.of(image, config.source in OF_ONE_SIZE))
    except RejectedImage as rejected:
        raise ValueError(f"data: {row.id!r} is no usable image: {rejected.reason.value}") from None
