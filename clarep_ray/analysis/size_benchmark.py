"""What one image costs at a released model's size: stages, images/s, memory, and k across precisions."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from clarep_ray.analysis.tables import table_line
from clarep_ray.clarid.directions import leading, project_out
from clarep_ray.clarid.pipeline import choose_removal, leading_triplets
from clarep_ray.clarid.sampling import decode, guided_eps, invert
from clarep_ray.clarid.schedule import path_to
from clarep_ray.config import ExtractConfig, SizeBenchmarkConfig
from clarep_ray.dotted import override
from clarep_ray.models.adapter import NetworkAdapter
from clarep_ray.models.full_size import FULL_SIZE
from clarep_ray.seeding import torch_generator

STAGES = ("encode", "invert and check", "singular vectors", "project and decode")
HEADER = (
    *("precision", "batch", "images/s"),
    *(f"{stage}, s/image" for stage in STAGES),
    *("products", "met", "GB", "k", "same k"),
)


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
    """Of the GPU's memory; 0 on the CPU."""
    num_removed: tuple[int, ...]

    def cells(self, reference: SizeRow) -> list[str]:
        """Return the row; `same k` counts pictures whose k is that of the first precision."""
        same = sum(a == b for a, b in zip(self.num_removed, reference.num_removed, strict=True))
        stages = [f"{seconds / self.batch:.3f}" for seconds in self.seconds]
        memory = f"{self.peak_bytes / 1e9:.1f}" if self.peak_bytes else "-"
        found = " ".join(map(str, self.num_removed[:4]))
        rate = f"{self.batch / sum(self.seconds):.4f}"
        return [
            self.precision,
            str(self.batch),
            rate,
            *stages,
            f"{self.products:.0f}",
            f"{self.met:.0%}",
            memory,
            found,
            f"{same}/{self.batch}",
        ]


def run(config: SizeBenchmarkConfig) -> str:
    """Return markdown, one row per precision and batch size; "out of memory" where a batch does not fit."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    lines = [table_line(HEADER), table_line(["---"] * len(HEADER))]
    first: dict[int, SizeRow] = {}
    for precision in config.precisions:
        torch.manual_seed(0)
        model = FULL_SIZE[config.model](config.depth)
        _set_precision(model, precision)
        model.to(device)
        for batch in config.micro_batches:
            try:
                row = _measure(model, config, precision, batch)
                lines.append(table_line(row.cells(first.setdefault(batch, row))))
            except torch.cuda.OutOfMemoryError:
                lines.append(table_line([precision, str(batch), "out of memory", *["-"] * (len(HEADER) - 3)]))
                torch.cuda.empty_cache()
        del model
    size = f"{config.model}, {'all blocks' if config.depth is None else f'depth {config.depth}'}, random weights"
    place = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return "\n".join([*lines, "", f"{size}; {place}; k of the first four pictures; same k: as {config.precisions[0]}"])


def _set_precision(model: NetworkAdapter, precision: str) -> None:
    allowed = precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
    if not allowed:
        model.set_precision(getattr(torch, precision))


def _measure(model: NetworkAdapter, config: SizeBenchmarkConfig, precision: str, batch: int) -> SizeRow:
    run, cond, null = _settings(model, config), *_conditions(model, batch)
    times = path_to(model.schedule.times(config.num_steps), run.inversion.project_t)
    keys = [str(i) for i in range(batch)]
    pictures = torch.stack([torch.rand(3, model.image_size, model.image_size, generator=_draw(key)) for key in keys])
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    clock = _Clock()
    x_0 = model.encode(pictures.to(model.device) * 2 - 1)
    clock.lap()
    denoise = guided_eps(model, cond, None, 1.0)
    x_t = invert(denoise, x_0, model, times)
    decode(denoise, x_t, model, times)
    clock.lap()
    triplets = leading_triplets(model, x_t, run.inversion.project_t, cond, run.spectrum, [_draw(key) for key in keys])
    removal = choose_removal(triplets, run)
    clock.lap()
    canonical = project_out(x_t, leading(triplets.right_vectors, removal.num_removed))
    guided = guided_eps(model, cond, null, config.guidance_scale)
    model.decode(decode(guided, canonical, model, times))
    clock.lap()
    return SizeRow(
        precision=precision,
        batch=batch,
        seconds=tuple(clock.laps),
        products=triplets.num_products.float().mean().item(),
        met=triplets.converged.float().mean().item(),
        peak_bytes=torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0,
        num_removed=tuple(removal.num_removed.tolist()),
    )


def _settings(model: NetworkAdapter, config: SizeBenchmarkConfig) -> ExtractConfig:
    grid = model.schedule.times(config.num_steps)
    changes = {
        "inversion.num_steps": config.num_steps,
        "inversion.project_t": grid[1 + int(0.7 * config.num_steps)].item(),
        "spectrum.layer": "mid_block" if "mid_block" in model.feature_layers else model.feature_layers[-1],
        "spectrum.num_directions": config.num_directions,
        "spectrum.tolerance": config.tolerance,
        "spectrum.max_products": max(config.max_products, config.num_directions),
    }
    return override(ExtractConfig(), changes)


def _conditions(model: NetworkAdapter, batch: int) -> tuple[Tensor, Tensor]:
    return model.cond(torch.arange(batch) % 1000), model.null_cond(batch)


def _draw(key: str) -> torch.Generator:
    return torch_generator(0, key, "size_benchmark")


class _Clock:
    """Seconds of each lap, with the GPU's work done."""

    def __init__(self) -> None:
        self.laps: list[float] = []
        self._began = self._now()

    def lap(self) -> None:
        now = self._now()
        self.laps.append(now - self._began)
        self._began = now

    def _now(self) -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()
