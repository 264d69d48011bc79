"""A training whose numbers have left the finite ones ends at that step, before they reach its weights."""

from __future__ import annotations

import math
from collections.abc import Iterable

from torch import Tensor, nn

from clarep_ray.errors import TrainingDiverged


def clip_finite(loss: Tensor, parameters: Iterable[Tensor], max_norm: float | None, step: int) -> None:
    """Clip gradients to a norm, if there is one; TrainingDiverged where they, or the loss, are not finite.

    To be called before the optimiser's `step`, so that weights and checkpoints stay those of the last good step.
    """
    norm = nn.utils.clip_grad_norm_(parameters, math.inf if max_norm is None else max_norm).item()
    if not (math.isfinite(loss.item()) and math.isfinite(norm)):
        raise TrainingDiverged(
            f"step {step}: the loss is {loss.item():g} and its gradient's norm {norm:g}; the checkpoints hold the last "
            "good steps; try a lower learning rate"
        )
