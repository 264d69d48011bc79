"""Freeze the input of a run into a manifest: hashes, keys; one Parquet row group per work unit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clarep_ray.data.inside import new_inside
from clarep_ray.data.parquet_files import check_written, open_parquet
from clarep_ray.data.records import InputRow, RejectedImage, RejectReason, legacy_key, prompt_id, safe_key, shown
from clarep_ray.data.shards import sha256_file
from clarep_ray.data.sources import Listed, Source
from clarep_ray.data.store import Store, as_store
from clarep_ray.data.untrusted import open_plain, parse_json

MANIFEST, STAMPS = "input.parquet", "input_stamps.jsonl"
HASHING_THREADS = 4
HASHING_CHUNK, HASHED_TOGETHER = 4096, 32
"""Rows whose hashes are awaited at a time, and rows of one task of a thread: a task costs as much as a small file."""
MAX_STAMP_BYTES = 2**16
"""Of a line of the stamps, which has the name of a file."""
WRITTEN_TOGETHER = 4096
"""Rows that are handed to Parquet at a time, which cuts them into units: each hand-over costs as much as 30 rows."""
Row = TypeVar("Row")
SCHEMA = pa.schema(
    [(f.name, {"int": pa.int64(), "str": pa.string()}[str(f.type)]) for f in fields(InputRow)]
)  # the annotations are strings here


@dataclass(frozen=True)
class InputManifest:
    """The frozen input on disk: rows in order, cut into units of `unit_size` consecutive rows."""

    path: Path
    sha256: str
    """Of the file as it was written; DamagedParquet where it is another one when it is opened."""

    @cached_property
    def file(self) -> pq.ParquetFile:
        check_written(self.path, self.sha256)
        return open_parquet(self.path, SCHEMA)

    @property
    def num_units(self) -> int:
        return self.file.metadata.num_row_groups

    def unit_size(self, unit: int) -> int:
        """Return the number of rows of one work unit."""
        return self.file.metadata.row_group(unit).num_rows

    def unit_rows(self, unit: int) -> list[InputRow]:
        """Return the rows of one work unit."""
        return [InputRow(**row) for row in self.file.read_row_group(unit).to_pylist()]

    def rows(self) -> Iterator[InputRow]:
        """Return the rows of all units in order."""
        return (InputRow(**row) for batch in self.file.iter_batches() for row in batch.to_pylist())

    def digest(self) -> str:
        """Return the sha256 of what the rows say, whatever the Parquet encoding."""
        return digest_of(self.rows())


def digest_of(rows: Iterable[InputRow]) -> str:
    """Return the sha256 over id, key, image hash (or why there is none) and label of every row in order."""
    total = hashlib.sha256()
    for row in rows:
        total.update(f"{row.id}\0{row.key}\0{row.sha256 or row.reason}\0{row.label}\n".encode())
    return total.hexdigest()


def names_sha256(names: Iterable[str]) -> str:
    """Return the sha256 over class names in order: what label numbers stand for, or which classes were chosen."""
    return hashlib.sha256("".join(f"{name}\n" for name in names).encode()).hexdigest()


def freeze(
    source: Source,
    listed: Sequence[Listed],
    known: Mapping[tuple[str, int], str] | None = None,
    num_prompts: int = 1,
) -> list[InputRow]:
    """Return the rows with the sha256 of their image bytes and their keys: all with the first prompt, then the next.

    `known` maps (source, offset) to hashes that need not be computed again. A file without permission, or a row without
    bytes, becomes a reject. Raises ValueError for two rows of one id or key, naming both, and for a file that another
    fault keeps from being read.
    """
    keys = [safe_key(prompt_id(row.id, prompt)) for prompt in range(num_prompts) for row in listed]
    _refuse_doubles(keys, listed)
    hashes = list(_hashes(source, listed, known or {}))
    frozen = ((prompt, row, *found) for prompt in range(num_prompts) for row, found in zip(listed, hashes, strict=True))
    return [_input_row(ordinal, key, *values) for ordinal, (key, values) in enumerate(zip(keys, frozen, strict=True))]


def with_legacy_keys(rows: Sequence[InputRow]) -> list[InputRow]:
    """Return the rows with the keys of versions before `safe_key`; raises as `freeze` where two are equal."""
    found = [replace(row, key=legacy_key(row.id)) for row in rows]
    _refuse_doubles([row.key for row in found], found)
    return found


def _input_row(ordinal: int, key: str, prompt: int, row: Listed, sha: str, reason: str) -> InputRow:
    return InputRow(
        ordinal=ordinal,
        id=prompt_id(row.id, prompt),
        key=key,
        source=row.source,
        offset=row.offset,
        size=row.size,
        sha256=sha,
        label=row.label,
        class_name=row.class_name,
        reason=reason,
        prompt=prompt,
    )


def _hashes(
    source: Source, listed: Sequence[Listed], known: Mapping[tuple[str, int], str]
) -> Iterator[tuple[str, str]]:
    """Yield the sha256 of every row's bytes and "", or "" and why it has none."""

    def digest(row: Listed) -> tuple[str, str]:
        if row.reason:
            return "", row.reason
        try:
            found = known.get((row.source, row.offset)) or source.sha256(row.source, row.offset, row.size)
        except PermissionError:
            return "", RejectReason.UNREADABLE_FILE.value
        except RejectedImage as rejected:
            return "", rejected.reason.value
        except OSError as error:
            raise ValueError(f"data: {row.source!r} cannot be read: {error.strerror}") from None
        return found, ""

    def digests(rows: Sequence[Listed]) -> list[tuple[str, str]]:
        return [digest(row) for row in rows]

    with ThreadPoolExecutor(HASHING_THREADS) as pool:
        for chunk in _chunks(listed, HASHING_CHUNK):  # a pool's map makes its jobs at once
            for hashes in pool.map(digests, _chunks(chunk, HASHED_TOGETHER)):
                yield from hashes


def _refuse_doubles(keys: Sequence[str], listed: Sequence[Listed] | Sequence[InputRow]) -> None:
    """Raise ValueError where two rows have one key, and so have all rows of one id; `listed` are those of a prompt."""
    short = np.fromiter(map(hash, keys), np.int64, len(keys))
    values, counts = np.unique(short, return_counts=True)
    suspects = set(values[counts > 1].tolist())  # equal eight-byte hashes: compare the keys themselves
    if not suspects:
        return
    first: dict[str, int] = {}
    for place in (place for place, value in enumerate(short.tolist()) if value in suspects):
        earlier = first.setdefault(keys[place], place)
        if earlier != place:
            named = " and ".join(_named(listed, number) for number in (earlier, place))
            raise ValueError(f"data: two images have one key, {keys[place]!r}: {named}; valid: ids that differ")


def _named(listed: Sequence[Listed] | Sequence[InputRow], place: int) -> str:
    prompt, image = divmod(place, len(listed))
    return f"{shown(prompt_id(listed[image].id, prompt))!r} of {shown(listed[image].source)!r}"


def write_manifest(rows: Sequence[InputRow], path: Path, unit_size: int) -> InputManifest:
    """Write the rows under their final name in one step, one row group per unit."""
    with new_inside(path.parent, path.name) as work:
        with work.open("wb") as file, pq.ParquetWriter(file, SCHEMA) as writer:
            for chunk in _chunks(rows, unit_size * max(1, WRITTEN_TOGETHER // unit_size)):
                columns = {name: [getattr(row, name) for row in chunk] for name in SCHEMA.names}
                writer.write_table(pa.table(columns, SCHEMA), row_group_size=unit_size)
        sha256 = sha256_file(work)
    return InputManifest(path, sha256)


def _chunks(rows: Sequence[Row], size: int) -> Iterator[Sequence[Row]]:
    return (rows[start : start + size] for start in range(0, len(rows), size))


def write_stamps(folder: Path, root: str, sources: Iterable[str], manifest_sha256: str) -> None:
    """Note size and modification time of every input file, so that a resumed run need not hash it again.

    The first line is the hash of the manifest that has the files' hashes.
    """
    last = None
    with new_inside(folder, STAMPS) as work, work.open("w") as file:
        file.write(json.dumps(manifest_sha256) + "\n")
        for source in sources:
            if source != last:  # rows of one container come one after another
                file.write(json.dumps([source, _stamp(Path(root) / source)]) + "\n")
            last = source


def unchanged_hashes(output: Path | Store, root: str | None) -> dict[tuple[str, int], str]:
    """Return {(source, offset): sha256} of an earlier manifest's rows whose files look untouched since."""
    if root is None:
        return {}
    store = as_store(output)
    try:
        with store.local(STAMPS) as path, open_plain(path) as file:
            sha256 = parse_json(file.readline(MAX_STAMP_BYTES))
            stamps = map(parse_json, iter(lambda: file.readline(MAX_STAMP_BYTES), b""))
            fresh = {source for source, stamp in stamps if stamp and _stamp(Path(root) / source) == stamp}
        with store.local(MANIFEST) as path:
            rows = InputManifest(path, sha256).rows()
            return {(row.source, row.offset): row.sha256 for row in rows if row.source in fresh}
    except (OSError, ValueError, TypeError):  # missing or damaged: everything is hashed again
        return {}


def _stamp(path: Path) -> list[int] | None:
    try:
        found = path.stat()
    except OSError:  # without a stamp the file is hashed again, which says what is wrong
        return None
    return [found.st_size, found.st_mtime_ns]
