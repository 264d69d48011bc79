"""Do a model, its labels and its images belong together? Measured on a few noised images, before anything is spent.

For the optimal prediction eps_hat = E[eps | x_t] the error eps_hat - eps is orthogonal to everything that x_t tells:
no a x_t + b eps_hat + c comes nearer to eps than eps_hat itself, whatever the images. A model that is told another
noise scale than there is (a wrong clock, beta schedule, scale of latents or range of pixels), or whose output means
something else (prediction type), breaks this. How much nearer the best such combination comes is the `gain`.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from clarep_ray.clarid.model import NoiseSchedule
from clarep_ray.models.adapter import Adapter
from clarep_ray.models.label_order import MAX_LABELS, LabelOrder, judge_labels, labels_to_try
from clarep_ray.seeding import torch_generator

OK, WARNING, UNTRAINED, UNCHECKED = "ok", "warning", "untrained", "unchecked"
TOLERANCE = 0.25
"""Largest gain of a right model. Of white Gaussian data a noise scale that is told wrong by the factor q gains
sinh(ln q)^2 where signal and noise are even, so that q = 1.6 is seen; the shipped models gain 0.02 and less."""
RELATIVE_NOISE = (0.1, 10.0)
"""Range of sigma / alpha over the images' standard deviation in which noise levels are tried: outside it, predicting
nothing (below) or the mean (above) is as good as any model."""
X, EPS_HAT, ONE, EPS = range(4)
PREDICTIONS = ("epsilon", "v_prediction", "sample")


@dataclass(frozen=True)
class Measured:
    """Products of the vectors (x_t, eps_hat, 1, eps) of every image at every time under every condition."""

    times: list[float]
    alphas: Float[Tensor, " times"]
    sigmas: Float[Tensor, " times"]
    products: Float[Tensor, "times images conditions 4 4"]
    """Means over the latent's elements, float64. Conditions are the labels that were tried; the last one is null."""
    filtered: Float[Tensor, " times"]
    """Mean squared error of the best stationary linear denoiser, which knows the images' mean and spectrum alone."""
    spread: float
    """Standard deviation of the images' clean latents."""
    evaluations: int

    def error(self, products: Float[Tensor, "*rest 4 4"], a: float = 0.0, b: float = 1.0) -> Float[Tensor, " *rest"]:
        """Return the mean squared error of a x_t + b eps_hat."""
        weights = torch.tensor([-a, -b, 0.0, 1.0], dtype=torch.float64)
        return (products @ weights) @ weights

    def errors(self, choice: Int[Tensor, " images"]) -> Float[Tensor, " times"]:
        """Return the mean squared error of eps_hat at every time, with the chosen condition of every image."""
        return self.error(self.pooled(choice))

    def pooled(self, choice: Int[Tensor, " images"]) -> Float[Tensor, "times 4 4"]:
        """Return the products with the chosen condition of every image, averaged over images."""
        rows = torch.arange(len(choice))
        return self.products[:, rows, choice].mean(1)

    def label_errors(self) -> Float[Tensor, "images labels"]:
        """Return how well each label denoises each image: errors over their mean, averaged over times."""
        errors = self.error(self.products[:, :, :-1])
        return (errors / errors.mean(2, keepdim=True)).mean(0)


def measure(
    model: Adapter,
    x_0: Float[Tensor, " b *latent"],
    tried: Int[Tensor, "b labels"],
    keys: Sequence[str],
    seed: int,
    times: Sequence[float],
    rows: int,
) -> Measured:
    """Noise the clean latents at each time and predict the noise under every tried label, and without one.

    The noise of an image follows from the seed, its key and the time, and is the same for all conditions. A network
    call takes at most `rows` images. Where there is no unconditional branch the last condition is the first label.
    """
    alphas, sigmas = model.schedule.alpha_sigma(torch.tensor(times, dtype=torch.float64))
    null = has_null(model)
    products: list[Tensor] = []
    filtered: list[Tensor] = []
    for t, alpha, sigma in zip(times, alphas.tolist(), sigmas.tolist(), strict=True):
        noise = torch.stack([
            torch.randn(x_0.shape[1:], generator=torch_generator(seed, key, f"health {t:g}")) for key in keys
        ]).to(x_0.device)
        x_t = alpha * x_0 + sigma * noise
        told = [_under(model, x_t, noise, t, tried[:, column], rows) for column in range(tried.shape[1])]
        told.append(_under(model, x_t, noise, t, None, rows) if null else told[0])
        products.append(torch.stack(told, 1))
        filtered.append((_filtered(x_0, x_t, alpha, sigma) - noise).double().square().mean().cpu())
    return Measured(
        times=list(times),
        alphas=alphas,
        sigmas=sigmas,
        products=torch.stack(products),
        filtered=torch.stack(filtered),
        spread=_spread(x_0),
        evaluations=len(times) * len(x_0) * (tried.shape[1] + null),
    )


def _under(
    model: Adapter, x_t: Tensor, noise: Tensor, t: float, labels: Tensor | None, rows: int
) -> Float[Tensor, "b 4 4"]:
    """Return the products of (x_t, eps_hat, 1, eps) under one condition for each image."""
    found: list[Tensor] = []
    for start in range(0, len(x_t), rows):
        some = slice(start, start + rows)
        cond = model.null_cond(len(x_t[some])) if labels is None else model.cond(labels[some])
        eps_hat = model.eps(x_t[some], t, cond)
        vectors = [x_t[some], eps_hat, torch.ones_like(eps_hat), noise[some]]
        stacked = torch.stack([vector.flatten(1) for vector in vectors], 1).double()
        found.append((stacked @ stacked.mT / stacked.shape[2]).cpu())
    return torch.cat(found)


def _filtered(x_0: Tensor, x_t: Tensor, alpha: float, sigma: float) -> Tensor:
    """Return the noise that the Wiener filter of the images' own mean and isotropic power spectrum finds."""
    places = tuple(range(2, x_0.ndim))
    mean = x_0.mean((0, *places), keepdim=True)
    power = torch.fft.fftn(x_0 - mean, dim=places, norm="ortho").abs().square().mean(0)
    axes = torch.meshgrid(*(torch.fft.fftfreq(size) * size for size in x_0.shape[2:]), indexing="ij")
    radius = torch.stack([axis.square() for axis in axes]).sum(0).sqrt().round().to(x_0.device)
    for ring in radius.unique():
        power[:, radius == ring] = power[:, radius == ring].mean(1, keepdim=True)
    gain = alpha * power / (alpha**2 * power + sigma**2)
    centred = x_t - alpha * mean
    clean = torch.fft.ifftn(gain * torch.fft.fftn(centred, dim=places, norm="ortho"), dim=places, norm="ortho").real
    return (centred - alpha * clean) / sigma


def _spread(x_0: Tensor) -> float:
    return max(float(x_0.double().var(correction=0).sqrt()), 1e-6)


def has_null(model: Adapter) -> bool:
    """Whether the model has an unconditional branch."""
    try:
        model.null_cond(1)
    except ValueError:
        return False
    return True


def choose_times(schedule: NoiseSchedule, spread: float, count: int, smallest: float | None = None) -> list[float]:
    """Return ascending noisy times: the smallest that the run uses, and others even in log(sigma / alpha).

    `spread` is the images' standard deviation, which the noise is compared with.
    """
    finest = schedule.finest()
    alpha, sigma = schedule.alpha_sigma(finest)
    noise = (sigma / alpha / spread).log()
    low, high = (math.log(bound) for bound in RELATIVE_NOISE)
    wanted = torch.linspace(low, high, count - 1, dtype=torch.float64)
    nearest = finest[(noise - wanted[:, None]).abs().argmin(1)].tolist()
    return sorted({*nearest, finest[0].item() if smallest is None else smallest})


def gains(products: Float[Tensor, "times 4 4"]) -> tuple[Float[Tensor, " times"], Float[Tensor, " times"]]:
    """Return the smallest error of any a x_t + b eps_hat + c at every time, and what it gains over eps_hat's own."""
    weights = torch.tensor([0.0, -1.0, 0.0, 1.0], dtype=torch.float64)
    own = (products @ weights) @ weights
    known, wanted = products[:, :EPS, :EPS], products[:, :EPS, EPS]
    fitted = torch.linalg.lstsq(known, wanted[..., None], driver="gelsd").solution[..., 0]
    least = (products[:, EPS, EPS] - (fitted * wanted).sum(1)).clamp_min(1e-12)
    return least, own / least - 1


def other_meaning(measured: Measured, products: Tensor, least: Tensor, declared: str | None) -> tuple[str, str] | None:
    """Return (declared, actual) prediction types where reading the output as the other explains everything."""
    found: list[tuple[float, str, str]] = []
    for said in PREDICTIONS if declared is None else (declared,):
        for actual in PREDICTIONS:
            if actual == said:
                continue
            excess = torch.stack([
                measured.error(products[place], *_read_as(said, actual, alpha, sigma)) / least[place] - 1
                for place, (alpha, sigma) in enumerate(zip(measured.alphas.tolist(), measured.sigmas.tolist(), strict=True))
            ])
            found.append((float(excess.max()), said, actual))
    worst, said, actual = min(found)
    return (said, actual) if worst <= TOLERANCE else None


def _read_as(said: str, actual: str, alpha: float, sigma: float) -> tuple[float, float]:
    """Return (a, b) of a x_t + b eps_hat: eps, where the output was read as `said` and is `actual`."""
    # output = o_x x_t + o_e eps_hat, and eps = e_x x_t + e_o output
    o_x, o_e = {
        "epsilon": (0.0, 1.0),
        "v_prediction": (-sigma / alpha, 1 / alpha),
        "sample": (1 / alpha, -sigma / alpha),
    }[said]
    e_x, e_o = {"epsilon": (0.0, 1.0), "v_prediction": (sigma, alpha), "sample": (1 / sigma, -alpha / sigma)}[actual]
    return e_x + e_o * o_x, e_o * o_e


def autoencoder_error(
    model: Adapter, pixels: Float[Tensor, "b 3 h w"], x_0: Float[Tensor, " b *latent"]
) -> tuple[float, float]:
    """Return the RMS error of encoding and decoding, and that of averaging over a latent's block [grey levels].

    Whatever keeps as many places as the latent and is of any use errs less than plain averaging; a model without an
    autoencoder errs by one grey level at most.
    """
    back = torch.cat([model.decode(each[None]) for each in x_0]).clamp(-1, 1)
    side = max(pixels.shape[-1] // model.latent_shape[-1], 1) if len(model.latent_shape) == 3 else 1
    blocks = torch.nn.functional.avg_pool2d(pixels, side).repeat_interleave(side, 2).repeat_interleave(side, 3)
    cut = pixels[..., : blocks.shape[-2], : blocks.shape[-1]]
    rms = [127.5 * float((one - two).double().square().mean().sqrt()) for one, two in ((back, pixels), (blocks, cut))]
    return rms[0], max(rms[1], 1.0)


def _judge(model: Adapter, measured: Measured, tried: Tensor, seed: int) -> dict[str, Any]:
    """Return verdict, warnings and figures of what was measured, as JSON."""
    labels = judge_labels(measured.label_errors(), tried, len(model.class_names), seed)
    own = torch.zeros(len(tried), dtype=torch.long)
    null = own - 1 if has_null(model) else None
    # The clock is judged where labels cannot spoil it: without one, or with the one that suits each image best.
    best = measured.label_errors().argmin(1)
    judged = null if null is not None else (own if labels.fits else best)
    pooled = measured.pooled(judged)
    least, gain = gains(pooled)
    curves = {"label": measured.errors(own), "null": None if null is None else measured.errors(null)}
    figures = {
        "times": measured.times,
        "noise_to_signal": (measured.sigmas / measured.alphas / measured.spread).tolist(),
        "error": {name: None if curve is None else curve.tolist() for name, curve in curves.items()},
        "lower": least.tolist(),
        "upper": ((1 + TOLERANCE) * least).tolist(),
        "filter": measured.filtered.tolist(),
        "max_gain": float(gain.max()),
        "labels": dataclasses.asdict(labels),
    }
    verdict, warnings = WARNING, list[str]()
    if not bool(measured.products.isfinite().all()):
        warnings.append("the prediction is not finite")
    elif bool((least * (1 + TOLERANCE) >= measured.filtered).all()):
        verdict = UNTRAINED
        warnings.append(
            "the predictions say no more about the noise than a linear filter does: random weights, or images that "
            "the model was never trained on (another scale of latents, another range of pixels)"
        )
    else:
        warnings += _clock_warnings(model, measured, pooled, least, gain)
        warnings += _label_warnings(labels, len(tried), tried.shape[1])
        verdict = WARNING if warnings else OK
    return {"verdict": verdict, "warnings": warnings, **figures}


def _clock_warnings(model: Adapter, measured: Measured, pooled: Tensor, least: Tensor, gain: Tensor) -> list[str]:
    if float(gain.max()) <= TOLERANCE:
        return []
    worst = int(gain.argmax())
    told = (
        f"at t = {measured.times[worst]:g} the predicted noise errs by {(1 + float(gain[worst])) * float(least[worst]):.3g}"
        f", where a x_t + b eps + c errs by {float(least[worst]):.3g} and a right model by at most "
        f"{(1 + TOLERANCE) * float(least[worst]):.3g}"
    )
    meaning = other_meaning(measured, pooled, least, getattr(model, "prediction", None))
    if meaning is not None:
        return [f"{told}: the output is read as {meaning[0]} and fits {meaning[1]} (prediction type)"]
    noise = measured.sigmas / measured.alphas / measured.spread
    wrong = noise[gain > TOLERANCE]
    if float(wrong.min()) >= 1:
        likely = "the range of the images' pixels or the scale of the latents, or a wrong clock or noise schedule"
    else:
        likely = "a wrong clock or noise schedule (time unit, offset, betas), or prediction type"
    return [f"{told}: {likely}"]


def _label_warnings(labels: LabelOrder, num_images: int, num_labels: int) -> list[str]:
    if labels.fits or not labels.decidable:
        return []
    told = (
        f"the model denoises {labels.first} of {num_images} images best with their own label, of {num_labels} tried; "
        f"labels in an unrelated order do as well in {labels.chance:.0%} of draws"
    )
    if labels.likely is not None:
        return [f"{told}: they fit as {labels.likely}"]
    return [f"{told}: labels in another order, or a condition that hardly matters"]


def check_health(
    model: Adapter,
    images: UInt8[Tensor, "b h w 3"],
    labels: Sequence[int],
    keys: Sequence[str],
    *,
    seed: int,
    num_times: int,
    smallest: float | None = None,
    rows: int = 8,
) -> dict[str, Any]:
    """Return what a few images with their labels say about a model, as JSON: verdict, warnings and figures.

    `smallest` is the first noisy time that the run will use. Reads no global random state and changes none.
    """
    began = time.monotonic()
    pixels = images.to(model.device).permute(0, 3, 1, 2).float() / 127.5 - 1
    x_0 = torch.cat([model.encode(each[None]) for each in pixels])
    tried = labels_to_try(torch.tensor(labels), len(model.class_names), MAX_LABELS, seed)
    times = choose_times(model.schedule, _spread(x_0), num_times, smallest)
    measured = measure(model, x_0, tried, keys, seed, times, rows)
    found = _judge(model, measured, tried, seed)
    blur = autoencoder_error(model, pixels, x_0)
    found["autoencoder"] = {"rms": blur[0], "bound": blur[1]}
    if found["verdict"] != UNTRAINED and not blur[0] <= blur[1]:
        found["warnings"].append(
            f"encoding and decoding the images errs by {blur[0]:.1f} grey levels (RMS), more than averaging over the "
            f"blocks of a latent ({blur[1]:.1f}): the autoencoder is another model's, or untrained"
        )
        found["verdict"] = WARNING
    return found | {
        "num_images": len(labels),
        "evaluations": measured.evaluations,
        "seconds": time.monotonic() - began,
    }
