"""What the engine itself costs, by actors, by units and by images: the model is replaced by the time it takes."""

from __future__ import annotations

import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from clarep_ray import dotted
from clarep_ray.cluster import runtime
from clarep_ray.cluster.extract import open_extraction, run_context, stream, worker_counts
from clarep_ray.cluster.stages import ExtractStage, RunContext, pack_row, unpack_row
from clarep_ray.config import ExtractConfig, ScalingBenchmarkConfig
from clarep_ray.data.manifest import MANIFEST
from clarep_ray.data.sources import open_source
from clarep_ray.data.units import UnitBlob, decode_unit, merge_results
from clarep_ray.dotted import override
from clarep_ray.measured import Cell, Table

KIB, MIB = 1024, 2**20
SAMPLED_EVERY = 100
"""Units between two looks at the driver's memory."""


class PacedStage(ExtractStage):
    """An actor that takes a given time for a unit and returns the results of another one."""

    def __init__(self, context: RunContext, results: bytes, unit_s: float) -> None:
        self.context, self.unit_s = context, unit_s
        self.results = UnitBlob.from_bytes(results)

    def __call__(self, table: pa.Table) -> pa.Table:
        unit, decoded, timings = unpack_row(table)
        began = time.monotonic()
        finished = merge_results(decoded, self.results.arrays, self.results.records)
        time.sleep(max(0.0, self.unit_s - (time.monotonic() - began)))
        ended = time.monotonic()  # one clock for all processes of a machine
        mine = {"actor": float(os.getpid()), "began": began, "ended": ended, "extract_s": ended - began}
        return pack_row(unit, finished, timings | mine)


@dataclass(frozen=True)
class Streamed:
    """A run's units, and what its driver took for them."""

    reports: list[dict[str, Any]]
    wall_s: float
    """From the first unit's begin to the last one's end."""
    cpu_s: float
    """Of the driver, from the first report on."""
    memory: list[int]
    """The driver's own memory at every so many reports [bytes]."""


def run(config: ScalingBenchmarkConfig, extract: ExtractConfig) -> list[Table]:
    """Return actors against the ideal, the driver against units, planning against images."""
    runtime.connect(num_cpus=2 * max(config.actors) + 1)  # actors that sleep need no cores of their own
    results = _results_of_one_unit(extract)
    parts = [_actors_table(config, extract, results)]
    if config.driver_units:
        parts.append(_driver_table(config, extract, results))
    runtime.shutdown()
    return [*parts, _plan_table(config)]


def _actors_table(config: ScalingBenchmarkConfig, extract: ExtractConfig, results: bytes) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for actors in config.actors:
        units = actors * config.units_per_actor
        found = _streamed(extract, results, actors, units, config.unit_s)
        rows.append((actors, units, units / found.wall_s, _at_work(found.reports)))
    note = f"A unit costs its actor {config.unit_s:g} s; at work: of the time between its first unit and its last."
    columns = {"actors": "d", "units": "d", "units/s": ".3f", "actors at work": ".1%"}
    return Table(columns, rows, [note], "actors")


def _at_work(reports: list[dict[str, Any]]) -> float:
    """Return the actors' share of time in units, from each one's first begin to its last end."""
    by_actor: dict[float, list[dict[str, Any]]] = {}
    for report in reports:
        by_actor.setdefault(report["actor"], []).append(report)
    held = sum(max(r["ended"] for r in mine) - min(r["began"] for r in mine) for mine in by_actor.values())
    return sum(report["extract_s"] for report in reports) / held


def _driver_table(config: ScalingBenchmarkConfig, extract: ExtractConfig, results: bytes) -> Table:
    units, actors = config.driver_units, max(config.actors)
    with tempfile.TemporaryDirectory() as scratch:
        found = _streamed(extract, results, actors, units, 0.0, Path(scratch))
        began = time.monotonic()
        with open_extraction(_config(extract, units, actors, Path(scratch)), _silent) as extraction:
            done = sum(1 for _ in extraction.store.each_committed(to_the_byte=False))
        again = time.monotonic() - began
    assert done == units, "every unit was committed"
    memory = {
        f"MiB at {25 * share} %": found.memory[round(share * (len(found.memory) - 1) / 4)] / MIB for share in range(5)
    }
    columns = {"actors": "d", "units": "d", "units/s": ".1f", "CPU ms per unit": ".1f", **dict.fromkeys(memory, ".0f")}
    columns |= {"opened again in s": ".2f", "ms per unit": ".2f"}
    row = (actors, units, units / found.wall_s, 1e3 * found.cpu_s / units, *memory.values(), again, 1e3 * again / units)
    return Table(columns, [row], ["The driver, with units that cost nothing."], "driver")


def _plan_table(config: ScalingBenchmarkConfig) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for images in config.plan_images:
        with tempfile.TemporaryDirectory() as scratch:
            first, again = (_in_a_process_of_its_own(images, scratch) for _ in range(2))
        peak = max(first[1], again[1]) / MIB
        rows.append((images, first[0], again[0], peak, first[2] / MIB))
    note = "Memory: the highest above that of a process that has planned a hundred images."
    columns = {"images": "d", "planned in s": ".1f", "opened again in s": ".1f"}
    return Table(columns | {"memory, MiB": ".0f", "input.parquet, MiB": ".1f"}, rows, [note], "plan")


def _in_a_process_of_its_own(images: int, scratch: str) -> tuple[float, int, int]:
    """Return what `_plan` does, measured where nothing else was in memory before."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_plan, images, scratch).result()


def _plan(images: int, scratch: str) -> tuple[float, int, int]:
    """Plan so many images without files and open the output; return seconds, memory and the manifest's bytes."""
    with tempfile.TemporaryDirectory() as warm, open_extraction(_noise(100, warm), _silent):
        before = _highest_memory()
    began = time.monotonic()
    with open_extraction(_noise(images, scratch), _silent) as extraction:
        taken = time.monotonic() - began
        size = extraction.store.size(MANIFEST)
    return taken, _highest_memory() - before, size


def _noise(images: int, output: str) -> ExtractConfig:
    """Return an extraction that reads no files."""
    from clarep_ray.presets import EXTRACT

    return override(
        EXTRACT["fresh_samples_smoke"]().config,
        {
            "data.classes": (),
            "data.per_class": images // 10,
            "data.limit": images,
            "engine.unit_size": 64,
            "output.path": output,
            "tracking.enabled": False,
        },
    )


def _highest_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB


def _streamed(
    extract: ExtractConfig, results: bytes, actors: int, units: int, unit_s: float, scratch: Path | None = None
) -> Streamed:
    with (
        tempfile.TemporaryDirectory() as own,
        open_extraction(_config(extract, units, actors, scratch or Path(own)), _silent) as extraction,
    ):
        context = run_context(extraction.plan, extraction.store, extraction.manifest)
        workers = worker_counts(extraction.plan.config, runtime.connect(), units)
        reports = stream(context, range(units), workers | {"gpus_per_actor": 0}, PacedStage, (results, unit_s))
        return _watched(reports)


def _watched(reports: Iterator[dict[str, Any]]) -> Streamed:
    seen: list[dict[str, Any]] = []
    memory: list[int] = []
    cpu = 0.0
    for report in reports:
        cpu = cpu or time.process_time()
        if len(seen) % SAMPLED_EVERY == 0:
            memory.append(_memory())
        seen.append(report)
    wall = max(report["ended"] for report in seen) - min(report["began"] for report in seen)
    return Streamed(seen, wall, time.process_time() - cpu, [*memory, _memory()])


def _memory() -> int:
    """Return the resident memory of this process [bytes]."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def _results_of_one_unit(extract: ExtractConfig) -> bytes:
    """Return what the model makes of one unit: the bytes that every unit of the benchmark is committed as."""
    from clarep_ray.models.extractor import UnitExtractor

    with tempfile.TemporaryDirectory() as scratch:
        with open_extraction(_config(extract, 1, 1, Path(scratch)), _silent) as extraction:
            plan, rows = extraction.plan, extraction.manifest.unit_rows(0)
        decoded = decode_unit(open_source(plan.config.data, None), rows, plan.image_size, plan.config.data)
        labels, keys = [row.label for row in rows], [row.image_key for row in rows]
        arrays, records = UnitExtractor(plan.config).run(decoded.arrays["images"], labels, keys)
    return UnitBlob(arrays, records).to_bytes()


def _config(extract: ExtractConfig, units: int, actors: int, scratch: Path) -> ExtractConfig:
    changes: dict[str, Any] = {"data.digits.count": units * extract.engine.unit_size, "data.limit": None}
    changes |= {"engine.num_actors": actors, "output.path": str(scratch / "out"), "tracking.enabled": False}
    return dotted.override(extract, changes)


def _silent(_: str) -> None:
    return None
