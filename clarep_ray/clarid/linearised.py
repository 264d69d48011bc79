"""Operations whose derivative is prepared once, where a network is recorded, for many products with it.

Autograd keeps what it needs to differentiate at a point and derives the slope anew in every product; batched over
vectors it does so vector by vector for gelu, silu and softmax, and second derivatives of convolutions compute
gradients of weights that nobody wants. Here each operation holds its Jacobian J at the recorded point as what is
cheapest to multiply with, and takes any number of vectors at once.
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

from clarep_ray.clarid.linear_ops import Attention, Convolution, LinearOp, Norm, Slope, Softmax


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
        return _Apply.apply(op, (value,), *inputs)


Recorded = tuple[LinearOp, Tensor, tuple[Tensor, ...]] | None
"""An operation's Jacobian, its value and the inputs it depends on; None where autograd is to record it."""


class _Apply(Function):
    """The value, computed already; backwards J^T."""

    @staticmethod
    def forward(ctx: Any, op: LinearOp, value: tuple[Tensor], *inputs: Tensor) -> Tensor:
        ctx.op = op
        return value[0]  # were it an argument of its own, autograd would take the result for a view of it

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
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        op, cotangents = args
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
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        op, *tangents = args
        stacked = [
            tangent.expand(info.batch_size, *tangent.shape) if dim is None else tangent.movedim(dim, 0)
            for tangent, dim in zip(tangents, in_dims[1:], strict=True)
        ]
        return op.push(*stacked), 0


def _wanted(x: Any, *weights: Tensor | None) -> bool:
    """Say whether an operation is recorded here: its input varies, and none of its weights."""
    return isinstance(x, Tensor) and x.requires_grad and not any(w is not None and w.requires_grad for w in weights)


def _gelu(input: Tensor, approximate: str = "none") -> Recorded:
    return _elementwise(input, lambda x: F.gelu(x, approximate=approximate))


def _silu(input: Tensor, inplace: bool = False) -> Recorded:
    return None if inplace else _elementwise(input, F.silu)


def _elementwise(input: Tensor, function: Callable[[Tensor], Tensor]) -> Recorded:
    if not _wanted(input):
        return None
    leaf = input.detach().requires_grad_(True)
    value = function(leaf)
    (slope,) = torch.autograd.grad(value, leaf, torch.ones_like(value))
    return Slope(slope), value.detach(), (input,)


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
    return Norm(x, rows, weight, eps), value, (input,)


def _group_norm(
    input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Recorded:
    if not _wanted(input, weight, bias):
        return None
    x = input.detach()
    value = F.group_norm(x, num_groups, weight, bias, eps)
    by_channel = None if weight is None else weight.reshape(-1, *[1] * (x.ndim - 2))
    return Norm(x, (len(x), num_groups), by_channel, eps), value, (input,)


def _softmax(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: torch.dtype | None = None) -> Recorded:
    if not _wanted(input) or dim not in (-1, input.ndim - 1) or dtype not in (None, input.dtype):
        return None
    shares = input.detach().softmax(-1)
    return Softmax(shares), shares.clone(), (input,)  # a network may go on in the value's place


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
    return Convolution(x, weight, settings), F.conv2d(x, weight, bias, *settings), (input,)


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
    op = Attention(query.detach(), key.detach(), value.detach(), scale)
    return op, op.out.clone(), inputs


OPS: dict[Any, Callable[..., Recorded]] = {
    F.gelu: _gelu,
    F.silu: _silu,
    F.layer_norm: _layer_norm,
    F.group_norm: _group_norm,
    F.softmax: _softmax,
    torch.softmax: _softmax,
    Tensor.softmax: _softmax,
    F.conv2d: _convolution,
    F.scaled_dot_product_attention: _attention,
}
"""What is recorded here, and how."""
