"""Classifiers for pictures in [0, 1], their normalisation inside, so that budgets mean what they say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from clarep_ray.config import ClassifierConfig
from clarep_ray.data.views import View
from clarep_ray.models import digit_classifier
from clarep_ray.models.classifiers import SHIPPED
from clarep_ray.models.timm_folder import CONFIG, WEIGHTS, load_timm, timm_view


class NormalisedClassifier(nn.Module):
    """A network behind (images - mean) / std, for images in [0, 1] made by `view`; mean and std are per channel."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float], view: View) -> None:
        super().__init__()
        self.network, self.view = network, view
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(list(values), dtype=torch.float32)[:, None, None], persistent=False)

    def forward(self, images: Float[Tensor, " b c h w"]) -> Float[Tensor, " b classes"]:
        return self.network((images - self.mean) / self.std)


def load_classifier(config: ClassifierConfig, device: torch.device | str = "cpu") -> NormalisedClassifier:
    """Return the classifier of a config, frozen and in eval mode. Raises ValueError for a folder that lacks a file."""
    if config.weights == SHIPPED:
        grey, view = (0.5, 0.5, 0.5), View(image_size=digit_classifier.SIDE, resize=digit_classifier.SIDE)
        found = NormalisedClassifier(digit_classifier.load("digit"), grey, grey, view)
    else:
        found = _timm(Path(config.weights))
    return found.eval().requires_grad_(False).to(device)


def _timm(folder: Path) -> NormalisedClassifier:
    for file in (CONFIG, WEIGHTS):
        if not (folder / file).is_file():
            raise ValueError(
                f"classifier.weights: {str(folder)!r} has no {file}; valid: {SHIPPED}, or a folder of a "
                f"timm model with {CONFIG} and {WEIGHTS}"
            )
    from timm.data.config import resolve_data_config

    network: Any = load_timm(folder, "classifier.weights")
    data = resolve_data_config(model=network)
    view = timm_view(network, folder, "classifier.weights")
    return NormalisedClassifier(network, data["mean"], data["std"], view)
