"""PGD in the L-inf ball (Madry et al. 2018), the best iterate kept."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clarep_ray.models.answers import answers_of
from clarep_ray.robustness.attack import Found, SampleAttack, Targets
from clarep_ray.robustness.calls import ModelCalls
from clarep_ray.robustness.losses import cross_entropy


def in_ball(
    pictures: Float[Tensor, " b c h w"], centres: Float[Tensor, " b c h w"], eps: float
) -> Float[Tensor, " b c h w"]:
    """Return the pictures, projected on the L-inf ball of radius `eps` and on [0, 1]."""
    return torch.minimum(torch.maximum(pictures, centres - eps), centres + eps).clamp(0, 1)


@dataclass(frozen=True, kw_only=True)
class Pgd(SampleAttack):
    """Signed gradient steps on the cross-entropy from a random start; every iterate counts, the last included.

    `eps` and `step` are on the scale of pixels in [0, 1].
    """

    eps: float
    step: float
    num_steps: int
    num_restarts: int = 1
    random_start: bool = True

    @property
    def name(self) -> str:
        return "pgd"

    def search(self, calls: ModelCalls, targets: Targets) -> Found:
        found = Found.nothing(targets.images)
        for restart in range(self.num_restarts):
            rows = found.remaining()
            if not len(rows):
                break
            self._climb(calls, targets, rows, restart, found)
        return found

    def _climb(self, calls: ModelCalls, targets: Targets, rows: Int[Tensor, " k"], restart: int, found: Found) -> None:
        centres, labels = targets.images[rows], targets.labels
        pictures = centres
        if self.random_start:
            noise = self.eps * targets.subset(rows).uniform(f"pgd/{restart}")
            pictures = in_ball(centres + noise, centres, self.eps)
        for _ in range(self.num_steps):
            logits, _, gradient = calls.gradient(pictures, rows, lambda z, r: cross_entropy(z, labels[r]))
            fooled = answers_of(logits) != labels[rows]
            found.note(rows, pictures, fooled)
            kept = ~fooled  # the fallen leave the batch
            rows, pictures, centres = rows[kept], pictures[kept], centres[kept]
            if not len(rows):
                return
            pictures = in_ball(pictures + self.step * gradient[kept].sign(), centres, self.eps)
        found.note(rows, pictures, answers_of(calls.logits(pictures, rows)) != labels[rows])
