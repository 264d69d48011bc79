"""What every input source shares: the rows it lists, how they are read, and what their labels mean."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from clarep_ray.config import DataConfig
from clarep_ray.data.untrusted import check_plain_file

UNKNOWN = -1


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


class Source(Protocol):
    """Where inputs come from. `class_names` is what label numbers stand for; empty where nothing says so."""

    class_names: tuple[str, ...]

    def rows(self) -> Iterator[Listed]:
        """List every input in a fixed order; ValueError where the input cannot be used at all."""
        ...

    def read(self, source: str, offset: int, size: int) -> bytes:
        """Return the encoded image of one row."""
        ...

    def sha256(self, source: str, offset: int, size: int) -> str:
        """Return the sha256 of the bytes of one row."""
        return hashlib.sha256(self.read(source, offset, size)).hexdigest()


def root_folder(config: DataConfig) -> Path:
    """Return `data.path` as an absolute folder; ValueError where it is none."""
    root = Path(config.path or "")
    if not root.is_dir():
        raise ValueError(f"data.path: {config.path!r} is not a folder")
    return root.absolute()


def files_below(root: Path, suffix: str) -> list[Path]:
    """Return the files below `root` with a suffix, in order; folders may have it too (Spark's do) and are not read.

    Raises ValueError where there is none, or naming one that is neither: a pipe, or a link that leads nowhere.
    """
    found = [path for path in sorted(root.rglob(f"*{suffix}")) if not path.is_dir()]
    for path in found:
        check_plain_file(path)
    if not found:
        raise ValueError(f"data.path: {str(root)!r} has no {suffix} files")
    return found


def known_label(label: int, class_names: Sequence[str]) -> int:
    """Return the label, or UNKNOWN where it stands for none of the classes."""
    outside = label < 0 or (bool(class_names) and label >= len(class_names))
    return UNKNOWN if outside else label


def class_of(label: int, class_names: Sequence[str]) -> str:
    """Return the class of a label, or its number where nothing says what it stands for."""
    return class_names[label] if 0 <= label < len(class_names) else sys.intern(str(label))
