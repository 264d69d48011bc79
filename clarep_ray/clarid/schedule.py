"""Noise schedules (App. B): x_t = alpha(t) x_0 + sigma(t) eps on a model's own clock."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

CLEAN_TIMESTEP = -1.0
"""The timestep of x_0 on a discrete clock: one before the first noisy one."""


@dataclass(frozen=True)
class DiscreteSchedule:
    """Variance-preserving schedule on timesteps 0..T-1, as DDPM, DiT and Stable Diffusion are trained.

    `alphas_cumprod` has shape (T,), float64, strictly decreasing in (0, 1): alpha = sqrt of it. `steps_offset`
    shifts the sampling grid by that many timesteps (1 for Stable Diffusion, else 0).
    """

    alphas_cumprod: Float[Tensor, " T"]
    steps_offset: int = 0

    def __post_init__(self) -> None:
        inside = bool(((self.alphas_cumprod > 0) & (self.alphas_cumprod < 1)).all())
        if not inside or not bool((self.alphas_cumprod.diff() < 0).all()):
            raise ValueError("alphas_cumprod: must fall strictly and stay within (0, 1)")

    @property
    def num_timesteps(self) -> int:
        return len(self.alphas_cumprod)

    def alpha_sigma(self, t: Float[Tensor, " n"]) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """Return alpha and sigma at integer timesteps, or at the clean time -1, which gives (1, 0).

        Raises ValueError for a time that is no trained timestep.
        """
        index = t.to(torch.float64)
        valid = (index == index.round()) & (index >= CLEAN_TIMESTEP) & (index < self.num_timesteps)
        if not bool(valid.all()):
            wrong = index[~valid][0].item()
            raise ValueError(f"t: {wrong} is no timestep; valid: integers from -1 (clean) to {self.num_timesteps - 1}")
        table = torch.cat([torch.ones(1, dtype=torch.float64), self.alphas_cumprod.to(torch.float64)])
        alpha_squared = table[index.long() + 1]
        return alpha_squared.sqrt(), (1 - alpha_squared).sqrt()

    def times(self, num_steps: int) -> Float[Tensor, " n"]:
        """Return [-1, offset, offset + s, ...] with s = T // num_steps (the DDIM "leading" grid)."""
        if not 1 <= num_steps <= self.num_timesteps:
            raise ValueError(f"num_steps: {num_steps} is outside 1..{self.num_timesteps}")
        stride = self.num_timesteps // num_steps
        noisy = torch.arange(num_steps, dtype=torch.float64) * stride + self.steps_offset
        return torch.cat([torch.tensor([CLEAN_TIMESTEP], dtype=torch.float64), noisy])


def linear_schedule(
    num_timesteps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02, steps_offset: int = 0
) -> DiscreteSchedule:
    """Return the DDPM schedule: betas linear from `beta_start` to `beta_end` (DiT, CIFAR-10 UNets)."""
    betas = torch.linspace(beta_start, beta_end, num_timesteps, dtype=torch.float64)
    return DiscreteSchedule(torch.cumprod(1 - betas, 0), steps_offset)


def path_to(schedule_times: Float[Tensor, " n"], project_t: float) -> Float[Tensor, " m"]:
    """Return the ascending grid from the clean time up to and including `project_t`.

    Raises ValueError, naming the nearest grid times, where `project_t` is not on the grid.
    """
    noisy = schedule_times[1:]
    hit = (noisy == project_t).nonzero()
    if len(hit) == 0:
        nearest = sorted(noisy[(noisy - project_t).abs().argsort()[:2]].tolist())
        raise ValueError(f"time {project_t:g} is not on the sampling grid; nearest: {nearest}")
    return schedule_times[: int(hit[0].item()) + 2]
