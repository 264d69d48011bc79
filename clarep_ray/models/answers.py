"""From logits to answers: a row that holds a number which is not finite has none."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

NO_ANSWER = -2
"""In place of a class. It is never a right one: labels are 0 and more, and -1 stands for a class that is not known."""


def answers_of(logits: Float[Tensor, " b classes"]) -> Int[Tensor, " b"]:
    """Return the class of the largest logit of each row; NO_ANSWER where one of the row's logits is not finite.

    One infinite or NaN logit is enough: argmax gives the class in the place of the first NaN, and an overflow says
    that the arithmetic failed, not how sure the network is.
    """
    return torch.where(all_finite(logits), logits.argmax(1), NO_ANSWER)


def all_finite(logits: Float[Tensor, " b classes"]) -> Bool[Tensor, " b"]:
    """Say of each row whether all its logits are finite."""
    return logits.isfinite().all(1)
