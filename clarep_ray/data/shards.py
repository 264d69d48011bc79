"""One work unit as a WebDataset shard: the same samples always give the same bytes."""

from __future__ import annotations

import hashlib
import io
import json
import math
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clarep_ray.data.tar_index import tar_index
from clarep_ray.data.untrusted import open_plain, parse_json_object

MAX_MEMBER_NAME = 100
"""Bytes of a member's name in USTAR, the tar that every reader knows."""
SAMPLE_SUFFIXES = ("png", "cls", "json", "feature.npy", "null_feature.npy")
"""Members of a sample; some runs have no image, or no reading without the label."""
EXTRA_SUFFIXES = ("png", "feature.npy", "null_feature.npy")
"""What stands behind an extra's name and a dot."""


def longest_suffix(extras: Iterable[str]) -> int:
    """Return the length of the longest suffix that samples with these extras have, with its dot."""
    suffixes = (*SAMPLE_SUFFIXES, *(f"{name}.{suffix}" for name in extras for suffix in EXTRA_SUFFIXES))
    return 1 + max(map(len, suffixes))


def npy_bytes(array: NDArray[Any]) -> bytes:
    """Return an array as .npy, never pickled."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def read_npy(data: bytes) -> NDArray[Any]:
    """Return the array of .npy bytes; ValueError for objects, and for a header that claims more than there is."""
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"an array of version {version}; valid: 1.0 and 2.0")
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, kind = read_header(file)
    if kind.itemsize == 0 or math.prod(shape) * kind.itemsize != len(data) - file.tell():
        raise ValueError(f"an array of {shape} {kind}; it has {len(data) - file.tell()} bytes")
    return np.load(io.BytesIO(data), allow_pickle=False)


def json_bytes(record: Mapping[str, Any]) -> bytes:
    """Return a record as compact JSON with sorted keys; NaN is refused."""
    return json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def shard_bytes(samples: Mapping[str, Mapping[str, bytes]]) -> bytes:
    """Return the tar of {key: {suffix: bytes}}: USTAR, no times or owners, keys in the order given."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for key, members in samples.items():
            for suffix in sorted(members):
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size = len(members[suffix])
                info.mode = 0o644
                tar.addfile(info, io.BytesIO(members[suffix]))
    return buffer.getvalue()


@dataclass(frozen=True)
class Sample:
    """One sample of a shard: its key and its members' bytes by suffix."""

    key: str
    members: dict[str, bytes]

    @property
    def record(self) -> dict[str, Any]:
        return parse_json_object(self.member("json"), f"sample {self.key}")

    def feature(self, name: str = "") -> NDArray[np.float32]:
        """Return the Canonical Feature, or that of an extra."""
        return read_npy(self.member(f"{name}.feature.npy" if name else "feature.npy"))

    def member(self, suffix: str) -> bytes:
        """Return the bytes of a member; ValueError naming one that is missing."""
        if suffix not in self.members:
            raise ValueError(f"sample {self.key!r} has no {suffix}")
        return self.members[suffix]


def read_shard(path: Path) -> Iterator[Sample]:
    """Yield the samples of a shard in order. Raises DamagedTar for a truncated or malformed file."""
    with open_plain(path) as file:
        data = file.read()
    key, members = None, dict[str, bytes]()
    for member in tar_index(path):
        current, _, suffix = member.name.partition(".")
        if current != key and key is not None:
            yield Sample(key, members)
            members = {}
        key = current
        members[suffix] = data[member.offset : member.offset + member.size]
    if key is not None:
        yield Sample(key, members)


def sha256_file(path: Path) -> str:
    """Return the sha256 of a plain file, read in pieces; raises as `open_plain`."""
    with open_plain(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
