"""The model as an attack sees it: logits and gradients of some rows, in micro-batches, every call counted."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

Loss = Callable[[Tensor, Tensor], Tensor]
"""(logits (k, classes), row numbers (k,)) -> loss of each row (k,), to be increased."""


class ModelCalls:
    """Calls of one model on rows of one batch.

    Rows are numbers within the attacked pictures; `start` says which pictures those are, from then on calls are
    counted. Gradients are those of the input alone: no parameter's `grad` is touched.
    """

    def __init__(self, model: nn.Module, micro_batch: int | None = None, padded: bool = False) -> None:
        if padded and micro_batch is None:
            raise ValueError("micro_batch: None is not valid; valid: a number where padded is set")
        self._model, self._size, self._padded = model, micro_batch, padded
        self._places: Tensor | None = None
        self._gradients = self._queries = torch.zeros(0, dtype=torch.int64)

    def start(self, places: Int[Tensor, " n"], batch: int) -> None:
        """Count from now on; row i is picture places[i] of the batch."""
        self._places = places.cpu()
        self._gradients, self._queries = (torch.zeros(batch, dtype=torch.int64) for _ in range(2))

    def counts(self) -> tuple[Int[Tensor, " b"], Int[Tensor, " b"]]:
        """Return gradients and forward passes without one, of each picture of the batch."""
        return self._gradients, self._queries

    def logits(self, images: Float[Tensor, " k c h w"], rows: Int[Tensor, " k"]) -> Float[Tensor, " k classes"]:
        """Return the logits of pictures, one query of each row."""
        self._count(self._queries, rows)
        with torch.no_grad():
            parts = [self._forward(chunk) for chunk in images.split(self._chunk(len(images)))]
        return torch.cat(parts)

    def gradient(
        self, images: Float[Tensor, " k c h w"], rows: Int[Tensor, " k"], loss: Loss
    ) -> tuple[Float[Tensor, " k classes"], Float[Tensor, " k"], Float[Tensor, " k c h w"]]:
        """Return logits, loss of each row and the gradient of its loss with respect to its picture.

        An entry of the gradient that is not finite gives no direction and is 0: a step along it would make a picture
        of NaN, whose wrong answer would count as the model's.
        """
        self._count(self._gradients, rows)
        size = self._chunk(len(images))
        parts = [
            self._one(chunk, which, loss) for chunk, which in zip(images.split(size), rows.split(size), strict=True)
        ]
        logits, losses, gradients = zip(*parts, strict=True)
        return torch.cat(logits), torch.cat(losses), torch.cat(gradients)

    def _one(self, images: Tensor, rows: Tensor, loss: Loss) -> tuple[Tensor, Tensor, Tensor]:
        with torch.enable_grad():
            leaf = images.detach().clone().requires_grad_()
            logits = self._forward(leaf)
            losses = loss(logits, rows)
            (gradient,) = torch.autograd.grad(losses.sum(), leaf)
        return logits.detach(), losses.detach(), torch.where(gradient.isfinite(), gradient, 0.0)

    def _forward(self, images: Tensor) -> Tensor:
        missing = (self._size or 0) - len(images)
        if not self._padded or missing <= 0:
            return self._model(images).float()
        filler = images.new_zeros((missing, *images.shape[1:]))
        return self._model(torch.cat((images, filler)))[: len(images)].float()

    def _chunk(self, count: int) -> int:
        return self._size or max(count, 1)

    def _count(self, counter: Tensor, rows: Tensor) -> None:
        if self._places is not None:
            counter[self._places[rows.cpu()]] += 1
