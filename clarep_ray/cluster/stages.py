"""The three stages every work unit streams through: decode (CPU), extract (model actor), commit (CPU)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from clarep_ray import dotted
from clarep_ray.cluster.attempts import Attempt, Ledger, survive
from clarep_ray.cluster.memory import while_memory_is_short
from clarep_ray.config import DataConfig, ExtractConfig
from clarep_ray.data.manifest import MANIFEST, InputManifest
from clarep_ray.data.parquet_files import DamagedParquet
from clarep_ray.data.records import RejectReason, shown
from clarep_ray.data.shards import sha256_file
from clarep_ray.data.sources import Source, open_source
from clarep_ray.data.store import SPECTRA, Store, open_store
from clarep_ray.data.units import (
    OK,
    UnitBlob,
    decode_unit,
    has_picture,
    merge_results,
    some_of,
    unit_files,
    unit_manifest,
    with_stand_ins,
)
from clarep_ray.data.untrusted import parse_json
from clarep_ray.errors import DamagedUnit, InputChanged

if TYPE_CHECKING:
    from clarep_ray.models.extractor import UnitExtractor


@dataclass(frozen=True)
class RunContext:
    """What every stage needs, small and picklable."""

    config: dict[str, Any]
    output: str
    input_file_sha256: str
    """Of the frozen input as the driver wrote it."""
    provenance: dict[str, Any]
    image_size: int
    class_names: tuple[str, ...]
    identity: dict[str, Any]
    run_id: str

    @property
    def extract_config(self) -> ExtractConfig:
        return dotted.from_flat(ExtractConfig, self.config)

    @property
    def store(self) -> Store:
        return open_store(self.output)


def decode_stage(table: pa.Table, context: RunContext) -> pa.Table:
    """Read and decode the rows of the one unit in `table`; raises UnitGivenUp."""
    return _patiently("decoding", table, context, lambda: _decode(table, context))


def _patiently(doing: str, table: pa.Table, context: RunContext, work: Callable[[], pa.Table]) -> pa.Table:
    """Return what a stage makes of the one unit in `table`, tried again while memory is short; raises UnitGivenUp."""
    return while_memory_is_short(f"{doing} unit {table['unit'][0].as_py()}", context.extract_config.engine, work)


def _decode(table: pa.Table, context: RunContext) -> pa.Table:
    began = time.monotonic()
    unit = table["unit"][0].as_py()
    config = context.extract_config
    rows = _manifest(context.output, context.run_id, context.input_file_sha256).unit_rows(unit)
    source = cached_source(config.data)

    def decode(attempt: Attempt, poison: Mapping[int, str]) -> UnitBlob:
        some = [rows[row] for row in sorted(attempt.rows)] if attempt.probe else rows
        return decode_unit(source, some, context.image_size, config.data, poison)

    ledger = Ledger(context.store, context.run_id, unit, "decode")
    blob = survive(ledger, len(rows), config.engine, decode)
    if config.output.from_spectrum:
        blob = UnitBlob(blob.arrays | _side_car(open_store(config.output.from_spectrum), unit, blob), blob.records)
    return pack_row(unit, blob, {"decode_s": time.monotonic() - began})


@lru_cache(maxsize=1)
def _manifest(output: str, run_id: str, sha256: str) -> InputManifest:
    """Return the run's frozen input, opened once in each worker process; `run_id` keeps two runs apart.

    Raises InputChanged where it is not the one that the driver wrote.
    """
    with open_store(output).local(MANIFEST) as path:
        manifest = InputManifest(path, sha256)
        try:
            assert manifest.file  # open from here on, for a copy's name goes
        except DamagedParquet:
            raise InputChanged(f"{output}/{MANIFEST} is not what this run began with; start it again") from None
        return manifest


@lru_cache(maxsize=2)
def cached_source(config: DataConfig) -> Source:
    """Return the source, opened once in each worker process; it reads images, whose labels the manifest has."""
    return open_source(config, None)


class ExtractStage:
    """One model, loaded once, that turns decoded units into finished ones; raises UnitGivenUp."""

    def __init__(self, context: RunContext) -> None:
        import ray

        from clarep_ray.models.extractor import UnitExtractor

        self.context = context
        device = "cuda" if ray.get_runtime_context().get_accelerator_ids()["GPU"] else "cpu"
        config = context.extract_config
        self.extractor = while_memory_is_short(
            "loading an actor's model", config.engine, lambda: UnitExtractor(config, device)
        )

    def __call__(self, table: pa.Table) -> pa.Table:
        return _patiently("the model on", table, self.context, lambda: self._extract(table))

    def _extract(self, table: pa.Table) -> pa.Table:
        unit, blob, timings = unpack_row(table)
        began = time.monotonic()
        ledger = Ledger(self.context.store, self.context.run_id, unit)

        def extract(attempt: Attempt, poison: Mapping[int, str]) -> UnitBlob:
            some = some_of(blob, attempt.rows) if attempt.probe else with_stand_ins(blob, poison)
            return extract_unit(self.extractor, some)

        finished = survive(ledger, len(blob.arrays["images"]), self.context.extract_config.engine, extract)
        return pack_row(unit, finished, timings | {"extract_s": time.monotonic() - began})


def units_here(context: RunContext, todo: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Do units one after the other in this Ray worker and yield one report for each, as the engine's stages do."""
    stage = ExtractStage(context)
    for unit in todo:
        yield from commit_stage(stage(decode_stage(pa.table({"unit": [unit]}), context)), context).to_pylist()


def extract_unit(extractor: UnitExtractor, blob: UnitBlob) -> UnitBlob:
    """Return a decoded unit after the model; arrays beside the pictures are an earlier run's spectrum."""
    held = [record for record in blob.records if has_picture(record)]
    resumed = {name: array for name, array in blob.arrays.items() if name != "images"}
    numbers = [record["label"] + record["prompt"] * len(extractor.model.classes) for record in held]
    keys = [record["image_key"] for record in held]
    arrays, results = extractor.run(blob.arrays["images"], numbers, keys, resumed or None)
    if "x_t" in arrays:  # kept for later runs, in which a stand-in must not pass for the picture
        arrays["x_t"][[record["status"] != OK for record in held]] = np.nan
    if texts := extractor.model.prompt_texts:
        results = [result | {"prompt_text": texts[number]} for result, number in zip(results, numbers, strict=True)]
    return merge_results(blob, arrays, results)


def commit_stage(table: pa.Table, context: RunContext) -> pa.Table:
    """Write and commit one unit, unless a picture of it is poison and that is not allowed; return the report on it.

    Raises UnitGivenUp.
    """
    return _patiently("committing", table, context, lambda: _commit(table, context))


def _commit(table: pa.Table, context: RunContext) -> pa.Table:
    unit, blob, timings = unpack_row(table)
    began = time.monotonic()
    files = finished_files(blob, unit, context.extract_config, context.provenance)
    manifest = unit_manifest(blob, context.identity)
    poison = [
        f"{row['id']} (unit {unit}; {row['how']})" for row in blob.records if row["reason"] == RejectReason.POISON
    ]
    wanted = not poison or context.extract_config.engine.allow_poison
    fresh = context.store.commit(unit, files, manifest) if wanted else False
    report = {
        "unit": unit,
        "num_rows": len(manifest["rows"]),
        "num_ok": manifest["num_ok"],
        "num_removed": [row["num_removed"] for row in manifest["rows"] if "num_removed" in row],
        "fresh": fresh,
        "poison": poison,
        **timings,
        "commit_s": time.monotonic() - began,
    }
    return pa.Table.from_pylist([report])


def finished_files(blob: UnitBlob, unit: int, config: ExtractConfig, provenance: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the bytes a unit is committed as, with its provenance in every sample."""
    return unit_files(blob, {**provenance, "unit": unit}, config.output.extras, config.output.keep_spectrum)


def _side_car(store: Store, unit: int, blob: UnitBlob) -> dict[str, Any]:
    """Return the arrays of an earlier run's spectrum of the same unit, checked to be about the same samples."""
    entry = store.committed_unit(unit)["files"].get(SPECTRA)
    keys, arrays = _read_side_car(store, entry) if entry is not None else ([], {})
    if keys != [record["key"] for record in blob.records if has_picture(record)]:
        raise ValueError(f"output.from_spectrum: unit {unit} of {store.where!r} is about other samples")
    return arrays


def _read_side_car(store: Store, entry: Mapping[str, Any]) -> tuple[list[str], dict[str, Any]]:
    """Return keys and arrays of a side-car; DamagedUnit where it is not as committed."""
    from safetensors import SafetensorError, safe_open

    with store.local(entry["name"]) as path:
        if sha256_file(path) != entry["sha256"]:
            raise DamagedUnit(
                f"{store.where}/{entry['name']} has another hash; run: uv run jobs/verify.py {store.where} --repair"
            )
        try:
            with safe_open(path, framework="numpy") as file:
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
                return parse_json(file.metadata()["keys"].encode()), arrays
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            raise DamagedUnit(f"{store.where}/{entry['name']} is no side-car: {shown(str(error))}") from None


def pack_row(unit: int, blob: UnitBlob, timings: dict[str, float]) -> pa.Table:
    """Return a unit as it travels between stages."""
    columns = {"unit": [unit], "payload": pa.array([blob.to_bytes()], pa.large_binary())}
    return pa.table(columns | {name: [seconds] for name, seconds in timings.items()})


def unpack_row(table: pa.Table) -> tuple[int, UnitBlob, dict[str, float]]:
    """Return what `pack_row` took."""
    row = table.to_pylist()[0]
    return row.pop("unit"), UnitBlob.from_bytes(row.pop("payload")), row
