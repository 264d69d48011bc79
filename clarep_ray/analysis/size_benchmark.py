"""What one image costs at a released model's size: stages, images/s, memory, and k across precisions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from clarep_ray.analysis.roofline import Stopwatch
from clarep_ray.clarid.directions import leading, project_out
from clarep_ray.clarid.pipeline import choose_removal, leading_triplets
from clarep_ray.clarid.sampling import decode, guided_eps, invert
from clarep_ray.clarid.schedule import path_to
from clarep_ray.config import ExtractConfig, SizeBenchmarkConfig
from clarep_ray.dotted import override
from clarep_ray.measured import Cell, Table
from clarep_ray.models.adapter import Adapter, NetworkAdapter
from clarep_ray.models.batch_memory import BatchMemory, peak_bytes, reset_peak
from clarep_ray.models.full_size import FULL_SIZE, jacobian_layer
from clarep_ray.seeding import torch_generator

STAGES = ("encode", "invert and check", "singular vectors", "project and decode")
COLUMNS = {
    "precision": "",
    "batch": "d",
    "images/s": ".4f",
    **{f"{stage}, s/image": ".3f" for stage in STAGES},
    "products": ".0f",
    "met": ".0%",
    "GB": ".2f",
    "k": "",
    "same k": "",
}


@dataclass(frozen=True)
class SizeRow:
    """One precision and batch size."""

    precision: str
    batch: int
    seconds: tuple[float, ...]
    """Of each stage for the whole batch."""
    products: float
    met: float
    """Share of samples that met the solver's tolerance."""
    peak_bytes: int
    """Of the GPU's memory, or of the process on a CPU."""
    num_removed: tuple[int, ...]

    def cells(self, reference: SizeRow) -> tuple[Cell, ...]:
        """Return the row; `same k` counts pictures whose k is that of the first precision."""
        same = sum(a == b for a, b in zip(self.num_removed, reference.num_removed, strict=True))
        return (
            self.precision,
            self.batch,
            self.batch / sum(self.seconds),
            *(seconds / self.batch for seconds in self.seconds),
            self.products,
            self.met,
            self.peak_bytes / 1e9,
            " ".join(map(str, self.num_removed[:4])),
            f"{same}/{self.batch}",
        )


def run(config: SizeBenchmarkConfig) -> list[Table]:
    """Return one row per precision and batch size, "out of memory" where a batch does not fit, and memory per image."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows: list[tuple[Cell, ...]] = []
    first: dict[int, SizeRow] = {}
    memory: list[str] = []
    for precision in config.precisions:
        torch.manual_seed(0)
        model = FULL_SIZE[config.model](config.depth)
        _set_precision(model, precision)
        model.to(device)
        if config.compile:
            model.compile()
        peaks: dict[int, int] = {}
        for batch in config.micro_batches:
            try:
                row = _measure(model, config, precision, batch)
                peaks[batch] = row.peak_bytes
                rows.append(row.cells(first.setdefault(batch, row)))
            except torch.cuda.OutOfMemoryError:
                rows.append((precision, batch, "out of memory", *[None] * (len(COLUMNS) - 3)))
                torch.cuda.empty_cache()
        del model
        memory += [f"{precision} {BatchMemory.through(peaks)}"] if len(peaks) > 1 else []
    size = f"{config.model}, {'all blocks' if config.depth is None else f'depth {config.depth}'}, random weights"
    size += ", compiled" if config.compile else ""
    place = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    notes = [f"{size}; {place}; k of the first four pictures; same k: as {config.precisions[0]}."]
    return [Table(COLUMNS, rows, [*notes, *([f"Memory at its peak: {'; '.join(memory)}."] if memory else [])])]


def _set_precision(model: NetworkAdapter, precision: str) -> None:
    allowed = precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
    if not allowed:
        model.set_precision(getattr(torch, precision))


def _measure(model: NetworkAdapter, config: SizeBenchmarkConfig, precision: str, batch: int) -> SizeRow:
    limits = {
        "spectrum.tolerance": config.tolerance,
        "spectrum.max_products": max(config.max_products, config.num_directions),
    }
    run = override(sized_settings(model, config.num_steps, config.num_directions), limits)
    cond, null = _conditions(model, batch)
    times = path_to(model.schedule.times(config.num_steps), run.inversion.project_t)
    keys = [str(i) for i in range(batch)]
    pictures = torch.stack([torch.rand(3, model.image_size, model.image_size, generator=_draw(key)) for key in keys])
    device = model.device.type
    model.eps(torch.zeros(batch, *model.latent_shape, device=model.device), run.inversion.project_t, cond)  # warm
    reset_peak(device)
    clock, laps = Stopwatch(), list[float]()
    x_0 = model.encode(pictures.to(model.device) * 2 - 1)
    laps.append(clock.take())
    denoise = guided_eps(model, cond, None, 1.0)
    x_t = invert(denoise, x_0, model, times)
    decode(denoise, x_t, model, times)
    laps.append(clock.take())
    triplets = leading_triplets(model, x_t, run.inversion.project_t, cond, run.spectrum, [_draw(key) for key in keys])
    removal = choose_removal(triplets, run)
    laps.append(clock.take())
    canonical = project_out(x_t, leading(triplets.right_vectors, removal.num_removed))
    guided = guided_eps(model, cond, null, config.guidance_scale)
    model.decode(decode(guided, canonical, model, times))
    laps.append(clock.take())
    return SizeRow(
        precision=precision,
        batch=batch,
        seconds=tuple(laps),
        products=triplets.num_products.float().mean().item(),
        met=triplets.converged.float().mean().item(),
        peak_bytes=peak_bytes(device),
        num_removed=tuple(removal.num_removed.tolist()),
    )


def sized_settings(model: Adapter, num_steps: int, num_directions: int) -> ExtractConfig:
    """Return an extraction at 0.7 of the grid, with features of the layer of the Jacobian, that any model can do."""
    grid = model.schedule.times(num_steps)
    layer = jacobian_layer(model)
    changes: dict[str, Any] = {
        "inversion.num_steps": num_steps,
        "inversion.project_t": grid[1 + int(0.7 * num_steps)].item(),
        "spectrum.layer": layer,
        "spectrum.num_directions": num_directions,
        "features.layer": layer,
        "features.feature_t": grid[1].item(),
    }
    return override(ExtractConfig(), changes)


def _conditions(model: NetworkAdapter, batch: int) -> tuple[Tensor, Tensor]:
    return model.cond(torch.arange(batch) % 1000), model.null_cond(batch)


def _draw(key: str) -> torch.Generator:
    return torch_generator(0, key, "size_benchmark")
