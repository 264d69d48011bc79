"""Auto-PGD (Croce and Hein 2020) in the L-inf ball: cross-entropy, DLR and targeted DLR."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clarep_ray.models.answers import answers_of
from clarep_ray.robustness.attack import Found, SampleAttack, Targets
from clarep_ray.robustness.calls import Loss, ModelCalls
from clarep_ray.robustness.losses import cross_entropy, dlr, likely_wrong, targeted_dlr
from clarep_ray.robustness.pgd import in_ball

MOMENTUM = 0.75
"""Weight of the new step beside the last one."""


def checkpoints(num_steps: int) -> frozenset[int]:
    """Return the numbers of steps after which the step size is looked at, as the authors' code places them.

    The first interval is 22 % of the steps; each next one is 3 % shorter, 6 % at least.
    """
    interval, least, shorter = (max(int(share * num_steps), 1) for share in (0.22, 0.06, 0.03))
    found, at = set[int](), interval
    while at <= num_steps:
        found.add(at)
        interval = max(interval - shorter, least)
        at += interval
    return frozenset(found)


@dataclass
class _State:
    """Every picture's place, its best place so far, and what the step size rule remembers."""

    picture: Tensor
    previous: Tensor
    gradient: Tensor
    loss: Tensor
    best: Tensor
    best_gradient: Tensor
    best_loss: Tensor
    step: Tensor
    increases: Tensor
    halved: Tensor
    loss_at_check: Tensor

    @staticmethod
    def start(picture: Tensor, gradient: Tensor, loss: Tensor, eps: float) -> _State:
        none = torch.zeros_like(loss)
        return _State(
            *(picture, picture, gradient, loss, picture, gradient, loss, torch.full_like(loss, 2 * eps)),
            *(none, torch.ones_like(loss, dtype=torch.bool), loss),
        )

    def keep(self, kept: Tensor) -> _State:
        return _State(*(value[kept] for value in vars(self).values()))

    def moved(self, centres: Tensor, eps: float, first: bool) -> Tensor:
        """Return the next places: a signed gradient step, averaged with the last movement but for the first step."""
        aim = in_ball(self.picture + _per_row(self.step) * self.gradient.sign(), centres, eps)
        weight = 1.0 if first else MOMENTUM
        forward = weight * (aim - self.picture) + (1 - weight) * (self.picture - self.previous)
        return in_ball(self.picture + forward, centres, eps)

    def arrive(self, picture: Tensor, gradient: Tensor, loss: Tensor) -> None:
        """Take the places that were moved to, and remember them where they are the best so far."""
        self.increases = self.increases + (loss > self.loss)
        self.previous, self.picture, self.gradient, self.loss = self.picture, picture, gradient, loss
        better = loss > self.best_loss
        self.best, self.best_gradient = _where(better, picture, self.best), _where(better, gradient, self.best_gradient)
        self.best_loss = torch.where(better, loss, self.best_loss)

    def review(self, interval: int, rho: float) -> None:
        """Halve the step and go back to the best place where the loss rose too seldom or reached nothing new."""
        seldom = self.increases <= rho * interval
        stuck = ~self.halved & (self.loss_at_check >= self.best_loss)
        self.halved = seldom | stuck
        self.step = torch.where(self.halved, self.step / 2, self.step)
        self.picture = _where(self.halved, self.best, self.picture)
        self.gradient = _where(self.halved, self.best_gradient, self.gradient)
        self.increases, self.loss_at_check = torch.zeros_like(self.increases), self.best_loss


@dataclass(frozen=True, kw_only=True)
class Apgd(SampleAttack):
    """Auto-PGD on the cross-entropy (`ce`) or the difference of logits ratio (`dlr`).

    `eps` is on the scale of pixels in [0, 1]; each gradient is the mean of `num_eot`, for randomised models.
    """

    eps: float
    num_steps: int
    loss: Literal["ce", "dlr"] = "ce"
    rho: float = 0.75
    num_eot: int = 1
    num_restarts: int = 1

    @property
    def name(self) -> str:
        return f"apgd_{self.loss}"

    def min_classes(self) -> int:
        return {"ce": 2, "dlr": 3}[self.loss]

    def search(self, calls: ModelCalls, targets: Targets) -> Found:
        found, measure = Found.nothing(targets.images), {"ce": cross_entropy, "dlr": dlr}[self.loss]
        for restart in range(self.num_restarts):
            stage = f"{self.name}/{restart}"
            self.climb(calls, targets, found, stage, lambda z, r: measure(z, targets.labels[r]))
        return found

    def climb(self, calls: ModelCalls, targets: Targets, found: Found, stage: str, loss: Loss) -> None:
        """Run Auto-PGD once from a random start on the pictures that have not fallen yet."""
        rows = found.remaining()
        if not len(rows):
            return
        centres = targets.images[rows]
        noise = targets.subset(rows).uniform(stage)
        noise = self.eps * noise / noise.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-12)
        picture = (centres + noise).clamp(0, 1)
        fooled, value, gradient = self._look(calls, targets, picture, rows, loss)
        found.note(rows, picture, fooled)
        state = _State.start(picture, gradient, value, self.eps).keep(~fooled)
        rows, centres = rows[~fooled], centres[~fooled]
        reviews, last_review = checkpoints(self.num_steps), 0
        for number in range(1, self.num_steps):
            if not len(rows):
                return
            picture = state.moved(centres, self.eps, first=number == 1)
            fooled, value, gradient = self._look(calls, targets, picture, rows, loss)
            found.note(rows, picture, fooled)
            state.arrive(picture, gradient, value)
            rows, centres, state = rows[~fooled], centres[~fooled], state.keep(~fooled)
            if number in reviews:
                state.review(number - last_review, self.rho)
                last_review = number
        if len(rows):  # nothing follows the last step, so that its gradient is not needed
            picture = state.moved(centres, self.eps, first=self.num_steps == 1)
            found.note(rows, picture, answers_of(calls.logits(picture, rows)) != targets.labels[rows])

    def _look(
        self, calls: ModelCalls, targets: Targets, picture: Tensor, rows: Tensor, loss: Loss
    ) -> tuple[Tensor, Tensor, Tensor]:
        logits, value, gradient = calls.gradient(picture, rows, loss)
        for _ in range(self.num_eot - 1):
            logits, value, more = calls.gradient(picture, rows, loss)
            gradient = gradient + more
        return answers_of(logits) != targets.labels[rows], value, gradient / self.num_eot


@dataclass(frozen=True, kw_only=True)
class ApgdTargeted(SampleAttack):
    """Auto-PGD on the targeted DLR, once towards each of a picture's `num_targets` likeliest wrong classes."""

    eps: float
    num_steps: int
    rho: float = 0.75
    num_eot: int = 1
    num_restarts: int = 1
    num_targets: int = 9

    @property
    def name(self) -> str:
        return "apgd_t"

    def min_classes(self) -> int:
        return 4

    def search(self, calls: ModelCalls, targets: Targets) -> Found:
        found = Found.nothing(targets.images)
        rows = torch.arange(len(targets.images), device=targets.images.device)
        wanted = likely_wrong(calls.logits(targets.images, rows), targets.labels, self.num_targets)
        climber = Apgd(eps=self.eps, num_steps=self.num_steps, rho=self.rho, num_eot=self.num_eot)
        for number in range(wanted.shape[1]):
            loss = _towards(wanted[:, number], targets.labels)
            for restart in range(self.num_restarts):
                climber.climb(calls, targets, found, f"{self.name}/{number}/{restart}", loss)
        return found


def _towards(wanted: Int[Tensor, " n"], labels: Int[Tensor, " n"]) -> Loss:
    def loss(logits: Float[Tensor, " k classes"], rows: Int[Tensor, " k"]) -> Float[Tensor, " k"]:
        return targeted_dlr(logits, labels[rows], wanted[rows])

    return loss


def _per_row(values: Tensor) -> Tensor:
    return values[:, None, None, None]


def _where(chosen: Tensor, one: Tensor, other: Tensor) -> Tensor:
    return torch.where(_per_row(chosen), one, other)
