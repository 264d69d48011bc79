"""What every input source shares: the rows it lists, how they are read, and what their labels mean."""

from __future__ import annotations

import hashlib
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from clarep_ray.config import DataConfig
from clarep_ray.data.class_list import UNKNOWN, ClassList, Match, match
from clarep_ray.data.sources.files import Listing

NO_LABEL = -1
"""A label of an input that is none: Hugging Face's, in test splits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """One input before selection: as InputRow, without hash and ordinal; `reason` where it can never be read.

    A listing of ImageNet holds 1.28 million of them: slots, and one string for id and source where they are equal.
    """

    id: str
    source: str
    offset: int
    size: int
    label: int
    class_name: str
    reason: str = ""


class Source(ABC):
    """Where inputs come from; `root` is the folder that sources of its rows are relative to, where they are files.

    `classes` is what the labels of its rows stand for: those it was opened with, else its own. `match` says how the
    input's own classes became them: None where it has none (label numbers alone), or was opened with none.
    """

    root = Path()

    def __init__(self) -> None:
        self.listing = Listing()

    @cached_property
    def labels(self) -> Labels:
        """How the input's labels become those of its rows; raises as `find_labels`."""
        return self.find_labels()

    @property
    def classes(self) -> ClassList:
        return self.labels.classes

    @property
    def match(self) -> Match | None:
        return self.labels.match

    def notes(self) -> list[str]:
        """Return what the listing chose by itself and passed over, and how classes were matched, a short line each."""
        if self.match is not None:
            return [*self.listing.lines(), self.match.describe()]
        if self.labels.own is None:
            count = len(self.classes)
            return [*self.listing.lines(), f"labels are numbers, 0 to {count - 1}: nothing in the input names them"]
        return self.listing.lines()

    @abstractmethod
    def find_labels(self) -> Labels:
        """Read what the input's labels stand for; ValueError where nothing says so, ClassMismatch as `match`."""

    @abstractmethod
    def rows(self) -> Iterator[Listed]:
        """List every input in a fixed order; ValueError where the input cannot be used at all."""

    @abstractmethod
    def read(self, source: str, offset: int, size: int) -> bytes:
        """Return the encoded image of one row."""

    def head(self, source: str, offset: int, size: int) -> bytes:
        """Return the first bytes of one row, enough to see that it is no image."""
        return self.read(source, offset, size)[:16]

    def sha256(self, source: str, offset: int, size: int) -> str:
        """Return the sha256 of the bytes of one row."""
        return hashlib.sha256(self.read(source, offset, size)).hexdigest()


def root_folder(config: DataConfig) -> Path:
    """Return `data.path` as an absolute folder; ValueError where it is none."""
    root = Path(config.path or "")
    if not root.is_dir():
        raise ValueError(f"data.path: {config.path!r} is not a folder")
    return root.absolute()


@dataclass(frozen=True)
class Labels:
    """How the label numbers of an input, and the names of their classes, become those of its rows.

    `own` is None for an input of numbers that nothing names.
    """

    classes: ClassList
    own: ClassList | None = None
    match: Match | None = None

    @staticmethod
    def of(own: ClassList, known: ClassList | None, owner: str, reader: str) -> Labels:
        """Return how an input's own classes become known ones; raises as `class_list.match` does."""
        if known is None:
            return Labels(own, own)
        return Labels(known, own, match(own, known, owner, reader))

    def __call__(self, number: int) -> tuple[int, str]:
        """Return (label, class name) of a label number of the input; UNKNOWN where there is no such class."""
        if number < 0 or number >= len(self.own or self.classes):
            return UNKNOWN, sys.intern(str(number))
        label = number if self.match is None else self.match.labels[number]
        if label == UNKNOWN or (self.own is not None and self.own.named and not self.classes.named):
            return label, (self.own or self.classes).names[number]
        return label, self.classes.names[label]
