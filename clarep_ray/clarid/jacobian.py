"""The Jacobian J = d f_l(x_t) / d x_t of a layer's output, never formed (Eq. 1)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from clarep_ray.clarid.linearised import Linearised


class FeatureJacobian:
    """Products with J and its transpose for a batch of samples, several vectors a call.

    One differentiable forward serves every product. The transposed map u -> J^T u is recorded once as a graph
    that is linear in u; differentiating it gives J v. Vectors are rows: shape (b, n, d) for b samples, n vectors,
    d = latent size. The samples must not influence each other inside `feature_fn`.
    """

    def __init__(self, feature_fn: Callable[[Tensor], Tensor], x_t: Float[Tensor, " b *latent"]) -> None:
        self._x = x_t.detach().requires_grad_(True)
        # Of attention that `Linearised` leaves to autograd only the plain kernel has a second derivative.
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            with Linearised():
                self._y = feature_fn(self._x)
            self._u = torch.zeros_like(self._y).requires_grad_(True)
            (self._transposed,) = torch.autograd.grad(self._y, self._x, self._u, create_graph=True)

    @property
    def batch(self) -> int:
        return self._x.shape[0]

    @property
    def dim(self) -> int:
        """Latent size d: the number of columns of J."""
        return self._x[0].numel()

    @property
    def dim_out(self) -> int:
        """Feature size: the number of rows of J."""
        return self._y[0].numel()

    def matvec(self, vectors: Float[Tensor, " b n d"]) -> Float[Tensor, " b n f"]:
        """Return J v for every row v."""
        tangents = self._fold(vectors, self._x)
        (out,) = torch.autograd.grad(self._transposed, self._u, tangents, retain_graph=True, is_grads_batched=True)
        return self._unfold(out)

    def rmatvec(self, vectors: Float[Tensor, " b n f"]) -> Float[Tensor, " b n d"]:
        """Return J^T u for every row u."""
        cotangents = self._fold(vectors, self._y)
        (out,) = torch.autograd.grad(self._y, self._x, cotangents, retain_graph=True, is_grads_batched=True)
        return self._unfold(out)

    def gram(self, vectors: Float[Tensor, " b n d"]) -> Float[Tensor, " b n d"]:
        """Return J^T J v for every row v: one product is one JVP and one VJP.

        The intermediate J v is scaled to unit length, so that half precision neither overflows nor underflows.
        """
        pushed = self.matvec(vectors)
        norms = torch.linalg.vector_norm(pushed, dim=-1, keepdim=True).clamp_min(torch.finfo(pushed.dtype).tiny)
        return self.rmatvec(pushed / norms) * norms

    def _fold(self, vectors: Tensor, like: Tensor) -> Tensor:
        count = vectors.shape[1]
        return vectors.to(like.dtype).transpose(0, 1).reshape(count, *like.shape)

    def _unfold(self, out: Tensor) -> Tensor:
        return out.detach().float().flatten(2).transpose(0, 1)
