"""All pictures of an input in memory, as training needs them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clarep_ray.config import DataConfig
from clarep_ray.data.class_list import ClassList
from clarep_ray.data.records import RejectedImage, RejectReason
from clarep_ray.data.selection import select
from clarep_ray.data.sources import Listed, Source, open_source
from clarep_ray.data.units import decode_picture


@dataclass(frozen=True)
class LabelledPictures:
    """Pictures (n, h, w, 3) uint8, labels (n,), what the labels stand for, and the sha256 of pictures and labels."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    sha256: str
    notes: tuple[str, ...] = ()
    """What the reader chose by itself and passed over, and how classes were matched."""


def read_pictures(config: DataConfig, image_size: int, known_classes: Sequence[str] = ()) -> LabelledPictures:
    """Return the pictures a config selects, in their order, with sides of `image_size` pixels.

    `known_classes` are the only classes there may be, in the order of their labels; empty: those of the input.
    Raises ValueError naming the first picture that cannot be read or has no known class: a training on what is
    left would be another one.
    """
    source = open_source(config, ClassList(tuple(known_classes)) if known_classes else None, "the network")
    rows = select(source.rows(), config, source.classes)
    images = np.empty((len(rows), image_size, image_size, 3), np.uint8)
    for number, row in enumerate(rows):
        images[number] = _read(source, row, image_size, config)
    labels = np.array([row.label for row in rows], dtype=np.int64)
    digest = hashlib.sha256(images.data)
    digest.update(labels.data)
    return LabelledPictures(images, labels, source.classes.names, digest.hexdigest(), tuple(source.notes()))


def _read(source: Source, row: Listed, image_size: int, config: DataConfig) -> NDArray[np.uint8]:
    if row.reason == RejectReason.UNLABELLED:
        raise ValueError(f"data: {row.id!r} has no label")
    if row.label < 0:
        raise ValueError(f"data: {row.id!r} has the unknown class {row.class_name!r}")
    if row.reason:
        raise ValueError(f"data: {row.id!r} is no usable picture: {row.reason}")
    try:
        return decode_picture(source.read(row.source, row.offset, row.size), image_size, config)
    except RejectedImage as rejected:
        raise ValueError(f"data: {row.id!r} is no usable picture: {rejected.reason.value}") from None
