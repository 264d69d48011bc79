"""CIFAR-10's python batches: pickles of arrays, read by an unpickler that knows nothing else."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

CIFAR10_NAMES: tuple[str, ...] = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
BATCHES = {"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)}
FOLDER = "cifar-10-batches-py"
SIDE = 32
_ARRAYS = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if (module_name, global_name) not in _ARRAYS:
            raise ValueError(f"it asks for {module_name}.{global_name}; only arrays are loaded")
        return super().find_class(module_name, global_name)


@dataclass(frozen=True)
class Batch:
    """One file: pictures (n, 32, 32, 3) and labels (n,)."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


def read_batch(path: Path) -> Batch:
    """Return one batch file. Raises ValueError, naming the file, for anything but arrays of the known shapes."""
    try:
        with path.open("rb") as file:
            stored = _ArraysOnly(file, encoding="bytes").load()
        planes, labels = np.asarray(stored[b"data"]), np.asarray(stored[b"labels"], dtype=np.int64)
        if planes.dtype != np.uint8 or planes.shape != (len(labels), 3 * SIDE**2):
            raise ValueError(f"its data are {planes.dtype} {planes.shape}; valid: uint8 (n, {3 * SIDE**2})")
    except OSError as error:
        raise ValueError(f"data.path: {str(path)!r} cannot be read: {error.strerror}") from None
    except Exception as error:  # an unpickler raises many kinds for damaged bytes
        raise ValueError(f"data.path: {str(path)!r} is no CIFAR-10 batch: {error}") from None
    return Batch(planes.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1), labels)


class Cifar10Files:
    """The batches of one split below `root`, the last one opened kept in memory."""

    def __init__(self, root: Path, split: str) -> None:
        self.root = root / FOLDER if (root / FOLDER).is_dir() else root
        self.names = BATCHES[split]
        missing = [name for name in self.names if not (self.root / name).is_file()]
        if missing:
            raise ValueError(f"data.path: {str(self.root)!r} has no {missing[0]}; valid: the folder {FOLDER}")
        self._lock = threading.Lock()
        self._last: tuple[str, Batch] | None = None

    def batch(self, name: str) -> Batch:
        """Return one of the files by name."""
        with self._lock:
            if self._last is None or self._last[0] != name:
                self._last = (name, read_batch(self.root / name))
            return self._last[1]

    def labels(self) -> Iterator[tuple[str, int, int]]:
        """Return (file, row, label) of every picture in order."""
        for name in self.names:
            for number, label in enumerate(self.batch(name).labels.tolist()):
                yield name, number, label
