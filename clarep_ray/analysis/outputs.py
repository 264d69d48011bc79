"""Read a finished extraction through its manifests, checking every shard's hash."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clarep_ray.data.clarep_index import read_root
from clarep_ray.data.shards import Sample, read_shard, sha256_file
from clarep_ray.data.store import SHARDS, OutputStore


@dataclass(frozen=True)
class ExtractionOutput:
    """A finished output folder. Raises ValueError where there is none, or where a shard is not as committed."""

    folder: Path

    @cached_property
    def samples(self) -> list[Sample]:
        """Every sample in the order of the input."""
        return list(self._samples())

    def _samples(self) -> Iterator[Sample]:
        read_root(self.folder)
        for _, manifest in sorted(OutputStore(self.folder).committed_units().items()):
            entry = manifest["files"][SHARDS]
            path = self.folder / entry["name"]
            if not path.is_file() or sha256_file(path) != entry["sha256"]:
                raise ValueError(f"{path} is missing or damaged; run: uv run jobs/verify.py {self.folder} --repair")
            yield from read_shard(path)

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        return np.array([int(sample.members["cls"]) for sample in self.samples])

    def features(self, name: str = "", null: bool = False) -> NDArray[np.float32]:
        """Return features (n, channels) of the Canonical Samples or an extra, read with or without the label."""
        suffix = "null_feature.npy" if null else "feature.npy"
        member = f"{name}.{suffix}" if name else suffix
        return np.stack([np.load(io.BytesIO(s.members[member]), allow_pickle=False) for s in self.samples])

    def pictures(self, name: str = "") -> NDArray[np.uint8]:
        """Return pictures (n, h, w, 3) of the Canonical Samples or an extra."""
        member = f"{name}.png" if name else "png"
        decoded = (Image.open(io.BytesIO(s.members[member]), formats=("PNG",)) for s in self.samples)
        return np.stack([np.asarray(picture) for picture in decoded])

    @cached_property
    def extras(self) -> tuple[str, ...]:
        """Names of the extra pictures each sample carries."""
        first = self.samples[0].members if self.samples else {}
        return tuple(sorted(name.removesuffix(".png") for name in first if name.endswith(".png")))
