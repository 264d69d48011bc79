"""The corruptions of Hendrycks and Dietterich (2019): names, slices, figures."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

NUM_SEVERITIES = 5
ALEXNET_ERRORS: dict[str, float] = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}
"""AlexNet's mean error of each corruption on ImageNet-C, to which mCE is relative."""
CORRUPTIONS: tuple[str, ...] = tuple(ALEXNET_ERRORS)
"""The fifteen that count; the four extra ones are for choosing settings."""


def corruption_slices() -> tuple[str, ...]:
    """Return corruption/severity of all 75 slices."""
    return tuple(f"{name}/{severity}" for name in CORRUPTIONS for severity in range(1, NUM_SEVERITIES + 1))


def corruption_summary(accuracies: Mapping[str, float]) -> dict[str, float]:
    """Return `top1`, the mean over all slices, and the mean of each corruption and of each severity."""
    figures = {"top1": float(np.mean([accuracies[part] for part in corruption_slices()]))}
    for name in CORRUPTIONS:
        figures[name] = _mean(accuracies, lambda part, name=name: part.startswith(f"{name}/"))
    for severity in range(1, NUM_SEVERITIES + 1):
        figures[f"severity_{severity}"] = _mean(accuracies, lambda part, s=severity: part.endswith(f"/{s}"))
    return figures


def mean_corruption_error(accuracies: Mapping[str, float]) -> float:
    """Return ImageNet-C's mCE: the mean over corruptions of the error relative to AlexNet's [1 is AlexNet]."""
    summary = corruption_summary(accuracies)
    return float(np.mean([(1 - summary[name]) / error for name, error in ALEXNET_ERRORS.items()]))


def _mean(accuracies: Mapping[str, float], chosen: object) -> float:
    assert callable(chosen)
    return float(np.mean([value for part, value in accuracies.items() if chosen(part)]))
