"""What memory a batch of an extraction takes, measured on small ones, and the largest batch that fits."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from clarep_ray.clarid.jacobian import FeatureJacobian
from clarep_ray.clarid.pipeline import Sampler
from clarep_ray.config import ExtractConfig
from clarep_ray.models.extractor import UnitExtractor
from clarep_ray.models.memory_limits import room_in_cgroups

PROBED = (1, 2)
"""Images of the batches that are measured."""
SHARE = 0.8
"""Of the free memory that a batch may take: allocators keep more than they hand out."""
KIB = 1024


@dataclass(frozen=True)
class BatchMemory:
    """Peak memory of a process with its model: so much, and so much more for each image of a batch [bytes]."""

    base: float
    per_image: float

    @staticmethod
    def through(peaks: Mapping[int, int]) -> BatchMemory:
        """Return the line through the peaks of batches of two sizes and more."""
        slope, base = np.polyfit(list(peaks), list(peaks.values()), 1)
        return BatchMemory(float(base), float(slope))

    def of(self, images: int) -> float:
        return self.base + images * self.per_image

    def __str__(self) -> str:
        return f"{self.base / 1e9:.2f} GB + {self.per_image / 1e9:.4f} GB per image"


def fitting_batch(memory: BatchMemory, free_bytes: float, unit_size: int) -> int:
    """Return how many images a network batch takes so that the fewest batches do a unit within the memory.

    Of these the smallest, for its last batch is padded the least. Raises ValueError where not one image fits.
    """
    room = SHARE * free_bytes - memory.base
    fitting = unit_size if room > 0 >= memory.per_image else int(room / max(memory.per_image, 1.0))
    if fitting < 1:
        raise ValueError(
            f"engine.micro_batch: None is not valid: one image takes {memory} of {free_bytes / 1e9:.2f} GB free, of "
            f"which {SHARE:.0%} may be used; valid: 1 and more on a machine with more memory, or a smaller model"
        )
    batches = -(-unit_size // min(fitting, unit_size))
    return -(-unit_size // batches)


def probe_memory(config: ExtractConfig, device: str, batches: Sequence[int] = PROBED) -> tuple[BatchMemory, int]:
    """Return what batches of an extraction take here, and the memory that was free before [bytes].

    Each batch does once whatever takes memory in an extraction, on grey pictures; the first one is done twice, for
    what libraries keep.
    """
    free = free_bytes(device)
    extractor = UnitExtractor(config, device)
    peaks: dict[int, int] = {}
    for size in (batches[0], *batches):
        reset_peak(device)
        _do_once(extractor, size)
        peaks[size] = peak_bytes(device)
    return BatchMemory.through(peaks), free


def _do_once(extractor: UnitExtractor, size: int) -> None:
    config, model = extractor.config, extractor.model
    x_0 = extractor.encode(np.full((size, model.image_size, model.image_size, 3), 128, np.uint8))
    sampler = Sampler(model, model.cond(torch.zeros(size, dtype=torch.long)), size, config)
    if config.needs_spectrum:
        _do_products(sampler, x_0)
    one_step = model.schedule.times(1)
    latents = sampler.decode(x_0, config.decoding.guidance_scale, one_step)
    keys = [str(number) for number in range(size)]
    sampler.features(latents, keys)
    extractor.to_images(latents)


def _do_products(sampler: Sampler, x_0: torch.Tensor) -> None:
    """Multiply one block, beside a basis as large as it may become and the copy that it is when it grows."""
    settings = sampler.config.spectrum
    ours = settings.solver == "block_lanczos"
    jacobian = FeatureJacobian(lambda x: sampler.model.features(x, sampler.t, sampler.cond, settings.layer), x_0)
    width = settings.block_size if ours else settings.num_directions
    kept = min(settings.max_products, jacobian.dim) if ours else 2 * settings.num_directions
    basis = [torch.ones(len(x_0), kept, jacobian.dim, device=x_0.device) for _ in range(2)]
    jacobian.gram(basis[0][:, : min(width, jacobian.dim)])


def reset_peak(device: str) -> None:
    """Forget earlier peaks of this process, and give back what earlier work has freed: it would hide what is new."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        ctypes.CDLL(None).malloc_trim(0)  # of glibc, which torch's builds for Linux need
        Path("/proc/self/clear_refs").write_text("5")


def peak_bytes(device: str) -> int:
    """Return the most memory in use since `reset_peak`: tensors on a GPU, the whole process on a CPU [bytes]."""
    return torch.cuda.max_memory_allocated() if device == "cuda" else _kib("/proc/self/status", "VmHWM")


def free_bytes(device: str) -> int:
    """Return the memory that this process may come to hold: what it has, and what nobody has [bytes].

    On a CPU within the limits of its control groups: a container's, or those of a job of a batch system.
    """
    if device == "cuda":
        return torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved()
    nobody_has = min(_kib("/proc/meminfo", "MemAvailable"), max(0.0, room_in_cgroups()))
    return int(nobody_has) + _kib("/proc/self/status", "VmRSS")


def _kib(path: str, name: str) -> int:
    values = dict(line.split(":", 1) for line in Path(path).read_text().splitlines())
    return int(values[name].split()[0]) * KIB
