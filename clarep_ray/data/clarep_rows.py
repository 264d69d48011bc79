"""Pictures and features of an extraction by row, read from the shards when asked for and kept within bounds."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clarep_ray.data.clarep_members import damaged
from clarep_ray.data.inside import handle_inside
from clarep_ray.data.pixels import open_rgb
from clarep_ray.data.records import RejectedImage
from clarep_ray.data.shards import read_npy

FEATURES_IN_MEMORY = 256 * 2**20
"""Features up to this size are loaded as one matrix; larger ones are read by row [bytes]."""
PICTURES_IN_MEMORY = 256 * 2**20
"""Decoded pictures that are kept, the least recently used dropped first [bytes]."""
OPEN_SHARDS = 64
"""Shards that stay open, the least recently used closed first."""


class _Cache:
    """The values used last, up to a total weight. Several threads may use it."""

    def __init__(self, capacity: int) -> None:
        self._capacity, self._weight, self._lock = capacity, 0, threading.Lock()
        self._kept: OrderedDict[Any, tuple[Any, int]] = OrderedDict()

    def get(self, key: Any) -> Any:
        with self._lock:
            if key not in self._kept:
                return None
            self._kept.move_to_end(key)
            return self._kept[key][0]

    def put(self, key: Any, value: Any, weight: int) -> None:
        with self._lock:
            self._weight += weight - self._kept.pop(key, (None, 0))[1]
            self._kept[key] = (value, weight)
            while self._weight > self._capacity:
                self._weight -= self._kept.popitem(last=False)[1][1]


class _File:
    """An open shard, closed when nobody holds it any more."""

    def __init__(self, folder: Path, name: str) -> None:
        self.handle = handle_inside(folder, name)

    def __del__(self) -> None:
        if hasattr(self, "handle"):
            os.close(self.handle)


class ShardFiles:
    """Shards of an output, of which the ones used last stay open."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._open = folder, _Cache(OPEN_SHARDS)

    def read(self, name: str, offset: int, size: int) -> bytes:
        file = self._open.get(name)
        try:
            if file is None:
                file = _File(self.folder, name)
                self._open.put(name, file, 1)
            data = os.pread(file.handle, size, offset)  # has no position: threads and forks may share the handle
        except (OSError, ValueError):  # of another kind, or at a place that no file has
            damaged(self.folder, name)
        return data if len(data) == size else damaged(self.folder, name)


class Members:
    """One member of every row: where it lies."""

    def __init__(self, files: ShardFiles, table: pa.Table, suffix: str) -> None:
        shards = table["shard"].combine_chunks()
        self.files, self.suffix = files, suffix
        self.names: list[str] = shards.dictionary.to_pylist()
        self.shards: NDArray[np.int32] = shards.indices.to_numpy()
        self.offsets, self.sizes = (
            table[name].to_numpy() if name in table.column_names else np.zeros(0, np.int64)
            for name in (f"{suffix}:offset", f"{suffix}:size")
        )

    def read(self, row: int) -> bytes:
        if not len(self.offsets):
            raise ValueError(f"pictures: {str(self.files.folder)!r} keeps features alone, and no {self.suffix}")
        return self.files.read(self.names[self.shards[row]], int(self.offsets[row]), int(self.sizes[row]))


class Pictures(Members):
    """Pictures by row, decoded on demand; the last ones are kept."""

    def __init__(self, files: ShardFiles, table: pa.Table, suffix: str) -> None:
        super().__init__(files, table, suffix)
        self._decoded = _Cache(PICTURES_IN_MEMORY)

    def __getitem__(self, row: np.int64) -> NDArray[np.uint8]:
        picture = self._decoded.get(int(row))
        if picture is None:
            try:
                picture = np.asarray(open_rgb(self.read(int(row))))
            except RejectedImage:
                damaged(self.files.folder, self.names[self.shards[row]])
            self._decoded.put(int(row), picture, picture.nbytes)
        return picture


class Features(Members):
    """Features (n, D) by row: one matrix where it is small, else read from the shards."""

    def __init__(self, files: ShardFiles, table: pa.Table, suffix: str) -> None:
        super().__init__(files, table, suffix)
        first = self.read(0)
        try:
            array = read_npy(first)
        except ValueError:  # no array, or one of objects
            damaged(files.folder, self.names[self.shards[0]])
        if array.ndim != 1 or array.dtype != np.float32:
            raise ValueError(f"{suffix} of {str(files.folder)!r} is {array.dtype} {array.shape}; valid: float32 (D,)")
        self.dim = array.size
        self._header = first[: len(first) - 4 * self.dim]
        everything = np.arange(len(self.offsets))
        self._matrix = self._read(everything) if 4 * self.dim * len(everything) <= FEATURES_IN_MEMORY else None

    def __getitem__(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._read(rows) if self._matrix is None else self._matrix[rows]

    def _read(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        found = np.empty((len(rows), self.dim), np.float32)
        for into, row in zip(found, rows.tolist(), strict=True):
            data = self.read(row)
            if not data.startswith(self._header) or len(data) != len(self._header) + into.nbytes:
                damaged(self.files.folder, self.names[self.shards[row]])
            into[:] = np.frombuffer(data, np.float32, offset=len(self._header))
        return found
