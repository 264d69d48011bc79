"""Operations whose derivative is prepared once, where a network is recorded, for many products with it.

Autograd keeps what it needs to differentiate at a point and derives the slope anew in every product; batched over
vectors it does so vector by vector for gelu, silu and softmax, and second derivatives of convolutions compute
gradients of weights that nobody wants. Here each operation holds its Jacobian J at the recorded point as what is
cheapest to multiply with, and takes any number of vectors at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.overrides import TorchFunctionMode

SCORES_AT_ONCE = 1 << 26
"""Entries of attention scores that a product holds at a time: beyond, queries are taken in parts."""


class LinearOp(Protocol):
    """The Jacobian J of an operation at its inputs. Vectors have their operand's shape behind one more dimension n."""

    def push(self, *tangents: Tensor) -> Tensor:
        """Return J t, (n, *output), of tangents (n, *input), one for each input."""
        ...

    def pull(self, cotangents: Tensor) -> tuple[Tensor, ...]:
        """Return J^T u of cotangents (n, *output): (n, *input) for each input."""
        ...


class Linearised(TorchFunctionMode):
    """While it is entered, operations on tensors that require gradients are recorded as `LinearOp`.

    What it does not know is recorded by autograd; so are operations whose weights require gradients.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        make = OPS.get(func)
        recorded = make(*args, **(kwargs or {})) if make is not None and torch.is_grad_enabled() else None
        if recorded is None:
            return func(*args, **(kwargs or {}))
        op, value, inputs = recorded
        return _Apply.apply(op, value, *inputs)


Recorded = tuple[LinearOp, Tensor, tuple[Tensor, ...]] | None
"""An operation's Jacobian, its value and the inputs it depends on; None where autograd is to record it."""


class _Apply(Function):
    """The value, computed already; backwards J^T."""

    @staticmethod
    def forward(ctx: Any, op: LinearOp, value: Tensor, *inputs: Tensor) -> Tensor:
        ctx.op = op
        return value

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Any:  # type: ignore[override]
        return None, None, *_Pull.apply(ctx.op, cotangent)


class _Pull(Function):
    """u -> J^T u, a linear map, whose transposed is J."""

    @staticmethod
    def forward(op: LinearOp, cotangent: Tensor) -> tuple[Tensor, ...]:
        return tuple(out[0] for out in op.pull(cotangent[None]))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.op = inputs[0]

    @staticmethod
    def backward(ctx: Any, *tangents: Tensor) -> Any:
        return None, _Push.apply(ctx.op, *tangents)

    @staticmethod
    def vmap(info: Any, in_dims: Any, op: LinearOp, cotangents: Tensor) -> Any:
        pulled = op.pull(cotangents.movedim(in_dims[1], 0))
        return pulled, (0,) * len(pulled)


class _Push(Function):
    """t -> J t."""

    @staticmethod
    def forward(op: LinearOp, *tangents: Tensor) -> Tensor:
        return op.push(*(tangent[None] for tangent in tangents))[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def vmap(info: Any, in_dims: Any, op: LinearOp, *tangents: Tensor) -> Any:
        stacked = [
            tangent.expand(info.batch_size, *tangent.shape) if dim is None else tangent.movedim(dim, 0)
            for tangent, dim in zip(tangents, in_dims[1:], strict=True)
        ]
        return op.push(*stacked), 0


class _Slope:
    """An operation on each element: J is diagonal."""

    def __init__(self, slope: Tensor) -> None:
        self.slope = slope

    def push(self, *tangents: Tensor) -> Tensor:
        return tangents[0] * self.slope

    def pull(self, cotangents: Tensor) -> tuple[Tensor, ...]:
        return (cotangents * self.slope,)


class _Norm:
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


class _Softmax:
    """Softmax along the last dimension: J = diag(p) - p p^T, symmetric."""

    def __init__(self, shares: Tensor) -> None:
        self.shares = shares

    def push(self, *tangents: Tensor) -> Tensor:
        weighted = tangents[0] * self.shares
        return weighted.addcmul_(self.shares, weighted.sum(-1, keepdim=True), value=-1)

    def pull(self, cotangents: Tensor) -> tuple[Tensor, ...]:
        return (self.push(cotangents),)


class _Convolution:
    """A convolution in two dimensions, linear already; of its derivatives that of the input alone."""

    def __init__(self, x: Tensor, weight: Tensor, settings: tuple[Any, ...]) -> None:
        self.shape, self.weight, self.settings = x.shape, weight, settings

    def push(self, *tangents: Tensor) -> Tensor:
        return F.conv2d(tangents[0].flatten(0, 1), self.weight, None, *self.settings).unflatten(
            0, tangents[0].shape[:2]
        )

    def pull(self, cotangents: Tensor) -> tuple[Tensor, ...]:
        count = len(cotangents)
        shape = (count * self.shape[0], *self.shape[1:])
        pulled = torch.nn.grad.conv2d_input(shape, self.weight, cotangents.flatten(0, 1), *self.settings)
        return (pulled.unflatten(0, (count, self.shape[0])),)


class _Attention:
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


def _wanted(x: Any, *weights: Tensor | None) -> bool:
    """Say whether an operation is recorded here: its input varies, and none of its weights."""
    return isinstance(x, Tensor) and x.requires_grad and not any(w is not None and w.requires_grad for w in weights)


def _elementwise(function: Callable[..., Tensor]) -> Callable[..., Recorded]:
    def make(input: Tensor, *args: Any, **kwargs: Any) -> Recorded:
        if not _wanted(input) or kwargs.get("inplace") or True in args:
            return None
        leaf = input.detach().requires_grad_(True)
        with torch.enable_grad():
            value = function(leaf, *args, **kwargs)
            (slope,) = torch.autograd.grad(value, leaf, torch.ones_like(value))
        return _Slope(slope), value.detach(), (input,)

    return make


def _layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Recorded:
    if not _wanted(input, weight, bias):
        return None
    x, rows = input.detach(), tuple(input.shape[: -len(normalized_shape)])
    value = F.layer_norm(x, normalized_shape, weight, bias, eps)
    return _Norm(x, rows, weight, eps), value, (input,)


def _group_norm(
    input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Recorded:
    if not _wanted(input, weight, bias):
        return None
    x = input.detach()
    value = F.group_norm(x, num_groups, weight, bias, eps)
    by_channel = None if weight is None else weight.reshape(-1, *[1] * (x.ndim - 2))
    return _Norm(x, (len(x), num_groups), by_channel, eps), value, (input,)


def _softmax(
    input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: torch.dtype | None = None
) -> Recorded:
    if not _wanted(input) or dim not in (-1, input.ndim - 1) or dtype not in (None, input.dtype):
        return None
    shares = input.detach().softmax(-1)
    return _Softmax(shares), shares, (input,)


def _convolution(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Recorded:
    if not _wanted(input, weight, bias) or isinstance(padding, str) or input.ndim != 4:
        return None
    x, settings = input.detach(), (stride, padding, dilation, groups)
    return _Convolution(x, weight, settings), F.conv2d(x, weight, bias, *settings), (input,)


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Recorded:
    inputs = query, key, value
    varies = any(part.requires_grad for part in inputs)
    if not varies or attn_mask is not None or dropout_p or is_causal or enable_gqa:
        return None
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    op = _Attention(*(part.detach() for part in inputs), scale)
    return op, op.out, inputs


OPS: dict[Any, Callable[..., Recorded]] = {
    F.gelu: _elementwise(F.gelu),
    F.silu: _elementwise(F.silu),
    F.layer_norm: _layer_norm,
    F.group_norm: _group_norm,
    F.softmax: _softmax,
    torch.softmax: _softmax,
    Tensor.softmax: _softmax,
    F.conv2d: _convolution,
    F.scaled_dot_product_attention: _attention,
}
"""What is recorded here, and how."""
