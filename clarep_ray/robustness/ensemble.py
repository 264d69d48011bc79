"""Several attacks as one: a picture is robust where none of them fools the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from clarep_ray.robustness.attack import Attack, AttackResult, of_rows


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """The per-sample worst of its members, one after another, each on what the earlier ones left."""

    name: str
    members: tuple[Attack, ...]

    def __call__(
        self, model: nn.Module, images: Float[Tensor, " b c h w"], labels: Int[Tensor, " b"], keys: Sequence[str]
    ) -> AttackResult:
        total: AttackResult | None = None
        rows = torch.arange(len(images), device=images.device)
        for member in self.members:
            part = member(model, images[rows], labels[rows], of_rows(keys, rows))
            total = part if total is None else _added(total, part, rows)
            rows = (~total.success).nonzero()[:, 0]
            if not len(rows):
                break
        if total is None:
            raise ValueError(f"{self.name}: has no members; valid: one attack or more")
        return total


def _added(total: AttackResult, part: AttackResult, rows: Tensor) -> AttackResult:
    adversarial, success = total.adversarial.clone(), total.success.clone()
    adversarial[rows], success[rows] = part.adversarial, part.success
    gradients, queries = total.num_gradients.clone(), total.num_queries.clone()
    where = rows.to(gradients.device)
    gradients[where] += part.num_gradients
    queries[where] += part.num_queries
    return AttackResult(adversarial, success, total.attacked, gradients, queries)


def worst_case(successes: Sequence[Bool[Tensor, " b"]]) -> Bool[Tensor, " b"]:
    """Return which pictures any of the attacks fools the model with; ValueError for no attack."""
    if not successes:
        raise ValueError("successes: () is not valid; valid: the verdicts of one attack or more")
    return torch.stack(list(successes)).any(0)
