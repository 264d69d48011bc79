"""Targeted FAB (Croce and Hein 2020, "Minimally distorted adversarial examples") in L-inf."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clarep_ray.models.answers import answers_of
from clarep_ray.robustness.attack import Found, SampleAttack, Targets
from clarep_ray.robustness.calls import ModelCalls
from clarep_ray.robustness.losses import likely_wrong


def onto_plane(
    points: Float[Tensor, " b d"], normals: Float[Tensor, " b d"], offsets: Float[Tensor, " b"]
) -> Float[Tensor, " b d"]:
    """Return the movement of least L-inf norm that takes points of [0, 1]^d to the plane <normal, x> = offset.

    The movement stays in the box; where the plane does not meet it, it goes as near as the box allows.
    """
    gap = offsets - (normals * points).sum(1)
    direction = normals.sign() * gap.sign()[:, None]
    room = torch.where(direction > 0, 1 - points, points)
    weight = normals.abs()
    # Moving all coordinates by r gains sum(weight * min(r, room)), which is piecewise linear: find its segment.
    order = room.argsort(1)
    sorted_room, sorted_weight = room.gather(1, order), weight.gather(1, order)
    spent = (sorted_room * sorted_weight).cumsum(1)
    free = sorted_weight.sum(1, keepdim=True) - sorted_weight.cumsum(1)
    gain = spent + sorted_room * free
    segment = (gain < gap.abs()[:, None]).sum(1, keepdim=True)
    beyond = segment == points.shape[1]
    segment = segment.clamp_max(points.shape[1] - 1)
    before = torch.where(segment > 0, spent.gather(1, (segment - 1).clamp_min(0)), 0.0)
    slope = (free + sorted_weight).gather(1, segment)
    radius = (gap.abs()[:, None] - before) / slope.clamp_min(1e-30)
    return direction * torch.where(beyond, room, torch.minimum(room, radius))


@dataclass(frozen=True, kw_only=True)
class FabTargeted(SampleAttack):
    """Steps to the linearised boundary with each of the `num_targets` likeliest wrong classes, drawn to the original.

    Success means an adversarial picture within `eps` of the original; one that has it leaves the batch. `eta` is the
    overshoot, `beta` the way back after success, `alpha_max` the largest pull to the original.
    """

    eps: float
    num_steps: int
    num_targets: int = 9
    alpha_max: float = 0.1
    eta: float = 1.05
    beta: float = 0.9

    @property
    def name(self) -> str:
        return "fab_t"

    def search(self, calls: ModelCalls, targets: Targets) -> Found:
        found = Found.nothing(targets.images)
        rows = torch.arange(len(targets.images), device=targets.images.device)
        wanted = likely_wrong(calls.logits(targets.images, rows), targets.labels, self.num_targets)
        for number in range(wanted.shape[1]):
            rows = found.remaining()
            if not len(rows):
                break
            self._walk(calls, targets, rows, wanted[:, number], found)
        return found

    def _walk(self, calls: ModelCalls, targets: Targets, rows: Tensor, wanted: Tensor, found: Found) -> None:
        picture = centres = targets.images[rows]
        for _ in range(self.num_steps):
            aimed = self._step(calls, targets, picture, centres, rows, wanted)
            fooled = answers_of(calls.logits(aimed, rows)) != targets.labels[rows]
            near = (aimed - centres).abs().amax((1, 2, 3)) <= self.eps
            found.note(rows, aimed, fooled & near)
            picture = torch.where(fooled[:, None, None, None], centres + self.beta * (aimed - centres), aimed)
            kept = ~found.success[rows]
            rows, centres, picture = rows[kept], centres[kept], picture[kept]
            if not len(rows):
                return

    def _step(
        self,
        calls: ModelCalls,
        targets: Targets,
        picture: Float[Tensor, " k c h w"],
        centres: Float[Tensor, " k c h w"],
        rows: Int[Tensor, " k"],
        wanted: Int[Tensor, " n"],
    ) -> Float[Tensor, " k c h w"]:
        def lead(logits: Tensor, which: Tensor) -> Tensor:
            at = logits.gather(1, torch.stack((wanted[which], targets.labels[which]), 1))
            return at[:, 0] - at[:, 1]

        _, value, gradient = calls.gradient(picture, rows, lead)
        here, origin, normal = picture.flatten(1), centres.flatten(1), gradient.flatten(1)
        offset = (normal * here).sum(1) - value
        from_here, from_origin = onto_plane(here, normal, offset), onto_plane(origin, normal, offset)
        way, way_origin = (move.abs().amax(1, keepdim=True).clamp_min(1e-8) for move in (from_here, from_origin))
        pull = (way / (way + way_origin)).clamp(0, self.alpha_max)
        moved = (1 - pull) * (here + self.eta * from_here) + pull * (origin + self.eta * from_origin)
        return moved.clamp(0, 1).view_as(picture)
