"""Jacobians of single operations at one point, held as what is cheapest to multiply many vectors with."""

from __future__ import annotations

import math
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_input

SCORES_AT_ONCE = 1 << 26
"""Entries of attention scores that a product holds at a time: beyond, queries are taken in parts."""


@runtime_checkable
class LinearOp(Protocol):
    """The Jacobian J of an operation at its inputs. Vectors have their operand's shape behind one more dimension n."""

    def push(self, *tangents: Tensor) -> Tensor:
        """Return J t, (n, *output), of tangents (n, *input), one for each input."""
        ...

    def pull(self, cotangents: Tensor) -> tuple[Tensor, ...]:
        """Return J^T u of cotangents (n, *output): (n, *input) for each input."""
        ...


class Slope:
    """An operation on each element: J is diagonal."""

    def __init__(self, slope: Tensor) -> None:
        self.slope = slope

    def push(self, *tangents: Tensor) -> Tensor:
        return tangents[0] * self.slope

    def pull(self, cotangents: Tensor) -> tuple[Tensor, ...]:
        return (cotangents * self.slope,)


class Norm:
    """Layer or group norm: J = diag(weight) R, R = rstd (I - 1 1^T / m - h h^T / m) with h the normalised input.

    R acts on rows of m elements and is computed in float32, as torch's own norms are.
    """

    def __init__(self, x: Tensor, rows: tuple[int, ...], weight: Tensor | None, eps: float) -> None:
        self.rows, self.weight = rows, weight
        flat = x.reshape(*rows, -1).float()
        variance, mean = torch.var_mean(flat, dim=-1, correction=0, keepdim=True)
        self.rstd = (variance + eps).rsqrt()
        self.normalised = (flat - mean) * self.rstd

    def push(self, *tangents: Tensor) -> Tensor:
        pushed = self._times_r(tangents[0])
        return pushed if self.weight is None else pushed.mul_(self.weight)

    def pull(self, cotangents: Tensor) -> tuple[Tensor, ...]:
        return (self._times_r(cotangents if self.weight is None else cotangents * self.weight),)

    def _times_r(self, vectors: Tensor) -> Tensor:
        flat = vectors.reshape(len(vectors), *self.rows, -1).float()
        along = (flat * self.normalised).mean(-1, keepdim=True)
        out = (flat - flat.mean(-1, keepdim=True)).addcmul_(self.normalised, along, value=-1).mul_(self.rstd)
        return out.reshape(vectors.shape).to(vectors.dtype)


class Softmax:
    """Softmax along the last dimension: J = diag(p) - p p^T, symmetric."""

    def __init__(self, shares: Tensor) -> None:
        self.shares = shares

    def push(self, *tangents: Tensor) -> Tensor:
        weighted = tangents[0] * self.shares
        return weighted.addcmul_(self.shares, weighted.sum(-1, keepdim=True), value=-1)

    def pull(self, cotangents: Tensor) -> tuple[Tensor, ...]:
        return (self.push(cotangents),)


class Convolution:
    """A convolution in two dimensions, linear already; of its derivatives that of the input alone."""

    def __init__(self, x: Tensor, weight: Tensor, settings: tuple[Any, ...]) -> None:
        self.shape, self.weight, self.settings = x.shape, weight, settings

    def push(self, *tangents: Tensor) -> Tensor:
        (folded,) = (tangent.flatten(0, 1) for tangent in tangents)
        return F.conv2d(folded, self.weight, None, *self.settings).unflatten(0, (-1, self.shape[0]))

    def pull(self, cotangents: Tensor) -> tuple[Tensor, ...]:
        folded = cotangents.flatten(0, 1)
        pulled = conv2d_input((len(folded), *self.shape[1:]), self.weight, folded, *self.settings)
        return (pulled.unflatten(0, (-1, self.shape[0])),)


class Attention:
    """Attention o = p v, p = softmax(scale q k^T), of q, k, v (..., length, channels), without a mask.

    With w = p * (q' k^T + q k'^T) entry by entry, J is o' = w v - rowsum(w) * o + p v'. Vectors stand beside the
    queries, so that one matrix product serves all of them; p alone is kept of what grows with the square of the length.
    """

    def __init__(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> None:
        self.q, self.k, self.v = q * scale, k, v
        self.scale = scale
        self.shares = (self.q @ k.mT).softmax(-1)
        self.out = self.shares @ v

    def push(self, *tangents: Tensor) -> Tensor:
        q, k, v = (tangent.movedim(0, -3) for tangent in tangents)
        out = torch.empty(*q.shape[:-1], self.v.shape[-1], dtype=q.dtype, device=q.device)
        for part in self._parts(q):
            shares = self.shares[..., None, part, :]
            weighted = _rows_times(q[..., part, :] * self.scale, self.k.mT)
            weighted += self.q[..., None, part, :] @ k.mT
            weighted *= shares
            changed = _rows_times(weighted, self.v)
            changed.addcmul_(weighted.sum(-1, keepdim=True), self.out[..., None, part, :], value=-1)
            out[..., part, :] = changed.add_(shares @ v)
        return out.movedim(-3, 0)

    def pull(self, cotangents: Tensor) -> tuple[Tensor, ...]:
        u = cotangents.movedim(0, -3)
        q = torch.empty(*u.shape[:-1], self.q.shape[-1], dtype=u.dtype, device=u.device)
        k, v = (u.new_zeros(*u.shape[:-2], *like.shape[-2:]) for like in (self.k, self.v))
        for part in self._parts(u):
            shares, told = self.shares[..., None, part, :], u[..., part, :]
            weighted = _rows_times(told, self.v.mT)
            weighted -= (told * self.out[..., None, part, :]).sum(-1, keepdim=True)
            weighted *= shares
            q[..., part, :] = _rows_times(weighted, self.k).mul_(self.scale)
            k += weighted.mT @ self.q[..., None, part, :]
            v += shares.mT @ told
        return q.movedim(-3, 0), k.movedim(-3, 0), v.movedim(-3, 0)

    def _parts(self, vectors: Tensor) -> list[slice]:
        """Return the queries in as many parts as their scores for all vectors ask for."""
        length = self.q.shape[-2]
        scores = math.prod(vectors.shape[:-1]) * self.k.shape[-2]
        step = -(-length // max(1, -(-scores // SCORES_AT_ONCE)))
        return [slice(start, start + step) for start in range(0, length, step)]


def _rows_times(rows: Tensor, matrix: Tensor) -> Tensor:
    """Return rows (..., n, l, c) times a matrix (..., c, d) of each sample as one product: (..., n, l, d)."""
    return (rows.flatten(-3, -2) @ matrix).unflatten(-2, rows.shape[-3:-1])
