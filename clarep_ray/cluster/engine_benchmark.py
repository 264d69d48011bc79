"""The engine against the same actor called in a plain loop, in one run."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import torch

from clarep_ray.cluster.extract import run_extraction
from clarep_ray.cluster.plan import make_plan
from clarep_ray.cluster.stages import extract_unit, finished_files
from clarep_ray.config import EngineBenchmarkConfig, ExtractConfig
from clarep_ray.data.manifest import write_manifest
from clarep_ray.data.sources import open_source
from clarep_ray.data.store import UNITS
from clarep_ray.data.units import decode_unit
from clarep_ray.dotted import override
from clarep_ray.measured import Spread, Table

COLUMNS = {"what": "", "images/s": ".3f", "over the plain loop": ".3f"}


def run(config: EngineBenchmarkConfig, extract: ExtractConfig) -> list[Table]:
    """Return images/s of a plain loop and of the pipeline with one actor, in turn, and their ratio in each turn."""
    turns = [_turn(config, extract) for _ in range(config.num_repeats)]
    names = (
        "plain loop: decode, extract, encode, one thread",
        "Ray Data pipeline, one actor, after its first unit",
        "the same, start-up included",
    )
    rows = [
        (name, Spread.of([turn[i] for turn in turns]), Spread.of([turn[i] / turn[0] for turn in turns]))
        for i, name in enumerate(names)
    ]
    note = f"{config.num_images} images, units of {extract.engine.unit_size}; {config.num_repeats} turns."
    return [Table(COLUMNS, rows, [note])]


def _turn(config: EngineBenchmarkConfig, extract: ExtractConfig) -> tuple[float, float, float]:
    """Return images/s of the plain loop, of the steady pipeline, and of the pipeline with its start-up."""
    with tempfile.TemporaryDirectory() as scratch:
        changes = {"data.digits.count": config.num_images, "engine.num_actors": 1, "tracking.enabled": False}
        run = override(extract, changes | {"output.path": f"{scratch}/out"})
        plain = _plain_loop(run, Path(scratch))
        summary = run_extraction(run, lambda _: None)
        # Reports reach the driver late and in bundles; the files say when each unit was committed.
        commits = sorted(path.stat().st_mtime for path in Path(scratch, "out", UNITS).iterdir())
    steady = (summary["num_inputs"] - run.engine.unit_size) / (commits[-1] - commits[0])
    return plain, steady, summary["images_per_s"]


def _plain_loop(config: ExtractConfig, scratch: Path) -> float:
    """Return images per second of one process that does one unit after another, after its first unit."""
    from clarep_ray.models.extractor import UnitExtractor

    plan = make_plan(config)
    manifest = write_manifest(plan.rows, scratch / "input.parquet", config.engine.unit_size)
    source = open_source(config.data, None)
    extractor = UnitExtractor(config, "cuda" if torch.cuda.is_available() else "cpu")  # where the actor will be
    began, images = 0.0, 0
    for unit in range(manifest.num_units):
        if unit == 1:
            began = time.monotonic()
        decoded = decode_unit(source, manifest.unit_rows(unit), plan.image_size, config.data)
        finished_files(extract_unit(extractor, decoded), unit, config, plan.provenance)
        images += len(decoded.records) if unit else 0
    return images / (time.monotonic() - began)
