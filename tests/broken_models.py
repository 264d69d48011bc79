"""Classifiers that give numbers which are not finite: always, for some images, or in their gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


def broken_timm(folder: Path, num_classes: int = 10, rows: Any = slice(None), value: float = torch.nan) -> Path:
    """Save a small random timm model with a number of no use in rows of its last bias."""
    import timm
    from timm.models import save_for_hf

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = timm.create_model("test_resnet", num_classes=num_classes)
    head: Any = model.fc
    with torch.no_grad():
        head.bias[rows] = value
    save_for_hf(model, str(folder), safe_serialization=True)
    return folder


class Overflowing(nn.Module):
    """A classifier that gives NaN for images brighter than a limit; elsewhere it reads one pixel's rank."""

    def __init__(self, model: nn.Module, limit: float) -> None:
        super().__init__()
        self.model, self.limit = model, limit

    def forward(self, images: Tensor) -> Tensor:
        logits = self.model(images)
        return torch.where(images.mean((1, 2, 3))[:, None] > self.limit, torch.nan, logits)


class NanSlope(nn.Module):
    """The same logits as a model, with gradients that are NaN: sqrt at 0."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        nothing = (images - images.detach()).pow(2).sum((1, 2, 3)).sqrt()
        return self.model(images) + nothing[:, None]
