"""What is wrapped for several workers: the student, and what a method trains beside it, in one forward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from clarep_ray.cadistill.baseline_losses import attention_map
from clarep_ray.models.students import Student


class Outputs(NamedTuple):
    """Features and logits of every row, and what the method's own head makes of them, all float32."""

    features: Float[Tensor, " n d"]
    logits: Float[Tensor, " n c"]
    extra: dict[str, Tensor]


class Head(nn.Module):
    """What a method needs of the student besides features and logits; this one needs nothing."""

    def forward(self, features: Tensor, maps: Tensor, pixels: Tensor, draws: Tensor) -> dict[str, Tensor]:
        """Return named tensors with a row for each row of `features`.

        `maps` is the student's last map in the network's own layout, `pixels` what it saw, `draws` (n, 3) numbers in
        [0, 1) that are the images' own.
        """
        return {}


class AttentionHead(Head):
    """Where the last map's activations are strong, on a grid of `side` x `side`."""

    def __init__(self, spatial: Callable[[Tensor], Tensor], side: int) -> None:
        super().__init__()
        self.spatial, self.side = spatial, side

    def forward(self, features: Tensor, maps: Tensor, pixels: Tensor, draws: Tensor) -> dict[str, Tensor]:
        return {"attention": attention_map(self.spatial(maps).float(), self.side)}


class ProjectionHead(Head):
    """SupCon's projection: two layers to 128 numbers, used by the contrastive term alone."""

    def __init__(self, width: int, projected: int = 128) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, projected))

    def forward(self, features: Tensor, maps: Tensor, pixels: Tensor, draws: Tensor) -> dict[str, Tensor]:
        return {"projected": self.layers(features).float()}


class RegressorHead(Head):
    """FitNet's regressor: a linear layer to the teacher's width."""

    def __init__(self, width: int, teacher_width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width, teacher_width)

    def forward(self, features: Tensor, maps: Tensor, pixels: Tensor, draws: Tensor) -> dict[str, Tensor]:
        return {"regressed": self.layer(features).float()}


class Learner(nn.Module):
    """A student and a method's head."""

    def __init__(self, student: Student, head: Head) -> None:
        super().__init__()
        self.student, self.head = student, head
        self.linear_only = False
        """Whether only the student's classifier is trained, on features of a network in eval mode."""

    def train(self, mode: bool = True) -> Learner:
        super().train(mode)
        if self.linear_only:
            self.student.eval()
        return self

    def forward(self, pixels: Float[Tensor, " n 3 h w"], draws: Float[Tensor, " n 3"], with_head: bool) -> Outputs:
        """Return features, logits and, if asked for, the head's outputs of pixels in [0, 1]."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.linear_only):
            maps = self.student.maps(pixels)
            features = self.student.pool(maps)
        logits = self.student.classify(features)
        extra = self.head(features, maps, pixels, draws) if with_head else {}
        return Outputs(features.float(), logits.float(), extra)
