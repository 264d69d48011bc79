"""Do a model, its labels and its images belong together? Asked of a few images before anything is spent."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from clarep_ray.data.untrusted import Fields, check_fields
from clarep_ray.models.adapter import Adapter
from clarep_ray.models.denoising import (
    OUTPUTS,
    Denoising,
    actual_output,
    choose_times,
    errors,
    least_errors,
    measure,
    spread_of,
)
from clarep_ray.models.label_order import LabelOrder, judge_labels, labels_to_try

OK, WARNING, UNTRAINED, UNCHECKED = "ok", "warning", "untrained", "unchecked"
TOLERANCE = 1 / 3
"""Largest gain of a right model [share of its smallest error].

Of white Gaussian data, a model that is told q times the noise scale there is gains sinh(ln q)^2 where signal and noise
are even: 1/3 for q = sqrt(3). The shipped models gain 0.05 and less, a public one 0.23 at its smallest trained time."""
CHANGES: dict[str, tuple[float, float]] = {
    "the latents are too small by a VAE's scaling factor, 0.18215": (1 / 0.18215, 0.0),
    "the latents are too large by a VAE's scaling factor, 1 / 0.18215": (0.18215, 0.0),
    "the latents are too small by the factor 2": (2.0, 0.0),
    "the latents are too large by the factor 2": (0.5, 0.0),
    "the latents lie in [0, 1], and the model's in [-1, 1]": (2.0, -1.0),
    "the latents lie in [-1, 1], and the model's in [0, 1]": (0.5, 0.5),
    "the images are negatives": (-1.0, 0.0),
    "the images are negatives, in [0, 1]": (-1.0, 1.0),
}
"""Usual mistakes with images and latents: (scale, shift) that undoes each. Tried only where something is wrong."""
NOT_TRAINED = (
    "the model says no more about the noise than a linear filter of the images does: random weights, or images that "
    "the model was not trained on"
)

CURVES = (
    *("times", "noise_to_signal", "error_with_label", "error_without_label"),
    *("least_error", "most_error", "filter_error"),
)
RECORD: Fields = {
    **dict.fromkeys(CURVES, (list, type(None))),
    "times": list,
    "num_images": int,
    "evaluations": int,
    "seconds": float,
    "autoencoder": dict,
    "labels": (dict, type(None)),
    "max_gain": (float, type(None)),
}
INNER: dict[str, Fields] = {
    "autoencoder": dict.fromkeys(("rms", "bound"), (float, type(None))),
    "labels": {"first": (int, float), **dict.fromkeys(("chance", "advantage"), (float, type(None)))},
}
"""What a record says where it says it, and of which type."""


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
    others: tuple[UInt8[Tensor, "n h w 3"], Sequence[str], list[int]] | None = None,
) -> dict[str, Any]:
    """Return what a few images with their labels say about a model, as JSON: verdict, warnings and figures.

    `smallest` is the first noisy time that the run will use, `rows` the images of a network call; `others` are more
    images, their keys, and which of the first ones' classes they are of: asked only where labels do not fit. Reads no
    random state and changes none: noise follows from the seed and the images' keys.
    """
    began = time.monotonic()
    pixels, x_0 = _encoded(model, images, rows)
    knows_classes = "label" in model.readings
    tried = labels_to_try(torch.tensor(labels), len(model.class_names), seed)[:, : None if knows_classes else 0]
    conditions = [*tried.unbind(1), *([None] if has_null(model) else [])]
    times = choose_times(model.schedule, spread_of(x_0), num_times, smallest)
    found = measure(model, x_0, conditions, times, keys, seed, rows)
    evaluations = found.evaluations

    def again() -> tuple[Tensor, list[int]]:
        assert others is not None
        nonlocal evaluations
        labels_of = [labels[others[2]] for labels in tried.unbind(1)]
        repeated = measure(model, _encoded(model, others[0], rows)[1], labels_of, times, others[1], seed, rows)
        evaluations += repeated.evaluations
        return _label_errors(repeated, tried.shape[1]), others[2]

    report = _judge(model, found, tried, seed, again if others is not None and others[2] else None)
    if report.pop("unexplained"):
        likely, more = _likely_change(model, x_0, conditions[-1], keys, seed, num_times, rows)
        evaluations += more
        if likely is not None:
            report["verdict"] = WARNING
            report["warnings"] = [*report["warnings"], f"a right model, if {likely}"]
    lost, bound = autoencoder_error(model, pixels, x_0)
    if report["verdict"] != UNTRAINED and not lost <= bound:
        report["verdict"] = WARNING
        report["warnings"] = [
            *report["warnings"],
            f"encoding and decoding the images errs by {lost:.1f} grey levels (RMS), and "
            f"averaging over the blocks of a latent by {bound:.1f}: the autoencoder is another model's, or untrained",
        ]
    return {
        **report,
        "autoencoder": {"rms": lost, "bound": bound},
        "num_images": len(labels),
        "evaluations": evaluations,
        "seconds": time.monotonic() - began,
    }


def check_record(record: dict[str, Any], where: str) -> dict[str, Any]:
    """Return what `check_health` returned, read back from JSON; ValueError, beginning with `where`, for others."""
    check_fields(record, {"verdict": str, "warnings": list}, where)
    if not all(isinstance(warning, str) for warning in record["warnings"]):
        raise ValueError(f"{where}: a warning is no text")
    check_fields(record, {name: kind for name, kind in RECORD.items() if name in record}, where)
    for name, kinds in INNER.items():
        if record.get(name) is not None:
            check_fields(record[name], kinds, f"{where}: {name}")
    if "times" not in record:
        return record
    check_fields(record, RECORD, where)
    for name in CURVES:
        curve: list[Any] | None = record[name]
        numbers = curve is None or all(value is None or type(value) in (int, float) for value in curve)
        if not numbers or (curve is not None and len(curve) != len(record["times"])):
            raise ValueError(f"{where}: {name} is no curve over its times")
    return record


def _encoded(model: Adapter, images: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """Return pixels in [-1, 1] and clean latents of images."""
    pixels = images.to(model.device).permute(0, 3, 1, 2).float() / 127.5 - 1
    return pixels, torch.cat([model.encode(some) for some in pixels.split(rows)])


def _label_errors(found: Denoising, num_labels: int) -> Float[Tensor, "b labels"]:
    """Return how well each label denoises each image: errors over their mean, averaged over times."""
    each = errors(found.products[:, :, :num_labels])
    return (each / each.mean(2, keepdim=True)).mean(0)


def has_null(model: Adapter) -> bool:
    """Whether the model has an unconditional branch."""
    try:
        model.null_cond(1)
    except ValueError:
        return False
    return True


def _judge(
    model: Adapter,
    found: Denoising,
    tried: Int[Tensor, "b labels"],
    seed: int,
    again: Callable[[], tuple[Tensor, list[int]]] | None,
) -> dict[str, Any]:
    """Return verdict, warnings, figures, and whether something is wrong whose cause is unknown."""
    own, null = 0, tried.shape[1] if found.products.shape[2] > tried.shape[1] else None
    if not bool(found.products.isfinite().all()):
        return {"verdict": WARNING, "warnings": ["the predicted noise is not finite"], "unexplained": False}
    by_label, labels = None, None
    if tried.shape[1]:  # a model without classes has no labels to ask about
        by_label = _label_errors(found, tried.shape[1])
        labels = judge_labels(by_label, tried, model.class_names, seed)
    # Wrong labels must not pass for a wrong clock: it is judged without one, or with the one that suits each image.
    suits = own if labels is None or by_label is None or labels.fits else by_label.argmin(1)
    products = found.pooled(suits if null is None else null)
    least, reached = least_errors(products), errors(products)
    verdict, warnings, unexplained = WARNING, list[str](), False
    if not _is_trained(least, found.filtered):
        verdict, warnings, unexplained = UNTRAINED, [NOT_TRAINED], True
    elif float((reached / least).max()) > 1 + TOLERANCE:
        warnings, unexplained = _clock_warning(model, found, products, least, reached)
    else:
        if by_label is not None:
            labels = judge_labels(by_label, tried, model.class_names, seed, again)
            warnings = _label_warnings(labels, *tried.shape)
        verdict = WARNING if warnings else OK
    return {
        "verdict": verdict,
        "warnings": warnings,
        "unexplained": unexplained,
        "times": found.times,
        "noise_to_signal": found.noise_to_signal,
        "error_with_label": None if labels is None else errors(found.pooled(own)).tolist(),
        "error_without_label": None if null is None else errors(found.pooled(null)).tolist(),
        "least_error": least.tolist(),
        "most_error": ((1 + TOLERANCE) * least).tolist(),
        "filter_error": found.filtered.tolist(),
        "max_gain": float((reached / least).max()) - 1,
        "labels": None if labels is None else dataclasses.asdict(labels),
    }


def _is_trained(least: Float[Tensor, " times"], filtered: Float[Tensor, " times"]) -> bool:
    """Whether the best that can be made of the predictions beats a linear filter at some time, beyond the tolerance."""
    return bool((least * (1 + TOLERANCE) < filtered).any())


def _clock_warning(
    model: Adapter, found: Denoising, products: Tensor, least: Tensor, reached: Tensor
) -> tuple[list[str], bool]:
    """Return a warning that predictions are not the best that can be made of them; whether its cause is unknown."""
    worst = int((reached / least).argmax())
    told = (
        f"at t = {found.times[worst]:g} the mean squared error of the predicted noise is {float(reached[worst]):.3g}; "
        f"of a right model at most {(1 + TOLERANCE) * float(least[worst]):.3g}"
    )
    said = getattr(model, "prediction", None)
    actual = actual_output(found, products, said, TOLERANCE) if said in OUTPUTS else None
    if actual is not None:
        return [f"{told}: the network's output is read as {said} and is {actual} (prediction_type)"], False
    causes = (
        "wrong clock, noise schedule, prediction type, range of pixels or scale of latents, or images unlike its own"
    )
    return [f"{told}: {causes}"], True


def _label_warnings(labels: LabelOrder, num_images: int, num_labels: int) -> list[str]:
    if labels.fits:
        return [] if labels.likely is None else [f"labels: {labels.likely}"]
    if not labels.decidable:
        return []
    likely = labels.likely or "labels in another order, or a condition that hardly matters"
    return [
        f"labels: the model denoises {labels.first} of {num_images} images best with their own, of {num_labels} tried, "
        f"and drawn labels do as well in {labels.chance:.0%} of draws: {likely}"
    ]


def _likely_change(
    model: Adapter,
    x_0: Tensor,
    condition: Int[Tensor, " b"] | None,
    keys: Sequence[str],
    seed: int,
    num_times: int,
    rows: int,
) -> tuple[str | None, int]:
    """Return the mistake without which the model would be right, if any, and the evaluations that it took to see."""
    gains: dict[str, float] = {}
    evaluations = 0
    for name, (scale, shift) in CHANGES.items():
        changed = scale * x_0 + shift
        times = choose_times(model.schedule, spread_of(changed), num_times, None)
        found = measure(model, changed, [condition], times, keys, seed, rows)
        evaluations += found.evaluations
        products = found.pooled(0)
        if not bool(products.isfinite().all()):
            continue
        least = least_errors(products)
        if _is_trained(least, found.filtered):
            gains[name] = float((errors(products) / least).max()) - 1
    best = min(gains, key=lambda name: gains[name], default=None)
    return (best if best is not None and gains[best] <= TOLERANCE else None), evaluations


def autoencoder_error(
    model: Adapter, pixels: Float[Tensor, "b 3 h w"], x_0: Float[Tensor, " b *latent"]
) -> tuple[float, float]:
    """Return the RMS error of encoding and decoding images, and that of averaging over a latent's block [grey levels].

    An autoencoder that is of any use loses less than plain averages at as many places. Where a latent has the image's
    side the bound is one grey level.
    """
    back = torch.cat([model.decode(some) for some in x_0.split(1)]).clamp(-1, 1)
    side = max(pixels.shape[-1] // x_0.shape[-1], 1)
    blocks = F.interpolate(F.avg_pool2d(pixels, side), pixels.shape[-2:], mode="nearest")
    lost, bound = (127.5 * float((other - pixels).double().square().mean().sqrt()) for other in (back, blocks))
    return lost, max(bound, 1.0)
