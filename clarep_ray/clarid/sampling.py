"""DDIM, Heun and DPM-Solver++ up (inversion) and down (decoding), and classifier-free guidance."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from clarep_ray.clarid.model import DiffusionModel
from clarep_ray.config import PathSolver

Denoiser = Callable[[Tensor, float], Tensor]
"""eps(x_t, t) with everything else bound."""


def eps_from_v(
    v: Float[Tensor, " b *latent"], x_t: Float[Tensor, " b *latent"], alpha: float, sigma: float
) -> Float[Tensor, " b *latent"]:
    """Return eps of a v-prediction v = alpha eps - sigma x_0 (alpha^2 + sigma^2 = 1)."""
    return alpha * v + sigma * x_t


def eps_from_x0(
    x_0: Float[Tensor, " b *latent"], x_t: Float[Tensor, " b *latent"], alpha: float, sigma: float
) -> Float[Tensor, " b *latent"]:
    """Return eps of a denoiser's estimate of x_0 (EDM's D); sigma must be positive."""
    return (x_t - alpha * x_0) / sigma


def ddim_step(
    x_t: Float[Tensor, " b *latent"],
    eps: Float[Tensor, " b *latent"],
    alpha_sigma: tuple[float, float],
    alpha_sigma_next: tuple[float, float],
) -> Float[Tensor, " b *latent"]:
    """Move x_t along the deterministic path (App. B, Eq. 9-10), up or down; at alpha = 1 it is EDM's Euler step."""
    (alpha, sigma), (alpha_next, sigma_next) = alpha_sigma, alpha_sigma_next
    x_0 = (x_t - sigma * eps) / alpha
    return alpha_next * x_0 + sigma_next * eps


def heun_step(
    denoise: Denoiser,
    x_t: Float[Tensor, " b *latent"],
    eps: Float[Tensor, " b *latent"],
    t_next: float,
    alpha_sigma: tuple[float, float],
    alpha_sigma_next: tuple[float, float],
) -> Float[Tensor, " b *latent"]:
    """Move x_t by the mean of its own prediction `eps` and the one where a DDIM step leads (Karras et al., Alg. 1).

    On x / alpha against sigma / alpha the slope is eps and DDIM is Euler's method, so that this is Heun's, of second
    order, for every family; up or down. `t_next` must be a noisy time.
    """
    ahead = denoise(ddim_step(x_t, eps, alpha_sigma, alpha_sigma_next), t_next)
    return ddim_step(x_t, (eps + ahead) / 2, alpha_sigma, alpha_sigma_next)


def dpmpp_step(
    x_t: Float[Tensor, " b *latent"],
    eps: Float[Tensor, " b *latent"],
    before: tuple[Float[Tensor, " b *latent"], float] | None,
    alpha_sigma: tuple[float, float],
    alpha_sigma_next: tuple[float, float],
) -> tuple[Float[Tensor, " b *latent"], tuple[Float[Tensor, " b *latent"], float]]:
    """Move x_t as DPM-Solver++(2M) does (Lu et al. 2022, Alg. 2), up or down, for one prediction a step.

    The estimate of x_0 is carried on along the line through this point's and the one before it (`before`: estimate
    and log(alpha / sigma)), halfway to the next point; with it a DDIM step is of second order. Returns the next x_t
    and this point's own estimate. Next to the clean time, where that line has no slope, it is a DDIM step.
    """
    (alpha, sigma), (alpha_next, sigma_next) = alpha_sigma, alpha_sigma_next
    x_0 = (x_t - sigma * eps) / alpha
    here, there = _log_snr(alpha, sigma), _log_snr(alpha_next, sigma_next)
    if before is None or not all(map(math.isfinite, (before[1], here, there))):
        return alpha_next * x_0 + sigma_next * eps, (x_0, here)
    ahead = x_0 + (x_0 - before[0]) * ((there - here) / (2 * (here - before[1])))
    return alpha_next * ahead + sigma_next / sigma * (x_t - alpha * ahead), (x_0, here)


INVERSION_SLACK = (0.4, 1.25)
"""What a grid of few steps and one image may add below and above the bounds of `inversion_noise`. Of the shipped models
plain DDIM of 20 to 100 steps reaches 0.5 to 1.6 times the lower one, refined steps both to 0.06."""


def inversion_noise(
    x_0: Float[Tensor, " b *latent"], x_t: Float[Tensor, " b *latent"], alpha: float, sigma: float
) -> tuple[Float[Tensor, " b"], Bool[Tensor, " b"]]:
    """Return the standard deviation of (x_t - alpha x_0) / sigma of each inverted latent, and whether it is outside.

    The path keeps the variance of x_t at alpha^2 Var(x_0) + sigma^2, so that with u = alpha std(x_0) / sigma the
    standard deviation lies between sqrt(1 + u^2) - u (x_t along x_0) and sqrt(1 + 2 u^2) (x_t independent of x_0):
    near 1 where noise prevails. A wrong clock leaves that variance, and the round trip does not see it.
    """
    noise, signal = (x_t - alpha * x_0).flatten(1) / sigma, x_0.flatten(1)
    found, u = noise.std(1, correction=0), alpha / sigma * signal.std(1, correction=0)
    low, high = (1 + u.square()).sqrt() - u, (1 + 2 * u.square()).sqrt()
    inside = (found >= INVERSION_SLACK[0] * low) & (found <= INVERSION_SLACK[1] * high)
    return found, ~inside


def guided_eps(
    model: DiffusionModel, cond: Any, null_cond: Any, guidance_scale: float, guided_channels: int | None = None
) -> Denoiser:
    """Return eps_u + w (eps_c - eps_u); w = 1 is no guidance and does not evaluate the unconditional branch.

    Channels from `guided_channels` on keep the conditional prediction; None guides all of them.
    """

    def denoise(x_t: Tensor, t: float) -> Tensor:
        eps_cond = model.eps(x_t, t, cond)
        if guidance_scale == 1.0:
            return eps_cond
        eps_null = model.eps(x_t, t, null_cond)
        guided = eps_null + guidance_scale * (eps_cond - eps_null)
        if guided_channels is None:
            return guided
        return torch.cat([guided[:, :guided_channels], eps_cond[:, guided_channels:]], 1)

    return denoise


def invert(
    denoise: Denoiser,
    x_0: Float[Tensor, " b *latent"],
    model: DiffusionModel,
    times: Float[Tensor, " n"],
    num_refinements: int = 0,
    solver: PathSolver = "ddim",
) -> Float[Tensor, " b *latent"]:
    """Carry x_0 up the ascending grid `times` (Sec. 3.2), by DDIM inversion, Heun's method or DPM-Solver++(2M).

    A plain step uses the prediction at its lower end, where decoding will use the one at its upper end; the
    round trip errs by O(1/steps). Each of `num_refinements` fixed-point iterations re-evaluates the prediction
    at the upper end, so that decoding undoes the step. Heun's method uses both ends, DPM-Solver++ the end below too;
    both err by O(1/steps^2). Raises ValueError for refinements of these.
    """
    if solver != "ddim" and num_refinements:
        raise ValueError(f"num_refinements: {num_refinements} refines ddim only; valid with {solver}: 0")
    scales = _scales(model, times)
    path = times.tolist()
    x_t, before = x_0, None
    for i in range(len(path) - 1):
        lower, upper = path[i], path[i + 1]
        # x_0 carries no noise level of its own: the first step reads the network at the smallest noisy time.
        eps = denoise(x_t, upper if i == 0 else lower)
        if solver == "heun" and i > 0:
            x_t = heun_step(denoise, x_t, eps, upper, scales[i], scales[i + 1])
            continue
        if solver == "dpmpp_2m":
            x_t, before = dpmpp_step(x_t, eps, before, scales[i], scales[i + 1])
            continue
        x_next = ddim_step(x_t, eps, scales[i], scales[i + 1])
        for _ in range(num_refinements):
            x_next = ddim_step(x_t, denoise(x_next, upper), scales[i], scales[i + 1])
        x_t = x_next
    return x_t


def decode(
    denoise: Denoiser,
    x_t: Float[Tensor, " b *latent"],
    model: DiffusionModel,
    times: Float[Tensor, " n"],
    solver: PathSolver = "ddim",
) -> Float[Tensor, " b *latent"]:
    """Carry x_t down the ascending grid `times`, from its last entry to the clean time (Sec. 3.2).

    Heun's method takes the last step as DDIM does, for no network is trained at the clean time, and so does
    DPM-Solver++, whose logarithms end there.
    """
    scales = _scales(model, times)
    path = times.tolist()
    before = None
    for i in range(len(path) - 1, 0, -1):
        eps = denoise(x_t, path[i])
        if solver == "heun" and i > 1:
            x_t = heun_step(denoise, x_t, eps, path[i - 1], scales[i], scales[i - 1])
        elif solver == "dpmpp_2m":
            x_t, before = dpmpp_step(x_t, eps, before, scales[i], scales[i - 1])
        else:
            x_t = ddim_step(x_t, eps, scales[i], scales[i - 1])
    return x_t


def path_evaluations(num_steps: int, solver: PathSolver = "ddim", num_refinements: int = 0) -> int:
    """Return the predictions that `invert` takes for a path of so many steps, or `decode` without refinements."""
    return 2 * num_steps - 1 if solver == "heun" else num_steps * (1 + num_refinements)


def _scales(model: DiffusionModel, times: Float[Tensor, " n"]) -> list[tuple[float, float]]:
    alpha, sigma = model.schedule.alpha_sigma(times)
    return list(zip(alpha.tolist(), sigma.tolist(), strict=True))


def _log_snr(alpha: float, sigma: float) -> float:
    return math.log(alpha / sigma) if sigma > 0 else math.inf
