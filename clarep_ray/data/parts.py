"""Results of a calibration on disk: one file of arrays for each piece of work, whole or not there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save

from clarep_ray.data.durable import make_folder, write_file

LABELS = "labels"


@dataclass(frozen=True)
class Parts:
    """A folder of safetensors files `<group>.<number>.safetensors`; rows of a group follow its numbers."""

    folder: Path

    def path(self, group: str, number: int) -> Path:
        return self.folder / f"{group}.{number:05d}.safetensors"

    def write(self, group: str, number: int, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write one part under its final name in one step."""
        make_folder(self.folder)
        data = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
        write_file(self.path(group, number), data)

    def has(self, group: str, number: int) -> bool:
        return self.path(group, number).is_file()

    def column(self, group: str, name: str) -> NDArray[Any]:
        """Return one array of a group, its parts one after another; nothing else is read.

        Raises ValueError where the group has no part.
        """
        parts: list[NDArray[Any]] = []
        for path in self._of(group):
            with safe_open(path, framework="numpy") as file:
                parts.append(file.get_tensor(name))
        return np.concatenate(parts)

    def names(self, group: str) -> list[str]:
        """Return the names of a group's arrays."""
        with safe_open(self._of(group)[0], framework="numpy") as file:
            return list(file.keys())

    def first(self, group: str) -> tuple[int, dict[str, NDArray[Any]]]:
        """Return the number of a group's first part and all its arrays."""
        path = self._of(group)[0]
        with safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
        return int(path.name.split(".")[-2]), arrays

    def _of(self, group: str) -> list[Path]:
        found = sorted(self.folder.glob(f"{group}.[0-9]*.safetensors"))
        if not found:
            raise ValueError(f"{self.folder}: no part of {group!r}: none of its pictures can be read")
        return found
