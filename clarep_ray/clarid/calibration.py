"""What a calibration samples: two-stage sampling for t_e (Sec. 3.2.1, App. H.1) and candidate times on a grid."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clarep_ray.clarid.model import DiffusionModel
from clarep_ray.clarid.sampling import decode, guided_eps
from clarep_ray.clarid.schedule import path_to


def two_stage(
    model: DiffusionModel,
    labels: Int[Tensor, " b"],
    noise: Float[Tensor, " b *latent"],
    num_steps: int,
    switches: Sequence[float],
    guidance_scale: float = 1.0,
) -> Iterator[tuple[float, Float[Tensor, " b *latent"]]]:
    """Yield (t_e, clean latents) for every t_e of `switches`, from the noisiest down (Sec. 3.2.1).

    The class is unknown from pure noise down to t_e and known from there; all t_e share one unconditional path.
    `noise` is standard normal. Raises ValueError where the model has no unconditional branch, or a time is not on
    the grid of `num_steps`.
    """
    grid = model.schedule.times(num_steps)
    without = guided_eps(model, model.null_cond(len(labels)), None, 1.0)
    null_cond = model.null_cond(len(labels)) if guidance_scale != 1.0 else None
    with_class = guided_eps(model, model.cond(labels), null_cond, guidance_scale)
    alpha, sigma = (scale.item() for scale in model.schedule.alpha_sigma(grid[-1:]))
    x_t, above = noise * math.hypot(alpha, sigma), grid
    for switch in sorted(switches, reverse=True):
        below = path_to(grid, switch)
        x_t = decode(without, x_t, model, above[len(below) - 1 :])
        above = below
        yield switch, decode(with_class, x_t, model, below)


def spread_times(grid: Float[Tensor, " n"], count: int) -> tuple[float, ...]:
    """Return `count` noisy times of an ascending grid, evenly spread over its steps, the noisiest included."""
    steps = torch.linspace(0, len(grid) - 1, min(count, len(grid) - 1) + 1).round().long()[1:]
    return tuple(grid[steps].tolist())


def neighbour_times(grid: Float[Tensor, " n"], t: float, share: float) -> tuple[float, ...]:
    """Return the times `share` of the grid's steps below and above `t`, and `t`; ends of the grid cut them off."""
    here = int((grid - t).abs().argmin().item())
    apart = max(1, round(share * (len(grid) - 1)))
    return tuple(grid[step].item() for step in (here - apart, here, here + apart) if 1 <= step < len(grid))


def nearest_time(grid: Float[Tensor, " n"], t: float) -> float:
    """Return the noisy time of a grid that is closest to `t`."""
    noisy = grid[1:]
    return noisy[(noisy - t).abs().argmin()].item()
