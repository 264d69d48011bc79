"""The projection of Eq. 2 and its named controls: each changes the projection step and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clarep_ray.clarid.directions import leading, project_out
from clarep_ray.clarid.model import DiffusionModel

NUM_CENTRE_ITERATIONS = 64


@dataclass(frozen=True)
class ProjectionInputs:
    """What a projection may use: the latent at t_e, V_k, and, made only when asked for, the controls' directions."""

    x_t: Float[Tensor, " b *latent"]
    right_vectors: Float[Tensor, " b m d"]
    num_removed: Int[Tensor, " b"]
    make_random: Callable[[], Tensor]
    make_unconditional: Callable[[], Tensor]
    make_centre: Callable[[], Tensor]

    @cached_property
    def canonical(self) -> Tensor:
        """x_t without its leading directions: Eq. 2."""
        return project_out(self.x_t, leading(self.right_vectors, self.num_removed))

    @cached_property
    def random(self) -> Tensor:
        """x_t without as many random orthonormal directions."""
        return project_out(self.x_t, leading(self.make_random(), self.num_removed))

    @cached_property
    def norm_ratio(self) -> Float[Tensor, " b"]:
        """||canonical|| / ||x_t|| of each sample: what Eq. 2 leaves of the norm, and controls of the norm can show."""
        return self.canonical.flatten(1).norm(dim=1) / self.x_t.flatten(1).norm(dim=1).clamp_min(1e-12)

    def scaled_like(self, x: Tensor, like: Tensor) -> Tensor:
        """Return x with the norm of `like`, sample by sample."""
        ratio = like.flatten(1).norm(dim=1) / x.flatten(1).norm(dim=1).clamp_min(1e-12)
        return x * ratio.view(-1, *[1] * (x.ndim - 1))


def _other_image(inputs: ProjectionInputs) -> Tensor:
    donors = inputs.right_vectors.roll(-1, dims=0)
    return project_out(inputs.x_t, leading(donors, inputs.num_removed))


PROJECTIONS: dict[str, Callable[[ProjectionInputs], Tensor]] = {
    "clarid": lambda i: i.canonical,
    "none": lambda i: i.x_t,
    "random": lambda i: i.random,
    "shrink": lambda i: i.scaled_like(i.x_t, i.canonical),
    "random_shrink": lambda i: i.scaled_like(i.random, i.canonical),
    "other_image": _other_image,
    "unconditional": lambda i: project_out(i.x_t, leading(i.make_unconditional(), i.num_removed)),
    "restore_norm": lambda i: i.scaled_like(i.canonical, i.x_t),
    "centred": lambda i: project_out(i.x_t, leading(i.right_vectors, i.num_removed), i.make_centre()),
}
"""Projection mode -> latent at t_e.

clarid: Eq. 2. none: unchanged. random: as many random directions. shrink: x_t scaled to CLARID's norm.
random_shrink: both. other_image: the next image's directions. unconditional: directions of the null-label
Jacobian. restore_norm: Eq. 2, scaled back to x_t's norm. centred: Eq. 2 about the model's class centre.
"""


def random_directions(generators: list[torch.Generator], count: int, dim: int) -> Float[Tensor, " b m d"]:
    """Return `count` random orthonormal rows for each generator."""
    draws = [torch.randn(dim, count, generator=generator) for generator in generators]
    return torch.linalg.qr(torch.stack(draws))[0].mT


def class_centre(
    model: DiffusionModel, like: Float[Tensor, " b *latent"], t: float, cond: Any
) -> Float[Tensor, " b *latent"]:
    """Return the latent at time t that the model takes for noise-free, eps(x) = 0, nearest the origin.

    It is the fixed point of x - sigma eps(x), a mean shift started at zero. For Gaussian data it is alpha times
    the class mean, where Eq. 2 about it leaves the mean in place.
    """
    _, sigma = model.schedule.alpha_sigma(torch.tensor([t], dtype=torch.float64))
    centre = torch.zeros_like(like)
    for _ in range(NUM_CENTRE_ITERATIONS):
        centre = centre - sigma.item() * model.eps(centre, t, cond)
    return centre
