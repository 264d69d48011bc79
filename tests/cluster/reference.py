"""The same work without Ray: one process, one unit after another. What the engine must reproduce byte by byte."""

import hashlib
import re
from pathlib import Path
from typing import Any

import torch

from clarep_ray import dotted
from clarep_ray.cluster.plan import Plan, make_plan
from clarep_ray.cluster.stages import extract_unit, finished_files
from clarep_ray.config import ExtractConfig, Given
from clarep_ray.config.given import GivenData, GivenModel
from clarep_ray.data.manifest import write_manifest
from clarep_ray.data.shards import sha256_file
from clarep_ray.data.sources import open_source
from clarep_ray.data.store import SHARDS, OutputStore
from clarep_ray.data.units import decode_unit
from clarep_ray.dotted import override
from clarep_ray.models.digits_dit import DigitsDitArchitecture, build_tiny, save
from clarep_ray.models.extractor import UnitExtractor
from clarep_ray.presets import EXTRACT

SMALL: dict[str, Any] = {
    "inversion.num_steps": 5,
    "inversion.project_t": 600.0,
    "spectrum.num_directions": 4,
    "spectrum.layer": "transformer_blocks.1",
    "features.layer": "transformer_blocks.0",
    "engine.unit_size": 4,
    "engine.micro_batch": 3,
    "output.extras": (),
    "tracking.enabled": False,
    "health.enabled": False,
    "engine.num_actors": 1,
    "data.source": "image_folder",
}


def tiny_weights(folder: Path) -> Path:
    """Write a randomly initialised 8x8 model and return its folder."""
    sizes = DigitsDitArchitecture(image_size=8, patch_size=2, hidden_size=16, num_blocks=2, num_heads=2)
    save(build_tiny().network, sizes, folder, torch.float32)
    return folder


def small_config(weights: Path, images: Path, output: Path | str, **changes: Any) -> ExtractConfig:
    """Return a run of seconds: a tiny model on an image folder."""
    paths = {"model.weights": str(weights), "data.path": str(images), "output.path": str(output)}
    renamed = {name.replace("__", "."): value for name, value in changes.items()}
    return override(EXTRACT["digits_smoke"]().config, SMALL | paths | renamed)


def given(weights: Path, images: Path) -> Given:
    """Return what a repair of a small run is told beside its output."""
    return Given(model=GivenModel(weights=str(weights)), data=GivenData(path=str(images)))


def command_line(config: ExtractConfig) -> list[str]:
    """Return the arguments of jobs/extract.py that say the same as a small run's config."""
    plain, arguments = dotted.flatten(EXTRACT["digits_smoke"]().config), ["--preset", "digits_smoke"]
    for name, value in dotted.flatten(config).items():
        flag = f"--{name.replace('_', '-')}"
        if value == plain[name]:
            continue
        if isinstance(value, bool):
            arguments.append(flag if value else ".no-".join(flag.rsplit(".", 1)))
        else:
            arguments += [flag, *map(str, value if isinstance(value, tuple) else [value])]
    return arguments


def plain_loop(config: ExtractConfig, scratch: Path) -> dict[int, dict[str, str]]:
    """Return {unit: {"shards": sha256, ...}} computed one unit after another in this process."""
    plan: Plan = make_plan(config)
    manifest = write_manifest(plan.rows, scratch / "input.parquet", config.engine.unit_size)
    source = open_source(config.data, None)
    extractor = UnitExtractor(config)
    hashes: dict[int, dict[str, str]] = {}
    for unit in range(manifest.num_units):
        decoded = decode_unit(source, manifest.unit_rows(unit), plan.image_size, config.data)
        files = finished_files(extract_unit(extractor, decoded), unit, config, plan.provenance)
        hashes[unit] = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    return hashes


def committed_hashes(folder: Path) -> dict[int, dict[str, str]]:
    """Return {unit: {"shards": sha256, ...}} of an output, each file checked against its manifest."""
    found: dict[int, dict[str, str]] = {}
    for unit, manifest in OutputStore(folder).committed_units().items():
        for entry in manifest["files"].values():
            assert sha256_file(folder / entry["name"]) == entry["sha256"]
        found[unit] = {name: entry["sha256"] for name, entry in manifest["files"].items()}
    listed = {path.name for path in (folder / SHARDS).iterdir()}
    named = {Path(m["files"][SHARDS]["name"]).name for m in OutputStore(folder).committed_units().values()}
    assert listed == named, "a visible shard that no manifest names"
    return found


def attempts(folder: Path) -> list[str]:
    """Return the names UNIT.ATTEMPT of every start of the model on a unit, over all runs."""
    return sorted(path.name for path in starts(folder))


def starts(folder: Path, piece: str = r"\d{6}") -> list[Path]:
    """Return the notes of every start of the model on a unit, or on another piece of work."""
    notes = (folder / "attempts").rglob("*.*")
    return [path for path in notes if re.fullmatch(rf"{piece}\.\d+", path.name)]


def committed_keys(folder: Path) -> list[str]:
    """Return the keys of every row of every committed unit."""
    units = OutputStore(folder).committed_units().values()
    return [row["key"] for manifest in units for row in manifest["rows"]]


def flip_byte(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(bytes(data))
