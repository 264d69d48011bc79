"""What limits each stage of an extraction batch on this machine, and how near to that limit it is."""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import count
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clarep_ray import models
from clarep_ray.analysis.judges import originals_of
from clarep_ray.analysis.roofline import Ceilings, Counting, Counts, Stages, Stopwatch, fastest, measure_ceilings
from clarep_ray.analysis.size_benchmark import sized_settings
from clarep_ray.clarid.jacobian import FeatureJacobian
from clarep_ray.clarid.pipeline import OK, CLARepBatch, Sampler, choose_removal
from clarep_ray.clarid.projection import PROJECTIONS
from clarep_ray.clarid.svd import SingularTriplets, block_lanczos
from clarep_ray.config import ExtractConfig, LimitsBenchmarkConfig
from clarep_ray.data.inside import write_inside
from clarep_ray.data.store import OutputStore
from clarep_ray.data.units import UnitBlob, unit_files, unit_manifest
from clarep_ray.dotted import override
from clarep_ray.measured import Cell, Spread, Table
from clarep_ray.models.adapter import Adapter
from clarep_ray.models.extractor import decode_images, encode_images, spectrum_arrays
from clarep_ray.models.full_size import benchmarked
from clarep_ray.presets import EXTRACT
from clarep_ray.seeding import torch_generator

COLUMNS = {
    "stage": "",
    "s": ".4f",
    "share of the batch": ".1%",
    "GFLOP": ".3f",
    "GB moved": ".3f",
    "operators": "d",
    "arithmetic, s": ".4f",
    "memory, s": ".4f",
    "dispatch, s": ".4f",
    "limit": "",
    "reached": ".0%",
}
IDENTITY = {"label_map_sha256": "0" * 64, "classes_sha256": None, "fingerprint": "0" * 64}
PIXELS, ENCODING, COMMIT = "decode to pixels", "PNG and shard", "commit"


@dataclass(frozen=True)
class Batch:
    """One batch of an extraction: its model, settings and pictures."""

    model: Adapter
    settings: ExtractConfig
    images: NDArray[np.uint8]
    labels: Tensor
    keys: list[str]


@dataclass(frozen=True)
class Written:
    """What a batch became: its pictures, and the bytes that were committed."""

    pictures: NDArray[np.uint8]
    num_bytes: int


def run(config: LimitsBenchmarkConfig) -> list[Table]:
    """Return a row for each stage: seconds, what it asks of the machine, its limit, and the share of it reached.

    On the CPU with one thread. The limit is the resource that alone would take longest.
    """
    torch.set_num_threads(1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    batch = _batch(config, device)
    with tempfile.TemporaryDirectory() as scratch:
        store = OutputStore(Path(scratch, "out"))
        store.prepare()
        extract_batch(batch, store, 0, Stages(Stopwatch().take))  # lazy imports are nobody's speed
        turns = [Stages(Stopwatch().take) for _ in range(config.num_repeats)]
        for unit, stages in enumerate(turns, 1):
            extract_batch(batch, store, unit, stages)
        with Counting() as counting:
            counted = Stages(counting.take)
            written = extract_batch(batch, store, config.num_repeats + 1, counted)
        ceilings = measure_ceilings(device)
        files = _file_bounds(written, Path(scratch))
    seconds = {name: [sum(stages.found[name]) for stages in turns] for name in counted.found}
    counts = {name: reduce(add, found, Counts()) for name, found in counted.found.items()}
    rows = limit_rows(seconds, counts, ceilings, files)
    size = f"{config.model}{'' if config.depth is None else f', depth {config.depth}'}"
    about = f"{size}, a batch of {config.micro_batch}, M = {config.num_directions}, {config.num_steps} steps; " + (
        torch.cuda.get_device_name() if device == "cuda" else "CPU, one thread"
    )
    return [Table(COLUMNS, rows, [f"{about}. {_shown(ceilings)}"], "stages")]


def extract_batch(batch: Batch, store: OutputStore, unit: int, stage: Stages[Any]) -> Written:
    """Do with a batch what an extraction does, each part of it inside its stage, and commit it as the unit."""
    model, settings, keys = batch.model, batch.settings, batch.keys
    with stage("encode"):
        x_0 = encode_images(model, batch.images)
    with stage("invert and check"):
        sampler = Sampler(model, model.cond(batch.labels), len(keys), settings)
        inversion = sampler.invert(x_0)
    triplets = _triplets(sampler, inversion.x_t, keys, stage)
    with stage("elbow and projection"):
        removal = choose_removal(triplets, settings)
        inputs = sampler.projection_inputs(inversion.x_t, triplets, removal, keys)
        canonical, norm_ratio = PROJECTIONS[settings.projection.mode](inputs), inputs.norm_ratio
    with stage("decode with guidance"):
        latents = sampler.decode(canonical, settings.decoding.guidance_scale)
    with stage("features"):
        features, null_features = sampler.features(latents, keys)
    with stage(PIXELS):
        pictures = decode_images(model, latents).cpu().numpy()
    with stage(ENCODING):
        status = [OK] * len(keys)
        found = CLARepBatch(
            inversion, triplets, removal, canonical, latents, features, null_features, {}, status, norm_ratio
        )
        tensors = {"features": features, **spectrum_arrays(found)}
        arrays = {"samples": pictures} | {name: tensor.cpu().numpy() for name, tensor in tensors.items()}
        blob = UnitBlob(arrays, [_record(batch, number) for number in range(len(keys))])
        files = unit_files(blob, {"unit": unit}, (), keep_spectrum=False)
    with stage(COMMIT):
        store.commit(unit, files, unit_manifest(blob, IDENTITY))
    return Written(pictures, sum(map(len, files.values())))


def _triplets(sampler: Sampler, x_t: Tensor, keys: Sequence[str], stage: Stages[Any]) -> SingularTriplets:
    """Return what `Sampler.triplets` does by block Lanczos, its products and the rest of it told apart."""
    settings = sampler.config.spectrum
    with stage("singular vectors: recording J^T"):
        jacobian = FeatureJacobian(lambda x: sampler.model.features(x, sampler.t, sampler.cond, settings.layer), x_t)

    def products(vectors: Tensor) -> Tensor:
        with stage("singular vectors: products"):
            return jacobian.gram(vectors)

    with stage("singular vectors: orthogonalisation"):
        return block_lanczos(
            products,
            jacobian.dim,
            settings.num_directions,
            sampler.generators(keys, "svd"),
            block_size=settings.block_size,
            tolerance=settings.stops_at,
            max_products=settings.max_products,
            device=x_t.device,
        )


def limit_rows(
    seconds: dict[str, list[float]], counts: dict[str, Counts], ceilings: Ceilings, files: dict[str, tuple[str, float]]
) -> list[tuple[Cell, ...]]:
    """Return a row for each stage and one for all; `files`: limit and its seconds of those that write."""
    whole = Spread.of([sum(turn) for turn in zip(*seconds.values(), strict=True)])
    rows: list[tuple[Cell, ...]] = []
    bound_s = 0.0
    for name, turns in seconds.items():
        taken, asked = Spread.of(turns), counts[name]
        bounds = ceilings.bounds(asked)
        limit, least = files.get(name) or max(bounds.items(), key=lambda entry: entry[1])
        bound_s += least
        work = (asked.flops / 1e9, asked.moved_bytes / 1e9, asked.operators, *bounds.values())
        rows.append((name, taken, taken.value / whole.value, *work, limit, least / taken.value))
    total = reduce(add, counts.values(), Counts())
    work = (total.flops / 1e9, total.moved_bytes / 1e9, total.operators, *ceilings.bounds(total).values())
    return [*rows, ("all of it", whole, 1.0, *work, "each its own", bound_s / whole.value)]


def _file_bounds(written: Written, folder: Path) -> dict[str, tuple[str, float]]:
    """Return what limits the stages that write: packing the same pixels by zlib, and one durable file of the bytes."""
    pixels, content = written.pictures.tobytes(), b"\0" * written.num_bytes
    numbers = count()  # a new name each time: file systems are slower where a file is replaced
    return {
        ENCODING: ("zlib", fastest(lambda: zlib.compress(pixels))),
        COMMIT: ("disk", fastest(lambda: write_inside(folder, f"content-{next(numbers)}", content))),
    }


def _shown(ceilings: Ceilings) -> str:
    memory = ", ".join(f"{speed / 1e9:.0f} at {size / 2**20:.0f} MiB" for size, speed in ceilings.bytes_per_s.items())
    return (
        f"Ceilings, measured in the same run: {ceilings.flops_per_s / 1e9:.0f} GFLOP/s in a float32 product; "
        f"{memory} GB/s of triads that move so much; {ceilings.operator_s * 1e6:.2f} us for an operator of one element"
    )


def _batch(config: LimitsBenchmarkConfig, device: str) -> Batch:
    keys = [str(number) for number in range(config.micro_batch)]
    changes: dict[str, Any] = {"inversion.num_steps": config.num_steps}
    changes |= {"spectrum.num_directions": config.num_directions, "output.extras": ()}
    changes |= {"decoding.guidance_scale": config.guidance_scale}
    if config.model == "digits":
        settings = override(EXTRACT["digits"]().config, changes)
        rows = originals_of(settings.data.digits, list(range(len(keys))))
        images, labels = np.stack([row.image for row in rows]), torch.tensor([row.label for row in rows])
        return Batch(models.build(settings.model).to(device), settings, images, labels, keys)
    model = benchmarked(config.model, config.depth).to(device)
    settings = override(sized_settings(model, config.num_steps, config.num_directions), changes)
    draws = [torch_generator(0, key, "limits_benchmark") for key in keys]
    shape = (model.image_size, model.image_size, 3)
    images = torch.stack([torch.randint(256, shape, generator=draw, dtype=torch.uint8) for draw in draws]).numpy()
    labels = torch.arange(len(keys)) % len(model.classes)
    return Batch(model, settings, images, labels, keys)


def _record(batch: Batch, number: int) -> dict[str, Any]:
    """Return what a decoded unit says about a row that went well."""
    label, key = int(batch.labels[number]), batch.keys[number]
    named = {"key": key, "id": key, "source": key, "label": label, "class_name": str(label)}
    return named | {"status": OK, "reason": None, "slot": number, "elbow_method": "kneed"}
