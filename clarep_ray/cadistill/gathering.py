"""Losses over the global batch: features of every worker, with gradients that DDP averages to the right ones."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor


def world_size() -> int:
    """Return the number of workers; 1 where no process group was started."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class _Gather(torch.autograd.Function):
    """Concatenate over workers; backwards, this worker's rows times the number of workers.

    Every worker computes the same loss of the same gathered rows, so that each already holds the whole gradient of
    its own rows: nothing has to travel back. DDP will average parameter gradients over the workers; the factor makes
    that average the sum it has to be.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        gathered = [torch.empty_like(rows) for _ in range(world_size())]
        dist.all_gather(gathered, rows.contiguous())
        ctx.count = len(rows)
        return torch.cat(gathered)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        start = dist.get_rank() * ctx.count
        return gradients[0][start : start + ctx.count] * world_size()


def gather(rows: Shaped[Tensor, " b *rest"]) -> Shaped[Tensor, " n *rest"]:
    """Return the rows of all workers, in the order of their ranks; every worker must hold as many.

    For losses that every worker computes alike on what is returned: then the mean over workers of a parameter's
    gradient, as DDP takes it, is the gradient of the loss on one worker with the whole batch. Empty rows stay as they
    are.
    """
    if world_size() == 1 or rows.numel() == 0:
        return rows
    if rows.requires_grad:
        return _Gather.apply(rows)  # type: ignore[no-any-return]
    gathered = [torch.empty_like(rows) for _ in range(world_size())]
    dist.all_gather(gathered, rows.contiguous())
    return torch.cat(gathered)


def sum_over_workers(values: Shaped[Tensor, " *any"]) -> Shaped[Tensor, " *any"]:
    """Return the sum of a tensor over workers."""
    if world_size() > 1:
        dist.all_reduce(values)
    return values
