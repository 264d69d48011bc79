"""Read a finished extraction through its manifests, checking every shard's hash."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from clarep_ray.data.clarep_index import read_index
from clarep_ray.data.pixels import open_own
from clarep_ray.data.shards import Sample, read_npy, read_shard, sha256_file
from clarep_ray.data.store import SHARDS, Store, as_store
from clarep_ray.data.untrusted import Fields, check_fields

FIRST = ("input", "original", "reconstruction", "guidance")
SAMPLE_FIELDS: Fields = {
    "id": str,
    "label": int,
    "class_name": str,
    "converged": (bool, type(None)),
    **dict.fromkeys(("what", "prompt_text", "projection"), (str, type(None))),
}
SPECTRUM_FIELDS: Fields = {"singular_values": list, "num_removed": int, "ambiguous": bool}
"""What a sample's JSON says that is looked at, and of which type."""
MAX_SAMPLES = 5000
"""Enough for clusters, judges and pictures; with pictures of 256 pixels about a gigabyte."""


@dataclass(frozen=True)
class ExtractionOutput:
    """A finished output folder, of which at most `max_samples` are read, evenly spread over the input.

    Raises ValueError where there is none, or where a shard is not as committed.
    """

    output: Path | Store
    max_samples: int = MAX_SAMPLES

    @property
    def store(self) -> Store:
        return as_store(self.output)

    @property
    def folder(self) -> Path:
        """Where its pictures are drawn: the output folder, or the desk of one in object storage."""
        return self.store.desk

    @cached_property
    def index(self) -> pa.Table:
        """One row for every sample of the output, read or not."""
        return read_index(self.output).filter(pc.field("status") == "ok")

    @cached_property
    def chosen(self) -> pa.Table:
        """The rows of the index whose samples are read."""
        count = min(self.index.num_rows, self.max_samples)
        return self.index.take(np.linspace(0, self.index.num_rows - 1, count).round().astype(np.int64))

    @cached_property
    def samples(self) -> list[Sample]:
        """The samples that are read, in the order of the input."""
        return list(self.each_sample())

    def each_sample(self) -> Iterator[Sample]:
        """Yield the samples that are read, one shard in memory at a time."""
        return samples_of(self.output, self.chosen)

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        return np.array([int(sample.members["cls"]) for sample in self.samples])

    @cached_property
    def what(self) -> str:
        """What the samples' own pictures and features are: canonical, unprojected, features or samples."""
        record = self.samples[0].record if self.samples else {}
        return record.get("what") or ("unprojected" if record.get("projection") == "none" else "canonical")

    @property
    def has_spectrum(self) -> bool:
        """Whether singular vectors were needed, so that there are spectra and elbows to look at."""
        return self.index["num_removed"].null_count < self.index.num_rows

    @property
    def picture_names(self) -> tuple[str, ...]:
        """Names of the pictures each sample carries, extras first and the empty name of its own last."""
        own = ("",) if self.samples and "png" in self.samples[0].members else ()
        return self.extras + own

    def features(self, name: str = "", null: bool = False) -> NDArray[np.float32]:
        """Return features (n, channels) of the Canonical Samples or an extra, read with or without the label."""
        suffix = "null_feature.npy" if null else "feature.npy"
        member = f"{name}.{suffix}" if name else suffix
        return np.stack([read_npy(sample.member(member)) for sample in self.samples])

    def pictures(self, name: str = "") -> NDArray[np.uint8]:
        """Return pictures (n, h, w, 3) of the Canonical Samples or an extra."""
        member = f"{name}.png" if name else "png"
        return np.stack(
            [np.asarray(open_own(sample.member(member), repr(self.store.where))) for sample in self.samples]
        )

    @cached_property
    def extras(self) -> tuple[str, ...]:
        """Names of the extra pictures each sample carries, those that nothing was projected out of first."""
        first = self.samples[0].members if self.samples else {}
        names = sorted(name.removesuffix(".png") for name in first if name.endswith(".png"))
        return tuple(sorted(names, key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST)))


def samples_of(output: Path | Store, rows: pa.Table) -> Iterator[Sample]:
    """Yield the samples of rows of an output's index, in their order; ValueError where a shard is not as committed."""
    store = as_store(output)
    for unit, members in groupby(rows.select(["unit", "key"]).to_pylist(), key=lambda row: row["unit"]):
        wanted = {row["key"] for row in members}
        entry = store.committed_unit(unit)["files"][SHARDS]
        for sample in _committed_samples(store, entry):
            if sample.key in wanted:
                _check_sample(sample, f"{store.where}/{entry['name']}")
                yield sample


def _check_sample(sample: Sample, where: str) -> None:
    """Raise ValueError where a sample is not as an extraction writes it: its shard's hash may be a stranger's own."""
    named = f"{where}: sample {sample.key!r}"
    if not re.fullmatch(rb"-?[0-9]{1,9}", sample.member("cls")):
        raise ValueError(f"{named}: cls is no label")
    record = check_fields(sample.record, SAMPLE_FIELDS, named)
    if "singular_values" in record:
        check_fields(record, SPECTRUM_FIELDS, named)
        values = record["singular_values"]
        if not 1 <= record["num_removed"] <= len(values) or not all(type(value) in (int, float) for value in values):
            raise ValueError(f"{named}: its singular values are none, or fewer than are removed")


def _committed_samples(store: Store, entry: Mapping[str, Any]) -> Iterator[Sample]:
    name = f"{store.where}/{entry['name']}"
    try:
        with store.local(entry["name"]) as path:
            if sha256_file(path) == entry["sha256"]:
                yield from read_shard(path)
                return
    except FileNotFoundError:
        pass
    raise ValueError(f"{name} is missing or damaged; run: uv run jobs/verify.py {store.where} --repair")
