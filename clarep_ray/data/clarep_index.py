"""What is written last: the Parquet index (one row per input), timm's `_info.json`, and the root manifest."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clarep_ray.data.derived import DERIVED, HEALTH, PROMISE, record_derived, recorded
from clarep_ray.data.manifest import InputManifest
from clarep_ray.data.parquet_files import check_written, read_table
from clarep_ray.data.records import shown
from clarep_ray.data.sealed import own_sha256, sealed, sealed_file_sha256
from clarep_ray.data.store import SHARDS, DamagedUnit, Store, as_store, check_entries, check_rows, repair_hint
from clarep_ray.data.untrusted import Fields, check_fields, parse_json_object

INDEX, ROOT, TIMM_INFO = "index.parquet", "MANIFEST.json", "_info.json"
MAX_ROOT_BYTES = 256 * 2**20
"""Of the root manifest: it names every unit's hash and files; a million units take some 250 MB."""
ROOT_SEAL = "root_sha256"
"""What the root manifest calls the hash of itself."""
ROOT_FIELDS: Fields = {
    **dict.fromkeys((ROOT_SEAL, "input_sha256", "index_sha256", "timm_info_sha256"), str),
    **dict.fromkeys(("num_inputs", "num_ok", "num_units"), int),
    "rejects": dict,
    "unit_sha256": list,
    "files": list,
}
"""What every root manifest says, and of which type."""

INDEX_SCHEMA = pa.schema(
    [
        ("ordinal", pa.int64()),
        ("id", pa.string()),
        ("key", pa.string()),
        ("sha256", pa.string()),
        ("label", pa.int64()),
        ("class_name", pa.string()),
        ("prompt", pa.int64()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("unit", pa.int64()),
        ("shard", pa.string()),
        ("num_removed", pa.int64()),
        ("elbow_method", pa.string()),
        ("elbow_margin", pa.float64()),
        ("ambiguous", pa.bool_()),
        ("max_residual", pa.float64()),
        ("num_products", pa.int64()),
        ("round_trip_error", pa.float64()),
        ("norm_ratio", pa.float64()),
        ("noise_std", pa.float64()),
        ("noise_outside", pa.bool_()),
        ("gate", pa.string()),
        ("gate_faults", pa.string()),
        ("gate_remedy", pa.string()),
        ("gate_input_votes", pa.float64()),
    ]
)


ADDED = ("norm_ratio", "noise_std", "noise_outside", "gate_input_votes")
"""Columns that an index of an earlier version lacks: they read as empty."""
INDEX_GROUP = 65536
"""Rows of a row group of the index, and of what is in memory of it at a time."""
FROZEN = ("ordinal", "id", "key", "sha256", "label", "class_name", "prompt")
"""Columns that come from the input manifest."""


class Unaccounted(RuntimeError):
    """Outputs and rejects do not add up to the inputs."""


def finish(store: Store, manifest: InputManifest, split: str, identity: Mapping[str, Any]) -> dict[str, Any]:
    """Write index, `_info.json` and, last, the root manifest with the run's `identity`; return the root manifest.

    Before it comes `derived.json`, which holds the hashes of what is made from the units. Raises Unaccounted unless
    every input row is exactly once an output or a reject with a reason.
    """
    check_written(manifest.path, manifest.sha256)  # its rows become the index
    summary = _Summary()
    index = _parquet_bytes(_index_rows(store, manifest, summary))
    info = (json.dumps(_timm_info(split, summary.shards), indent=1) + "\n").encode()
    root: dict[str, Any] = {
        **identity,
        "input_sha256": manifest.digest(),
        "input_file_sha256": manifest.sha256,
        "num_inputs": summary.num_rows,
        "num_ok": summary.num_rows - sum(summary.rejects.values()),
        "rejects": dict(sorted(summary.rejects.items())),
        "num_units": len(summary.shards),
        "unit_sha256": summary.unit_sha256,
        "index_sha256": hashlib.sha256(index).hexdigest(),
        "timm_info_sha256": hashlib.sha256(info).hexdigest(),
        PROMISE: DERIVED,
        "files": summary.files,
    }
    data = sealed(root, ROOT_SEAL)
    root[ROOT_SEAL] = root_sha256(root)
    store.collect_orphans({entry["name"] for entry in root["files"]})
    store.put(INDEX, index)
    store.put(TIMM_INFO, info)
    record_derived(store, [HEALTH] if store.has(HEALTH) and HEALTH not in (recorded(store) or {}) else [])
    store.put(ROOT, data)
    return root


def root_sha256(root: dict[str, Any]) -> str:
    """Return the hash of a root manifest over everything but this hash."""
    return own_sha256(root, ROOT_SEAL)


def read_root(output: Path | Store) -> dict[str, Any]:
    """Return the root manifest of a finished output; ValueError where there is none, or one of another make."""
    store = as_store(output)
    try:
        data = store.read(ROOT, MAX_ROOT_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{store.where!r} has no {ROOT}: no extraction was finished there") from None
    where = f"{store.where}/{ROOT}"
    root = parse_json_object(data, where)
    try:
        check_fields(root, ROOT_FIELDS, where)
        for entry in root["files"]:
            check_entries({"files": {entry["name"].partition("/")[0]: entry}})
        if (
            not all(isinstance(sha, str) for sha in root["unit_sha256"])
            or len(root["unit_sha256"]) != root["num_units"]
        ):
            raise ValueError("it counts other units than it names")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{where} is no manifest of an extraction: {shown(str(error))}") from None
    return root


def read_index(output: Path | Store) -> pa.Table:
    """Return the index of a finished output; ValueError where it is damaged or has other columns."""
    store = as_store(output)
    sha256 = read_root(store).get("index_sha256", "")
    try:
        with store.local(INDEX) as path:
            index = read_table(path, sha256, INDEX_SCHEMA, added=ADDED)
    except FileNotFoundError as error:
        raise ValueError(f"{error.filename!r} is missing") from None
    ok, rejected = (index.filter(pc.field("status") == status) for status in ("ok", "rejected"))
    lacking = [name for name in (*FROZEN, "unit", "status") if index[name].null_count]
    lacking += [name for name in ("reason",) if rejected[name].null_count]
    gated = ok.filter(pc.field("gate").is_valid())
    lacking += ["gate_faults"] if gated["gate_faults"].null_count else []
    if lacking or ok.num_rows + rejected.num_rows < index.num_rows:
        raise ValueError(
            f"{store.where}/{INDEX} is no index of an extraction: {(lacking or ['status'])[0]} is not valid"
        )
    return index


@dataclass
class _Summary:
    """What the root says about all units, gathered while their rows pass by."""

    num_rows: int = 0
    rejects: Counter[str] = field(default_factory=lambda: Counter[str]())
    shards: list[dict[str, Any]] = field(default_factory=lambda: list[dict[str, Any]]())
    files: list[dict[str, Any]] = field(default_factory=lambda: list[dict[str, Any]]())
    unit_sha256: list[str] = field(default_factory=lambda: list[str]())

    def add(self, done: dict[str, Any], sha256: str) -> None:
        self.num_rows += len(done["rows"])
        self.rejects.update(row["reason"] for row in done["rows"] if row["status"] == "rejected")
        self.shards.append(done["files"][SHARDS] | {"samples": done["num_ok"]})
        self.files += done["files"].values()
        self.unit_sha256.append(sha256)


def _index_rows(store: Store, manifest: InputManifest, summary: _Summary) -> Iterator[dict[str, Any]]:
    committed = set(store.units())
    missing = [unit for unit in range(manifest.num_units) if unit not in committed]
    if missing:
        raise Unaccounted(f"{len(missing)} of {manifest.num_units} units are not committed, first: {missing[:5]}")
    for unit, done in store.each_committed():
        if unit >= manifest.num_units:
            raise Unaccounted(f"unit {unit} is committed, and the input has only {manifest.num_units}")
        frozen = manifest.unit_rows(unit)
        _check_rows(store, unit, done)
        if [row.key for row in frozen] != [row["key"] for row in done["rows"]]:
            raise Unaccounted(f"unit {unit}: its rows are not those of the input manifest")
        summary.add(done, sealed_file_sha256(done))
        shard = done["files"][SHARDS]["name"]
        for row, result in zip(frozen, done["rows"], strict=True):
            known = {name: getattr(row, name) for name in FROZEN}
            yield {**result, **known, "unit": unit, "shard": shard if result["status"] == "ok" else None}


def _check_rows(store: Store, unit: int, done: Mapping[str, Any]) -> None:
    """Raise DamagedUnit where what a unit's manifest says of its samples is no row of the index."""
    try:
        check_rows(done)
        pa.Table.from_pylist(done["rows"], INDEX_SCHEMA)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, pa.ArrowException) as error:
        raise DamagedUnit(
            f"unit {unit} of {store.where!r} is damaged ({shown(str(error))}); {repair_hint(store)}"
        ) from None


def _parquet_bytes(rows: Iterator[dict[str, Any]]) -> bytes:
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, INDEX_SCHEMA) as writer:
        while group := list(islice(rows, INDEX_GROUP)):
            writer.write_table(pa.Table.from_pylist(group, INDEX_SCHEMA), row_group_size=INDEX_GROUP)
    return buffer.getvalue()


def _timm_info(split: str, shards: Sequence[dict[str, Any]]) -> dict[str, Any]:
    full = [shard for shard in shards if shard["samples"]]
    lengths = [shard["samples"] for shard in full]
    entry = {
        "name": split,
        "filenames": [shard["name"] for shard in full],
        "shard_lengths": lengths,
        "num_samples": sum(lengths),
    }
    return {"splits": {split: entry}}
