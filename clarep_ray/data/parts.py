"""Results of a calibration on disk: one file of arrays for each piece of work, whole or not there."""

from __future__ import annotations

import glob
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from clarep_ray.data.durable import make_folder
from clarep_ray.data.inside import file_inside, has_file_inside, refuse_links, write_inside
from clarep_ray.data.sealed import as_damage

PARTS, LABELS = "parts", "labels"


PART = re.compile(r"\.[0-9]{5,9}\.safetensors", re.ASCII)


@dataclass(frozen=True)
class Parts:
    """A folder of safetensors files `<group>.<number>.safetensors` in an output; rows of a group follow its numbers."""

    output: Path

    @property
    def folder(self) -> Path:
        """The parts' own folder; NotInside where that is a link."""
        return refuse_links(self.output, PARTS)

    def write(self, group: str, number: int, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write one part under its final name in one step."""
        make_folder(self.output)
        plain = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        data = save(plain, {name: _sha256(array) for name, array in plain.items()})
        write_inside(self.output, _name(group, number), data)

    def has(self, group: str, number: int) -> bool:
        return has_file_inside(self.output, _name(group, number))

    def column(self, group: str, name: str) -> NDArray[Any]:
        """Return one array of a group, its parts one after another; nothing else is read.

        Raises ValueError where the group has no part, DamagedPart where one is not what was written.
        """
        return np.concatenate([_read(path, [name])[name] for path in self._of(group)])

    def names(self, group: str) -> list[str]:
        """Return the names of a group's arrays."""
        path = self._of(group)[0]
        with as_damage(path):
            return list(_arrays_of(path))

    def first(self, group: str) -> tuple[int, dict[str, NDArray[Any]]]:
        """Return the number of a group's first part and all its arrays."""
        path = self._of(group)[0]
        return int(path.name.split(".")[-2]), _read(path)

    def _of(self, group: str) -> list[Path]:
        paths = sorted(self.folder.glob(f"{glob.escape(group)}.[0-9]*.safetensors"))
        found = [path for path in paths if PART.fullmatch(path.name.removeprefix(group))]
        if not found:
            raise ValueError(f"{self.folder}: no part of {group!r}: none of its pictures can be read")
        for path in found:
            with as_damage(path):
                file_inside(self.output, f"{PARTS}/{path.name}")
        return found


def _name(group: str, number: int) -> str:
    return f"{PARTS}/{group}.{number:05d}.safetensors"


def _read(path: Path, names: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
    """Return arrays of a part, or all; DamagedPart where they are not those that were written."""
    found: dict[str, NDArray[Any]] = {}
    with as_damage(path):
        hashes = _arrays_of(path)
        with safe_open(path, framework="numpy") as file:
            for name in hashes if names is None else names:
                found[name] = file.get_tensor(name)
                if _sha256(found[name]) != hashes[name]:
                    raise ValueError(f"{name!r} does not match its hash")
    return found


def _arrays_of(path: Path) -> dict[str, str]:
    """Return the names of a part's arrays and their hashes; ValueError where it says others than it has."""
    try:
        with safe_open(path, framework="numpy") as file:
            hashes, names = file.metadata() or {}, set(file.keys())
    except SafetensorError as error:
        raise ValueError(str(error)) from None
    except (OSError, MemoryError) as error:
        raise ValueError(str(error)) from None
    if hashes.keys() != names:
        raise ValueError(f"it has {sorted(names)} and the hashes of {sorted(hashes)}")
    return hashes


def _sha256(array: NDArray[Any]) -> str:
    return hashlib.sha256(f"{array.dtype.str} {array.shape}".encode() + array.tobytes()).hexdigest()
