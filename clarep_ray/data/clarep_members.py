"""Where each picture and feature of a finished extraction lies in its shards, every shard checked once."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clarep_ray.data.clarep_index import ADDED, INDEX, INDEX_SCHEMA, ROOT, read_root, root_sha256
from clarep_ray.data.derived import MEMBERS, MEMBERS_SHA256
from clarep_ray.data.inside import NotInside, file_inside, has_file_inside, open_inside, read_inside, read_text_inside
from clarep_ray.data.parquet_files import DamagedParquet, check_written, open_parquet, read_columns, read_table
from clarep_ray.data.records import image_id, safe_key
from clarep_ray.data.shards import sha256_file
from clarep_ray.data.store import MAX_UNIT_BYTES, SHARDS, OutputStore, check_rows, check_unit, unit_name
from clarep_ray.data.tar_index import DamagedTar, tar_index
from clarep_ray.data.untrusted import parse_json, parse_json_object

LAYOUT = 2
"""Of that file; one of another number is made again."""
OK = "ok"
CHECKING_THREADS = 4
MAX_SHA256_BYTES = 64
ABOUT = ("label", "class_name")


def locate_members(folder: Path) -> tuple[dict[str, Any], pa.Table]:
    """Return the root manifest of a finished extraction and one row per sample: where its members lie.

    Columns: `image_key` (what `safe_key` makes of the input's id, one for all its prompts), `label`, `class_name`,
    `shard` (path below the folder), and `SUFFIX:offset` and `SUFFIX:size` [bytes] for every picture and feature.

    The first call checks the hash of every shard and unit manifest; later ones look at sizes and times of
    modification alone. Raises ValueError where nothing was finished, or, with the command that repairs it, where
    something is not as it was committed.
    """
    root = _checked_root(folder)
    stamps = _stamps(folder, root)
    table = _remembered(folder, root, stamps)
    if table is None:
        table = _checked_members(folder, root)
        _remember(folder, root, stamps, table)
    return root, table


def damaged(folder: Path, what: str) -> NoReturn:
    """Raise the ValueError of an output that is not as it was committed."""
    raise ValueError(f"{folder / what} is missing or damaged; run: uv run jobs/verify.py {folder} --repair")


def _checked_root(folder: Path) -> dict[str, Any]:
    try:
        root = read_root(folder)
    except ValueError:
        if has_file_inside(folder, ROOT):
            damaged(folder, ROOT)
        raise
    return root if root["root_sha256"] == root_sha256(root) else damaged(folder, ROOT)


def _stamps(folder: Path, root: dict[str, Any]) -> dict[str, list[int]]:
    """Return size and times of modification and change of every file that is checked."""
    units = [unit_name(unit) for unit in range(root["num_units"])]
    stamps: dict[str, list[int]] = {}
    for name in (INDEX, *units, *_shards(root)):
        try:
            with open_inside(folder, name) as file:
                found = os.fstat(file.fileno())
        except (OSError, NotInside):
            damaged(folder, name)
        # The times of change, which nobody can set: what somebody else noted is never taken for true here.
        stamps[name] = [found.st_size, found.st_mtime_ns, found.st_ctime_ns]
    return stamps


def _shards(root: dict[str, Any]) -> list[str]:
    return [entry["name"] for entry in root["files"] if entry["name"].startswith(f"{SHARDS}/")]


def _remembered(folder: Path, root: dict[str, Any], stamps: dict[str, list[int]]) -> pa.Table | None:
    with suppress(OSError, pa.ArrowException, ValueError, KeyError, TypeError):  # missing or damaged: checked again
        path = file_inside(folder, MEMBERS)
        check_written(path, read_text_inside(folder, MEMBERS_SHA256, MAX_SHA256_BYTES))
        file = open_parquet(path)
        notes = parse_json(file.schema_arrow.metadata[b"checked"])
        if notes == _notes(root, stamps) and all(map(_is_ours, file.schema_arrow)):
            table = read_columns(folder / MEMBERS, file.schema_arrow.names)
            named = set(table["shard"].combine_chunks().dictionary.to_pylist())
            if named <= set(_shards(root)) and not any(column.null_count for column in table.columns):
                return table
    return None


def _is_ours(column: pa.Field) -> bool:
    """Say whether a column is one of plain values: one of another type could be code."""
    if column.name == "shard":
        return column.type == pa.dictionary(pa.int32(), pa.string())
    return column.type == (pa.string() if column.name in ("image_key", "class_name") else pa.int64())


def _remember(folder: Path, root: dict[str, Any], stamps: dict[str, list[int]], table: pa.Table) -> None:
    notes = json.dumps(_notes(root, stamps))
    buffer = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({"checked": notes}), buffer)
    with suppress(OSError):  # an output that cannot be written is only checked every time
        store, data = OutputStore(folder), buffer.getvalue()
        store.put(MEMBERS, data)
        store.put(MEMBERS_SHA256, hashlib.sha256(data).hexdigest().encode())


def _notes(root: dict[str, Any], stamps: dict[str, list[int]]) -> dict[str, Any]:
    return {"layout": LAYOUT, "root_sha256": root["root_sha256"], "stamps": stamps}


def _checked_members(folder: Path, root: dict[str, Any]) -> pa.Table:
    try:
        index = read_table(
            file_inside(folder, INDEX),
            root["index_sha256"],
            INDEX_SCHEMA,
            ["status", "key", "id", "prompt", *ABOUT],
            ADDED,
        )
    except DamagedParquet:
        damaged(folder, INDEX)
    with ThreadPoolExecutor(CHECKING_THREADS) as pool:
        units = list(pool.map(lambda item: _unit_members(folder, *item), enumerate(root["unit_sha256"])))
    index = index.filter(pc.field("status") == OK)
    found = [unit for unit in units if unit["key"]]
    if not found:
        raise ValueError(f"{str(folder)!r} holds no sample: every input was rejected")
    if any(unit.keys() != found[0].keys() for unit in found):
        damaged(folder, SHARDS)
    columns = {name: pa.array(_joined(found, name)) for name in found[0]}
    if not columns.pop("key").equals(index["key"].combine_chunks()):
        damaged(folder, INDEX)
    columns["shard"] = columns["shard"].dictionary_encode()
    # Not the shard's own key: of an earlier version's output that is another, and no training image would meet it.
    images = zip(index["id"].to_pylist(), index["prompt"].to_pylist(), strict=True)
    keys = [safe_key(image_id(*image)) for image in images]
    return pa.table({"image_key": keys} | {name: index[name] for name in ABOUT} | columns)


def _joined(units: Sequence[dict[str, list[Any]]], name: str) -> list[Any]:
    return [value for unit in units for value in unit[name]]


def _unit_members(folder: Path, unit: int, sha256: str) -> dict[str, list[Any]]:
    """Return the columns of one unit, after checking its manifest and its shard."""
    name = unit_name(unit)
    data = read_inside(folder, name, MAX_UNIT_BYTES)
    if hashlib.sha256(data).hexdigest() != sha256:
        damaged(folder, name)
    try:
        manifest = parse_json_object(data, name)
        shard = check_unit(manifest, unit)[SHARDS]
        check_rows(manifest)
        path = file_inside(folder, shard["name"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        damaged(folder, name)
    if sha256_file(path) != shard["sha256"]:
        damaged(folder, shard["name"])
    keys = [row["key"] for row in manifest["rows"] if row["status"] == OK]
    columns: dict[str, list[Any]] = {"key": keys, "shard": [shard["name"]] * len(keys)}
    try:
        members = tar_index(path)
    except DamagedTar:
        damaged(folder, shard["name"])
    for member in members:
        suffix = member.name.partition(".")[2]
        if suffix.endswith("png") or (suffix.endswith("feature.npy") and not suffix.endswith("null_feature.npy")):
            columns.setdefault(f"{suffix}:offset", []).append(member.offset)
            columns.setdefault(f"{suffix}:size", []).append(member.size)
    if any(len(values) != len(keys) for values in columns.values()):
        damaged(folder, shard["name"])
    return columns
