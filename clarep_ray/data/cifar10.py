"""CIFAR-10's python batches: pickles of arrays, read by an unpickler that knows nothing else."""

from __future__ import annotations

import io
import pickle
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clarep_ray.data.pickle_ops import check_pickle, look_up
from clarep_ray.data.records import shown
from clarep_ray.data.untrusted import read_bounded

CIFAR10_NAMES: tuple[str, ...] = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
BATCHES = {"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)}
FOLDER = "cifar-10-batches-py"
SIDE = 32
MAX_BYTES = 64 * 2**20
"""Of one batch; CIFAR-10's have 31 MB."""


def _text_as_bytes(text: str, encoding: str) -> bytes:
    """Stand in for `_codecs.encode`, with which Python 3 writes bytes for Python 2."""
    if encoding != "latin1":
        raise ValueError(f"it asks for the encoding {encoding[:40]!r}")
    return text.encode("latin1")


def _empty_array(kind: Any, shape: Any, code: Any) -> NDArray[Any]:
    """Stand in for numpy's `_reconstruct`: an array without elements, which its state then replaces."""
    if kind is not np.ndarray or shape != (0,):
        raise ValueError("it makes an array of its own")
    return np.ndarray((0,), np.uint8)


_ALLOWED: dict[str, Any] = {
    "numpy.core.multiarray._reconstruct": _empty_array,
    "numpy._core.multiarray._reconstruct": _empty_array,
    "numpy.ndarray": np.ndarray,
    "numpy.dtype": np.dtype,
    "_codecs.encode": _text_as_bytes,
}


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> Any:
        return look_up(_ALLOWED, module_name, global_name, "arrays")


@dataclass(frozen=True)
class Batch:
    """One file: pictures (n, 32, 32, 3) and labels (n,)."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


def read_batch(path: Path) -> Batch:
    """Return one batch file. Raises ValueError, naming the file, for anything but arrays of the known shapes."""
    try:
        data = read_bounded(path, MAX_BYTES)
        check_pickle(data)
        stored = _ArraysOnly(io.BytesIO(data), encoding="bytes").load()
        planes, numbers = stored[b"data"], stored[b"labels"]
        if type(numbers) is not list or not all(type(number) is int for number in numbers):
            raise ValueError("its labels are no list of whole numbers")
        labels = np.array(numbers, dtype=np.int64)
        if type(planes) is not np.ndarray:
            raise ValueError("its data are no array")
        if planes.dtype != np.uint8 or planes.shape != (len(labels), 3 * SIDE**2):
            raise ValueError(f"its data are {planes.dtype} {planes.shape}; valid: uint8 (n, {3 * SIDE**2})")
    except OSError as error:
        raise ValueError(f"data.path: {str(path)!r} cannot be read: {error.strerror}") from None
    except Exception as error:  # an unpickler raises many kinds for damaged bytes
        raise ValueError(f"data.path: {str(path)!r} is no CIFAR-10 batch: {shown(str(error))}") from None
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
