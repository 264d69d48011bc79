"""Losses that attacks increase, one value per row."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def cross_entropy(logits: Float[Tensor, " b classes"], labels: Int[Tensor, " b"]) -> Float[Tensor, " b"]:
    """Return the cross-entropy of each row."""
    return F.cross_entropy(logits, labels, reduction="none")


def margin(logits: Float[Tensor, " b classes"], labels: Int[Tensor, " b"]) -> Float[Tensor, " b"]:
    """Return the largest wrong logit minus the right one: positive where the answer is wrong, for any signs."""
    return _others(logits, labels).amax(1) - _at(logits, labels)


def dlr(logits: Float[Tensor, " b classes"], labels: Int[Tensor, " b"]) -> Float[Tensor, " b"]:
    """Return the difference of logits ratio (Croce and Hein 2020): the margin over the first-to-third distance.

    It does not change with shift and scale of the logits. Needs three classes.
    """
    top = logits.topk(3, dim=1).values
    return margin(logits, labels) / (top[:, 0] - top[:, 2] + 1e-12)


def targeted_dlr(
    logits: Float[Tensor, " b classes"], labels: Int[Tensor, " b"], targets: Int[Tensor, " b"]
) -> Float[Tensor, " b"]:
    """Return the targeted difference of logits ratio (Croce and Hein 2020). Needs four classes."""
    top = logits.topk(4, dim=1).values
    scale = top[:, 0] - (top[:, 2] + top[:, 3]) / 2
    return (_at(logits, targets) - _at(logits, labels)) / (scale + 1e-12)


def likely_wrong(
    logits: Float[Tensor, " b classes"], labels: Int[Tensor, " b"], count: int
) -> Int[Tensor, " b targets"]:
    """Return the `count` likeliest wrong classes of each row, the likeliest first; fewer where there are fewer."""
    return _others(logits, labels).argsort(dim=1, descending=True, stable=True)[:, : min(count, logits.shape[1] - 1)]


def _others(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.scatter(1, labels[:, None], -torch.inf)


def _at(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.gather(1, labels[:, None])[:, 0]
