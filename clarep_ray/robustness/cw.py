"""Carlini and Wagner's L2 attack (2017) with a fixed constant c, each picture on its own."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clarep_ray.models.answers import NO_ANSWER, answers_of
from clarep_ray.robustness.attack import Found, SampleAttack, Targets
from clarep_ray.robustness.calls import ModelCalls
from clarep_ray.robustness.losses import margin

RADIUS = 0.55
"""Half width of the tanh's range. At 0.5, the original's, its slope is zero where a pixel is 0 or 1, which then never
moves; a little wider, those pixels move at a fifth of the speed of grey ones, and the box is kept by bounding w."""
BOUND = math.atanh(0.5 / RADIUS)
BETA_1, BETA_2, TINY = 0.9, 0.999, 1e-8
"""Of Adam."""
CHECKS = 10
"""How often a picture is asked whether its cost still falls."""


def to_pictures(w: Float[Tensor, " b c h w"]) -> Float[Tensor, " b c h w"]:
    """Return the pictures in [0, 1] of optimisation variables within +-BOUND."""
    return (0.5 + RADIUS * w.tanh()).clamp(0, 1)  # of rounding only


def to_variables(pictures: Float[Tensor, " b c h w"]) -> Float[Tensor, " b c h w"]:
    """Return the optimisation variables of pictures in [0, 1], finite for 0 and 1."""
    return ((pictures - 0.5) / RADIUS).atanh()


@dataclass
class _Path:
    """Where each picture of the batch is on its way: variables, Adam's moments, its cost at the last check."""

    w: Tensor
    mean: Tensor
    square: Tensor
    cost: Tensor

    def keep(self, kept: Tensor) -> _Path:
        return _Path(self.w[kept], self.mean[kept], self.square[kept], self.cost[kept])

    def step(self, gradient: Tensor, number: int, rate: float) -> None:
        self.mean = BETA_1 * self.mean + (1 - BETA_1) * gradient
        self.square = BETA_2 * self.square + (1 - BETA_2) * gradient.square()
        scale = (self.square / (1 - BETA_2**number)).sqrt() + TINY
        self.w = (self.w - rate * self.mean / (1 - BETA_1**number) / scale).clamp(-BOUND, BOUND)


@dataclass(frozen=True, kw_only=True)
class Cw(SampleAttack):
    """Adam on ||x' - x||_2^2 + c max(-margin, -kappa); of the pictures that fool the model the nearest is kept.

    A picture that fools the model already leaves the batch when its cost no longer falls; one that does not goes on.
    The L2 distance has no bound: success means that the answer is wrong by `kappa` or more in logits.
    """

    c: float
    kappa: float = 0.0
    num_steps: int
    learning_rate: float = 0.01

    @property
    def name(self) -> str:
        return "cw"

    def search(self, calls: ModelCalls, targets: Targets) -> Found:
        found = Found.nothing(targets.images)
        nearest = torch.full((len(targets.images),), torch.inf, device=targets.images.device)
        rows = torch.arange(len(targets.images), device=targets.images.device)
        start = to_variables(targets.images)
        path = _Path(start, torch.zeros_like(start), torch.zeros_like(start), torch.full_like(nearest, torch.inf))
        interval = max(self.num_steps // CHECKS, 1)
        for number in range(1, self.num_steps + 1):
            pictures = to_pictures(path.w)
            offset = pictures - targets.images[rows]
            logits, hinge, gradient = self._hinge(calls, targets, pictures, rows)
            self._note(found, nearest, targets, rows, pictures, logits)
            slope = RADIUS * (1 - path.w.tanh().square())
            path.step((2 * offset + self.c * gradient) * slope, number, self.learning_rate)
            if number % interval == 0:
                cost = offset.square().sum((1, 2, 3)) + self.c * hinge
                kept = ~(found.success[rows] & (cost > path.cost))
                path.cost = cost
                rows, path = rows[kept], path.keep(kept)
            if not len(rows):
                return found
        last = to_pictures(path.w)
        self._note(found, nearest, targets, rows, last, calls.logits(last, rows))
        return found

    def _hinge(
        self, calls: ModelCalls, targets: Targets, pictures: Float[Tensor, " k c h w"], rows: Int[Tensor, " k"]
    ) -> tuple[Float[Tensor, " k classes"], Float[Tensor, " k"], Float[Tensor, " k c h w"]]:
        return calls.gradient(
            pictures, rows, lambda logits, r: (-margin(logits, targets.labels[r])).clamp(min=-self.kappa)
        )

    def _note(
        self, found: Found, nearest: Tensor, targets: Targets, rows: Tensor, pictures: Tensor, logits: Tensor
    ) -> None:
        labels = targets.labels[rows]
        distance = (pictures - targets.images[rows]).square().sum((1, 2, 3))
        answers = answers_of(logits)
        # No answer is wrong by any margin; margins of NaN compare as false.
        wrong = (answers == NO_ANSWER) | ((answers != labels) & (margin(logits, labels) >= self.kappa))
        better = wrong & (distance < nearest[rows])
        nearest[rows[better]] = distance[better]
        found.note(rows, pictures, better)
