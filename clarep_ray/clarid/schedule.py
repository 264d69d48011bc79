"""Noise schedules (App. B): x_t = alpha(t) x_0 + sigma(t) eps on a model's own clock."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from clarep_ray.clarid.model import NoiseSchedule
from clarep_ray.config import InversionConfig

SAME_TIME = 1e-5
"""Relative distance below which a time counts as one of the grid."""


@dataclass(frozen=True)
class DiscreteSchedule:
    """Variance-preserving schedule on T integer timesteps, as DDPM, DiT and Stable Diffusion are trained.

    `alphas_cumprod` has shape (T,), float64, strictly decreasing in (0, 1): alpha = sqrt of it. `steps_offset`
    shifts the sampling grid by that many timesteps (1 for Stable Diffusion, else 0). `clean_alpha_squared` is
    alpha^2 where sampling ends: 1, or that of the smallest trained noise, whose result is taken as it is. The clock
    begins at `first_timestep` (1 for U-ViT, else 0); the clean time is the one before it.
    """

    alphas_cumprod: Float[Tensor, " T"]
    steps_offset: int = 0
    clean_alpha_squared: float = 1.0
    first_timestep: int = 0

    def __post_init__(self) -> None:
        inside = bool(((self.alphas_cumprod > 0) & (self.alphas_cumprod < 1)).all())
        if not inside or not bool((self.alphas_cumprod.diff() < 0).all()):
            raise ValueError("alphas_cumprod: must fall strictly and stay within (0, 1)")

    @property
    def num_timesteps(self) -> int:
        return len(self.alphas_cumprod)

    def alpha_sigma(self, t: Float[Tensor, " n"]) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """Return alpha and sigma at integer timesteps, or at the clean time, which gives (1, 0) by default.

        Raises ValueError for a time that is no trained timestep.
        """
        clean, last = self.first_timestep - 1, self.first_timestep + self.num_timesteps - 1
        time = t.to(torch.float64)
        valid = (time == time.round()) & (time >= clean) & (time <= last)
        if not bool(valid.all()):
            wrong = time[~valid][0].item()
            raise ValueError(f"t: {wrong} is no timestep; valid: integers from {clean} (clean) to {last}")
        end = torch.tensor([self.clean_alpha_squared], dtype=torch.float64)
        table = torch.cat([end, self.alphas_cumprod.to(torch.float64)])
        alpha_squared = table[time.long() - clean]
        return alpha_squared.sqrt(), (1 - alpha_squared).sqrt()

    def finest(self) -> Float[Tensor, " n"]:
        """Return the noisy times of the grid that takes every timestep; an offset leads beyond the last one."""
        noisy = self.times(self.num_timesteps)[1:]
        return noisy[noisy < self.first_timestep + self.num_timesteps]

    def times(self, num_steps: int) -> Float[Tensor, " n"]:
        """Return the clean time, then first + offset + i s with s = T // num_steps (the DDIM "leading" grid)."""
        if not 1 <= num_steps <= self.num_timesteps:
            raise ValueError(f"num_steps: {num_steps} is outside 1..{self.num_timesteps}")
        stride = self.num_timesteps // num_steps
        noisy = self.first_timestep + torch.arange(num_steps, dtype=torch.float64) * stride + self.steps_offset
        return torch.cat([torch.tensor([self.first_timestep - 1], dtype=torch.float64), noisy])


def linear_schedule(
    num_timesteps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02, steps_offset: int = 0
) -> DiscreteSchedule:
    """Return the DDPM schedule: betas linear from `beta_start` to `beta_end` (DiT, CIFAR-10 UNets)."""
    betas = torch.linspace(beta_start, beta_end, num_timesteps, dtype=torch.float64)
    return DiscreteSchedule(torch.cumprod(1 - betas, 0), steps_offset)


def scaled_linear_schedule(
    steps_offset: int = 0, clean_alpha_squared: float = 1.0, first_timestep: int = 0
) -> DiscreteSchedule:
    """Return the schedule of latent diffusion: 1000 betas linear in their square root (Stable Diffusion, U-ViT)."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return DiscreteSchedule(torch.cumprod(1 - betas, 0), steps_offset, clean_alpha_squared, first_timestep)


@dataclass(frozen=True)
class SigmaSchedule:
    """Variance-exploding schedule whose clock is the noise scale itself, as EDM is trained: alpha = 1, sigma = t.

    The grid falls between `sigma_max` and `sigma_min` evenly in sigma^(1/rho) (Karras et al. 2022, Eq. 5).
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max or self.rho <= 0:
            raise ValueError(f"{self}: needs 0 < sigma_min < sigma_max and rho > 0")

    def alpha_sigma(self, t: Float[Tensor, " n"]) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """Return (1, t); the clean time is 0. Raises ValueError for a time outside 0..sigma_max."""
        sigma = t.to(torch.float64)
        valid = (sigma >= 0) & (sigma <= self.sigma_max)
        if not bool(valid.all()):
            raise ValueError(f"t: {sigma[~valid][0].item()} is no noise scale; valid: 0 (clean) to {self.sigma_max:g}")
        return torch.ones_like(sigma), sigma

    def finest(self) -> Float[Tensor, " 1000"]:
        """Return a thousand noisy times: between any two of them there are others."""
        return self.times(1000)[1:]

    def times(self, num_steps: int) -> Float[Tensor, " n"]:
        """Return [0, sigma_min, ..., sigma_max], `num_steps` of them noisy (one: sigma_max alone)."""
        if num_steps < 1:
            raise ValueError(f"num_steps: {num_steps} is below 1")
        ends = (self.sigma_max ** (1 / self.rho), self.sigma_min ** (1 / self.rho))
        noisy = torch.linspace(*ends, num_steps, dtype=torch.float64).pow(self.rho).flip(0)
        return torch.cat([torch.zeros(1, dtype=torch.float64), noisy.clamp(max=self.sigma_max)])


def path_to(schedule_times: Float[Tensor, " n"], project_t: float) -> Float[Tensor, " m"]:
    """Return the ascending grid from the clean time up to and including `project_t`, met to five digits.

    Raises ValueError, naming the nearest grid times, where `project_t` is not on the grid.
    """
    noisy = schedule_times[1:]
    hit = (noisy / project_t - 1).abs().le(SAME_TIME).nonzero() if project_t > 0 else (noisy == project_t).nonzero()
    if len(hit) == 0:
        nearest = sorted(noisy[(noisy - project_t).abs().argsort()[:2]].tolist())
        raise ValueError(
            f"time {project_t:g} is not on the sampling grid; nearest: {[float(f'{t:.7g}') for t in nearest]}"
        )
    return schedule_times[: int(hit[0].item()) + 2]


def log_snr_path(schedule: NoiseSchedule, project_t: float, num_steps: int) -> Float[Tensor, " m"]:
    """Return the clean time, then times up to and including `project_t`, near to even in log(alpha / sigma).

    They are `num_steps` of the schedule's finest grid, fewer where steps fall on the same time: dense where the picture
    is nearly clean, which grids that are even in t cross in one stride. Raises ValueError for a `project_t` that is
    no noisy time.
    """
    check_noisy(schedule, project_t)
    finest = schedule.finest()
    below = finest[finest < project_t * (1 - SAME_TIME)]
    known = torch.cat([below, torch.tensor([project_t], dtype=torch.float64)])
    alpha, sigma = schedule.alpha_sigma(known)
    noise = (sigma / alpha).log()
    wanted = torch.linspace(noise[-1].item(), noise[0].item(), num_steps, dtype=torch.float64)  # one: t_e alone
    nearest = (noise - wanted[:, None]).abs().argmin(1).unique()
    return torch.cat([schedule.times(1)[:1], known[nearest]])


def path_of(schedule: NoiseSchedule, settings: InversionConfig) -> Float[Tensor, " m"]:
    """Return a run's times, ascending from the clean one to t_e; raises ValueError where t_e is none of its grid."""
    if settings.spacing == "log_snr":
        return log_snr_path(schedule, settings.project_t, settings.num_steps)
    return path_to(schedule.times(settings.num_steps), settings.project_t)


def check_noisy(schedule: NoiseSchedule, t: float) -> None:
    """Raise ValueError unless t is a time with noise: one the schedule knows, after its clean time."""
    clean = schedule.times(1)[0].item()
    if t <= clean:
        raise ValueError(f"{t:g} is no noisy time, and networks know no other; valid: more than {clean:g} (clean)")
    try:
        sigma = schedule.alpha_sigma(torch.tensor([t], dtype=torch.float64))[1].item()
    except ValueError as error:
        raise ValueError(f"{error}, but not the clean time") from None
    if not sigma > 0:
        raise ValueError(f"{t:g} has no noise; valid: a time whose sigma is more than 0")
