"""How well a diffusion model predicts the noise of noised images, beside what a right model cannot miss.

For the optimal prediction eps_hat = E[eps | x_t] the error eps_hat - eps is orthogonal to whatever x_t tells: no
a x_t + b eps_hat + c comes nearer to eps than eps_hat itself, whatever the images are. A model that is told another
noise scale than there is (wrong clock, betas, scale of latents, range of pixels), or whose output means something else
(prediction type), breaks this. The `gain` is how much the best such combination saves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clarep_ray.clarid.model import DiffusionModel, NoiseSchedule
from clarep_ray.seeding import torch_generator

RELATIVE_NOISE = (0.1, 10.0)
"""Noise levels that are tried, as sigma / alpha over the images' standard deviation: below, predicting nothing is as
good as any model, above, predicting the mean image."""
EPS_HAT, EPS = 1, 3
"""Places of the prediction and the noise in (x_t, eps_hat, 1, eps)."""
OUTPUTS = ("epsilon", "v_prediction", "sample")
Labels = Int[Tensor, " b"]


@dataclass(frozen=True)
class Denoising:
    """Products of the vectors (x_t, eps_hat, 1, eps) of each image, at each time, under each condition."""

    times: list[float]
    alphas: list[float]
    sigmas: list[float]
    products: Float[Tensor, "times images conditions 4 4"]
    """Means over the latent's elements, float64."""
    filtered: Float[Tensor, " times"]
    """Mean squared error of the best linear filter that knows the images' mean and power spectrum alone."""
    spread: float
    """Standard deviation of the images' clean latents."""

    @property
    def evaluations(self) -> int:
        """Network evaluations of one image that it took."""
        return math.prod(self.products.shape[:3])

    @property
    def noise_to_signal(self) -> list[float]:
        """sigma / alpha over the standard deviation of the latents."""
        return [sigma / alpha / self.spread for alpha, sigma in zip(self.alphas, self.sigmas, strict=True)]

    def pooled(self, condition: int | Labels) -> Float[Tensor, "times 4 4"]:
        """Return the products under one condition, or under one of its own for each image, averaged over images."""
        rows = torch.arange(self.products.shape[1])
        return self.products[:, rows, condition].mean(1)


def measure(
    model: DiffusionModel,
    x_0: Float[Tensor, " b *latent"],
    conditions: Sequence[Labels | None],
    times: Sequence[float],
    keys: Sequence[str],
    seed: int,
    rows: int,
) -> Denoising:
    """Noise clean latents at each time and predict the noise under each condition: labels, or None for no label.

    The noise of an image follows from the seed, its key and the time, and is the same for all conditions. A network
    call takes at most `rows` images.
    """
    alphas, sigmas = (scale.tolist() for scale in model.schedule.alpha_sigma(torch.tensor(times, dtype=torch.float64)))
    products: list[Tensor] = []
    filtered: list[Tensor] = []
    for t, alpha, sigma in zip(times, alphas, sigmas, strict=True):
        streams = [torch_generator(seed, key, f"health {t:g}") for key in keys]
        noise = torch.stack([torch.randn(x_0.shape[1:], generator=stream) for stream in streams]).to(x_0.device)
        x_t = alpha * x_0 + sigma * noise
        products.append(torch.stack([_products(model, x_t, noise, t, labels, rows) for labels in conditions], 1))
        filtered.append((linear_filter(x_0, x_t, alpha, sigma) - noise).double().square().mean().cpu())
    return Denoising(list(times), alphas, sigmas, torch.stack(products), torch.stack(filtered), spread_of(x_0))


def _products(
    model: DiffusionModel, x_t: Tensor, noise: Tensor, t: float, labels: Labels | None, rows: int
) -> Float[Tensor, "b 4 4"]:
    found: list[Tensor] = []
    for start in range(0, len(x_t), rows):
        some = slice(start, start + rows)
        cond = model.null_cond(len(x_t[some])) if labels is None else model.cond(labels[some])
        eps_hat = model.eps(x_t[some], t, cond)
        vectors = [x_t[some], eps_hat, torch.ones_like(eps_hat), noise[some]]
        stacked = torch.stack([vector.flatten(1) for vector in vectors], 1).double()
        found.append((stacked @ stacked.mT / stacked.shape[2]).cpu())
    return torch.cat(found)


def linear_filter(
    x_0: Float[Tensor, "b c *space"], x_t: Float[Tensor, "b c *space"], alpha: float, sigma: float
) -> Float[Tensor, "b c *space"]:
    """Return the noise that the Wiener filter finds which knows each channel's mean and isotropic spectrum of x_0."""
    space = tuple(range(2, x_0.ndim))
    mean = x_0.mean((0, *space), keepdim=True)
    power = torch.fft.fftn(x_0 - mean, dim=space, norm="ortho").abs().square().mean(0)
    axes = torch.meshgrid(*(torch.fft.fftfreq(size) * size for size in x_0.shape[2:]), indexing="ij")
    radius = torch.stack([axis.square() for axis in axes]).sum(0).sqrt().round().to(x_0.device)
    for ring in radius.unique():
        power[:, radius == ring] = power[:, radius == ring].mean(1, keepdim=True)
    gain = alpha * power / (alpha**2 * power + sigma**2)
    centred = x_t - alpha * mean
    clean = torch.fft.ifftn(gain * torch.fft.fftn(centred, dim=space, norm="ortho"), dim=space, norm="ortho").real
    return (centred - alpha * clean) / sigma


def spread_of(x_0: Float[Tensor, " b *latent"]) -> float:
    """Return the standard deviation of all elements, never 0."""
    return max(float(x_0.double().std(correction=0)), 1e-6)


def choose_times(schedule: NoiseSchedule, spread: float, count: int, smallest: float | None) -> list[float]:
    """Return ascending noisy times: the run's smallest, if any, and others even in log(sigma / alpha).

    `spread` is the images' standard deviation, which noise is compared with. Where two fall together there are fewer.
    """
    finest = schedule.finest()
    alpha, sigma = schedule.alpha_sigma(finest)
    noise = (sigma / alpha / spread).log()
    low, high = (min(max(math.log(bound), float(noise[0])), float(noise[-1])) for bound in RELATIVE_NOISE)
    wanted = torch.linspace(low, high, count - 1, dtype=torch.float64)
    nearest = finest[(noise - wanted[:, None]).abs().argmin(1)].tolist()
    return sorted({*nearest, nearest[0] if smallest is None else smallest})


def errors(
    products: Float[Tensor, "*rest 4 4"], combination: tuple[float, float] = (0.0, 1.0)
) -> Float[Tensor, " *rest"]:
    """Return the mean squared error of a x_t + b eps_hat as a prediction of eps; of eps_hat itself by default."""
    a, b = combination
    weights = torch.tensor([-a, -b, 0.0, 1.0], dtype=torch.float64)
    return (products @ weights) @ weights


def least_errors(products: Float[Tensor, "times 4 4"]) -> Float[Tensor, " times"]:
    """Return the smallest error of any a x_t + b eps_hat + c, with a, b and c of each time's own."""
    known, wanted = products[:, :EPS, :EPS], products[:, :EPS, EPS]
    fitted = torch.linalg.lstsq(known, wanted[..., None], driver="gelsd").solution[..., 0]
    return (products[:, EPS, EPS] - (fitted * wanted).sum(1)).clamp_min(1e-12)


def actual_output(denoising: Denoising, products: Float[Tensor, "times 4 4"], said: str, most: float) -> str | None:
    """Return what a network's output is, where it was read as `said` and another reading gains `most` at most."""
    least = least_errors(products)
    found: dict[str, float] = {}
    for actual in OUTPUTS:
        scales = zip(products, denoising.alphas, denoising.sigmas, strict=True)
        read = torch.stack([errors(each, _reread(said, actual, alpha, sigma)) for each, alpha, sigma in scales])
        found[actual] = float((read / least - 1).max())
    best = min(found, key=lambda actual: found[actual])
    return best if found[best] <= most else None


def _reread(said: str, actual: str, alpha: float, sigma: float) -> tuple[float, float]:
    """Return (a, b) for which eps is a x_t + b eps_hat, where eps_hat came of reading `actual` as `said`."""
    # eps = e_x x_t + e_o output for each meaning of the output; eps_hat is that of `said`.
    meanings = {"epsilon": (0.0, 1.0), "v_prediction": (sigma, alpha), "sample": (1 / sigma, -alpha / sigma)}
    (said_x, said_o), (actual_x, actual_o) = meanings[said], meanings[actual]
    return actual_x - actual_o * said_x / said_o, actual_o / said_o
