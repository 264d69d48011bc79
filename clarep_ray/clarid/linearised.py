"""Operations recorded as their tangents, for many products with the derivative at one point.

For an operation f at x0, f(x0) + J (x - x0) has f's value and its derivative, and J (x - x0) can be written in sums
and products with constants. Of these autograd batches every derivative over vectors. Of gelu, silu and softmax it
does not: it goes vector by vector and derives the slope anew in every product. And the second derivative of a
convolution, which a product with J takes, computes a gradient of its weights that nobody wants.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.overrides import TorchFunctionMode

SCORES_AT_ONCE = 1 << 24
"""Entries of attention scores that a product holds at a time for each vector: beyond, queries are taken in parts."""


class Linearised(TorchFunctionMode):
    """While it is entered, operations on tensors that require gradients are recorded as their tangents.

    What it does not know is recorded by autograd; so are operations whose weights require gradients. Valid for first
    derivatives at the point of recording.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        tangent = TANGENTS.get(func)
        found = tangent(*args, **(kwargs or {})) if tangent is not None and torch.is_grad_enabled() else None
        return func(*args, **(kwargs or {})) if found is None else found


def _varies(x: Any, *weights: Tensor | None) -> bool:
    """Say whether an operation is recorded here: its input varies, and none of its weights."""
    return isinstance(x, Tensor) and x.requires_grad and not any(w is not None and w.requires_grad for w in weights)


def _gelu(input: Tensor, approximate: str = "none") -> Tensor | None:
    return _elementwise(input, lambda x: F.gelu(x, approximate=approximate))


def _silu(input: Tensor, inplace: bool = False) -> Tensor | None:
    return None if inplace else _elementwise(input, F.silu)


def _elementwise(input: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor | None:
    if not _varies(input):
        return None
    leaf = input.detach().requires_grad_(True)
    value = function(leaf)
    (slope,) = torch.autograd.grad(value, leaf, torch.ones_like(value))
    return torch.addcmul(value.detach(), slope, input - input.detach())


def _functional_softmax(
    input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: torch.dtype | None = None
) -> Tensor | None:
    return _softmax(input, dim, dtype)


def _softmax(input: Tensor, dim: int | None = None, dtype: torch.dtype | None = None) -> Tensor | None:
    """J = diag(p) - p p^T."""
    if not _varies(input) or dim is None or dtype not in (None, input.dtype):
        return None
    x = input.detach()
    shares = x.softmax(dim)
    weighted = shares * (input - x)
    return torch.addcmul(shares + weighted, shares, weighted.sum(dim, keepdim=True), value=-1)


def _group_norm(
    input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor | None:
    """J = diag(weight) (I - 1 1^T / m - h h^T / m) / std for a group of m elements, normalised h; in float32."""
    if not _varies(input, weight, bias):
        return None
    x, groups = input.detach(), (len(input), num_groups, -1)
    flat = x.reshape(groups).float()
    variance, mean = torch.var_mean(flat, dim=2, correction=0, keepdim=True)
    scale = (variance + eps).rsqrt()
    normalised = (flat - mean) * scale
    change = (input - x).reshape(groups).float() * scale
    along = (normalised * change).mean(2, keepdim=True)
    change = torch.addcmul(change - change.mean(2, keepdim=True), normalised, along, value=-1)
    change = change.reshape(x.shape).to(x.dtype)
    if weight is not None:
        change = change * weight.reshape(-1, *[1] * (x.ndim - 2))
    return F.group_norm(x, num_groups, weight, bias, eps) + change


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor | None:
    """Attention o = p v with p = softmax(scale q k^T), of q, k, v (..., length, channels), without a mask.

    With w = p * scale (q' k^T + q k'^T) entry by entry, o' = w v - rowsum(w) * o + p v'. A column of ones beside v
    sums the rows, so that one pass over the scores does all that is no matrix product.
    """
    varies = any(part.requires_grad for part in (query, key, value))
    if not varies or attn_mask is not None or dropout_p or is_causal or enable_gqa:
        return None
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    q, k, v = query.detach() * scale, key.detach(), value.detach()
    out = F.scaled_dot_product_attention(query.detach(), k, v, scale=scale)
    with_ones = torch.cat([v, torch.ones_like(v[..., :1])], -1)
    q_change = query * scale - q
    parts: list[Tensor] = []
    for part in _parts(q, k):
        shares = torch.softmax(q[..., part, :] @ k.mT, -1, dtype=torch.float32).to(q.dtype)
        scores = q_change[..., part, :] @ k.mT
        if key.requires_grad:
            scores = scores + q[..., part, :] @ (key - k).mT
        changed = (shares * scores) @ with_ones
        there = torch.addcmul(out[..., part, :] + changed[..., :-1], changed[..., -1:], out[..., part, :], value=-1)
        parts.append(there + shares @ (value - v) if value.requires_grad else there)
    return parts[0] if len(parts) == 1 else torch.cat(parts, -2)


def _parts(q: Tensor, k: Tensor) -> list[slice]:
    """Return the queries in as many parts as the number of their scores asks for."""
    length = q.shape[-2]
    step = -(-length // max(1, -(-(math.prod(q.shape[:-1]) * k.shape[-2]) // SCORES_AT_ONCE)))
    return [slice(start, start + step) for start in range(0, length, step)]


def _convolution(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] | str = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
) -> Tensor | None:
    if not _varies(input, weight, bias) or isinstance(padding, str) or input.ndim != 4:
        return None
    return _Convolution.apply(input, weight, bias, _pair(stride), _pair(padding), _pair(dilation), groups)


class _Convolution(Function):
    """A convolution whose backward is a transposed one, which has first derivatives alone to be differentiated by."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: tuple[int, int],
        padding: tuple[int, int],
        dilation: tuple[int, int],
        groups: int,
    ) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.settings, ctx.size = (stride, padding, dilation, groups), x.shape[-2:]
        return F.conv2d(x, weight, bias, stride, padding, dilation, groups)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Any:  # type: ignore[override]
        (weight,) = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.settings
        sides = zip(ctx.size, cotangent.shape[-2:], stride, padding, dilation, weight.shape[-2:], strict=True)
        # What the last stride has left of the input.
        rest = [n - ((m - 1) * s - 2 * p + d * (k - 1) + 1) for n, m, s, p, d, k in sides]
        pulled = F.conv_transpose2d(cotangent, weight, None, stride, padding, rest, groups, dilation)
        return pulled, *[None] * 6


def _pair(number: int | tuple[int, int]) -> tuple[int, int]:
    return (number, number) if isinstance(number, int) else number


TANGENTS: dict[Any, Callable[..., Tensor | None]] = {
    F.gelu: _gelu,
    F.silu: _silu,
    F.softmax: _functional_softmax,
    torch.softmax: _softmax,
    Tensor.softmax: _softmax,
    F.group_norm: _group_norm,
    F.scaled_dot_product_attention: _attention,
    F.conv2d: _convolution,
}
"""Operations that are recorded here; each returns None where autograd is to do it."""
