"""Square attack (Andriushchenko et al. 2020) in the L-inf ball: random search with queries alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clarep_ray.models.answers import answers_of
from clarep_ray.robustness.attack import Found, SampleAttack, Targets
from clarep_ray.robustness.calls import ModelCalls
from clarep_ray.robustness.losses import margin
from clarep_ray.robustness.pgd import in_ball

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Queries, of ten thousand, after which the share of the picture that a square covers is halved."""


def square_side(query: int, num_queries: int, p_init: float, height: int, width: int) -> int:
    """Return the side of the square tried at a query (1, 2, ...), in pixels."""
    scaled = int(query / num_queries * 10_000)
    share = p_init / 2 ** sum(scaled > after for after in HALVINGS)
    return min(max(round(math.sqrt(share * height * width)), 1), height - 1 or 1, width - 1 or 1)


@dataclass(frozen=True, kw_only=True)
class Square(SampleAttack):
    """Squares of +-2 eps laid on the picture and kept where the margin grows, from vertical stripes of +-eps.

    `num_queries` is the number of forward passes of a picture, that of the stripes included. As in the paper's
    Algorithm 2 a square may lie anywhere; released implementations never reach the last row and column.
    """

    eps: float
    num_queries: int
    p_init: float = 0.8

    @property
    def name(self) -> str:
        return "square"

    def search(self, calls: ModelCalls, targets: Targets) -> Found:
        found, labels = Found.nothing(targets.images), targets.labels
        draws = _Draws.of(targets, self.num_queries)
        rows = torch.arange(len(labels), device=labels.device)
        centres = targets.images
        pictures = (centres + self.eps * draws.stripes).clamp(0, 1)
        best = self._query(calls, labels, found, pictures, rows)
        for query in range(1, self.num_queries):
            kept = ~found.success[rows]
            rows, pictures, best, centres = rows[kept], pictures[kept], best[kept], centres[kept]
            if not len(rows):
                break
            side = square_side(query, self.num_queries, self.p_init, *centres.shape[2:])
            tried = in_ball(pictures + 2 * self.eps * draws.square(query, rows, side), centres, self.eps)
            reached = self._query(calls, labels, found, tried, rows)
            better = reached > best
            pictures = torch.where(better[:, None, None, None], tried, pictures)
            best = torch.where(better, reached, best)
        return found

    def _query(
        self,
        calls: ModelCalls,
        labels: Int[Tensor, " n"],
        found: Found,
        pictures: Float[Tensor, " k c h w"],
        rows: Int[Tensor, " k"],
    ) -> Float[Tensor, " k"]:
        logits = calls.logits(pictures, rows)
        found.note(rows, pictures, answers_of(logits) != labels[rows])
        return margin(logits, labels[rows])


@dataclass(frozen=True)
class _Draws:
    """All random numbers of a search, drawn beforehand so that no picture's depend on how long another lasts."""

    stripes: Float[Tensor, " n c 1 w"]
    places: Float[Tensor, " n queries 2"]
    signs: Float[Tensor, " n queries c"]
    height: int

    @staticmethod
    def of(targets: Targets, num_queries: int) -> _Draws:
        _, channels, height, width = targets.images.shape
        stripes, places, signs = [], [], []
        for generator in targets.generators("square"):
            stripes.append(torch.rand((channels, 1, width), generator=generator))
            places.append(torch.rand((num_queries, 2), generator=generator))
            signs.append(torch.rand((num_queries, channels), generator=generator))
        where = targets.images
        return _Draws(
            _sign(torch.stack(stripes)).to(where),
            torch.stack(places).to(where),
            _sign(torch.stack(signs)).to(where),
            height,
        )

    def square(self, query: int, rows: Int[Tensor, " k"], side: int) -> Float[Tensor, " k c h w"]:
        """Return the squares of a query: +-1 per channel inside, 0 outside."""
        width = self.stripes.shape[-1]
        room = self.places.new_tensor([self.height - side + 1, width - side + 1])
        top, left = (self.places[rows, query] * room).floor().T
        down, across = torch.arange(self.height, device=top.device), torch.arange(width, device=top.device)
        inside_rows = (down >= top[:, None]) & (down < top[:, None] + side)
        inside_columns = (across >= left[:, None]) & (across < left[:, None] + side)
        inside = inside_rows[:, None, :, None] & inside_columns[:, None, None, :]
        return self.signs[rows, query][:, :, None, None] * inside


def _sign(uniform: Tensor) -> Tensor:
    return torch.where(uniform < 0.5, -1.0, 1.0)
