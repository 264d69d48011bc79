"""Leading singular triplets of a batch of matrix-free operators, with a certificate for each triplet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Gram = Callable[[Tensor], Tensor]
"""V -> J^T J V for rows V of shape (b, n, d), sample by sample."""

GROWTH = 64
"""Basis vectors by which storage grows at a time."""

RESOLVED = 0.1
"""A Ritz value whose relative residual exceeds this says where the unresolved spectrum may begin."""


@dataclass(frozen=True)
class SingularTriplets:
    """Leading singular values and right vectors of each sample, descending, with their certificate.

    * `residuals` is ||J^T J v - s^2 v|| / s^2 of each triplet. An exact squared singular value lies within that
      relative distance of s^2; the actual error is of second order in it.
    * `value_errors` estimates (s_exact^2 - s^2) / s_1^2 from the residual and the gap to the unresolved spectrum.
      It is an estimate, not a bound: no residual can prove that no larger singular value was missed.
    * `num_products` counts the vectors multiplied by J^T J until the sample met the stopping rule.
    * `finite` is false where the operator returned NaN or Inf; such a sample's other fields are zero.
    """

    singular_values: Float[Tensor, " b m"]
    right_vectors: Float[Tensor, " b m d"]
    residuals: Float[Tensor, " b m"]
    value_errors: Float[Tensor, " b m"]
    num_products: Int[Tensor, " b"]
    converged: Bool[Tensor, " b"]
    finite: Bool[Tensor, " b"]

    def first(self, count: int) -> SingularTriplets:
        """Return the leading `count` triplets of each sample, with what was spent on all of them."""
        return replace(
            self,
            singular_values=self.singular_values[:, :count],
            right_vectors=self.right_vectors[:, :count],
            residuals=self.residuals[:, :count],
            value_errors=self.value_errors[:, :count],
        )


def canonical_signs(vectors: Float[Tensor, " b m d"]) -> Float[Tensor, " b m d"]:
    """Flip each row so that its component of largest magnitude (the first on ties) is positive."""
    peak = vectors.gather(-1, vectors.abs().argmax(dim=-1, keepdim=True))
    return torch.where(peak < 0, -vectors, vectors)


def block_lanczos(
    gram: Gram,
    dim: int,
    num_directions: int,
    generators: Sequence[torch.Generator],
    *,
    block_size: int = 4,
    tolerance: float = 5e-3,
    max_products: int = 600,
    device: torch.device | str = "cpu",
) -> SingularTriplets:
    """Return the `num_directions` leading triplets of each sample by block Lanczos on J^T J.

    Full reorthogonalisation (two Gram-Schmidt passes) in float32; the projected problem is solved in float64.
    J's left vectors are never stored. A sample stops when every wanted triplet has a relative residual of at
    most `tolerance`, judged from its own numbers alone, so its result does not depend on its neighbours.

    `generators` holds one generator per sample for the random start. Raises ValueError where more directions
    are wanted than the operator has columns.
    """
    if not 1 <= num_directions <= dim:
        raise ValueError(f"num_directions: {num_directions} is outside 1..{dim} (the latent size)")
    space = _KrylovSpace(gram, dim, generators, min(block_size, dim), device)
    results = [_Ritz.empty(num_directions, dim, device) for _ in generators]
    waiting = set(range(len(generators)))
    next_check = [num_directions + space.block_size] * len(generators)
    # Whole blocks up to the limit: the certificate needs the coupling to all of the next one.
    limit = min(-(-max(max_products, num_directions) // space.block_size) * space.block_size, dim)
    while waiting:
        space.expand(limit)
        exhausted = space.size >= limit
        for sample in sorted(waiting):
            if space.size < next_check[sample] and not exhausted:
                continue
            if not bool(space.finite[sample]):
                waiting.discard(sample)
                continue
            ritz = space.ritz(sample, num_directions)
            if exhausted or ritz.worst <= tolerance:
                results[sample] = ritz
                waiting.discard(sample)
            else:
                next_check[sample] = space.size + _blocks_to_go(ritz.worst, tolerance) * space.block_size
    return _stack(results, space.finite, tolerance)


def _blocks_to_go(worst: float, tolerance: float) -> int:
    """Guess how many blocks pass before the next look is worth an eigendecomposition."""
    decades = torch.tensor(worst / tolerance).log10().item()
    return max(1, min(6, int(2 * decades)))


@dataclass(frozen=True)
class _Ritz:
    """One sample's approximation from its Krylov space."""

    values: Float[Tensor, " m"]
    vectors: Float[Tensor, " m d"]
    residuals: Float[Tensor, " m"]
    value_errors: Float[Tensor, " m"]
    num_products: int

    @property
    def worst(self) -> float:
        return float(self.residuals.max())

    @staticmethod
    def empty(num_directions: int, dim: int, device: torch.device | str) -> _Ritz:
        zeros = torch.zeros(num_directions, device=device)
        return _Ritz(zeros, torch.zeros(num_directions, dim, device=device), zeros, zeros, 0)


class _KrylovSpace:
    """The growing orthonormal basis Q of every sample, T = Q A Q^T and the coupling to what lies outside."""

    def __init__(
        self, gram: Gram, dim: int, generators: Sequence[torch.Generator], block_size: int, device: torch.device | str
    ) -> None:
        self.gram, self.dim, self.generators, self.block_size = gram, dim, generators, block_size
        batch = len(generators)
        self.size = 0
        self._buffer = torch.zeros(batch, 0, dim, device=device)
        self.projected = torch.zeros(batch, 0, 0, dtype=torch.float64, device=device)
        self.coupling = torch.zeros(batch, 0, 0, dtype=torch.float64, device=device)
        self.finite = torch.ones(batch, dtype=torch.bool, device=device)
        self._next = self._orthonormal(self._gaussian(block_size))[0]

    @property
    def basis(self) -> Tensor:
        """Orthonormal rows of every sample, shape (b, size, d)."""
        return self._buffer[:, : self.size]

    def expand(self, limit: int) -> None:
        """Multiply the pending block by A, add it to the basis and form the next one."""
        block = self._next[:, : limit - self.size]
        image = self.gram(block)
        self.finite &= image.isfinite().flatten(1).all(1)
        image = torch.where(self.finite[:, None, None], image, 0.0)
        self._append(block)
        self._grow_projected(image, block.shape[1])
        if self.size < self.dim:
            self._next, self.coupling = self._orthonormal(image)
        else:
            self.coupling = torch.zeros_like(self.coupling)

    def ritz(self, sample: int, count: int) -> _Ritz:
        """Return the `count` largest Ritz pairs of one sample, their residuals and value errors."""
        values, weights = torch.linalg.eigh(self.projected[sample])
        values, weights = values.flip(0).clamp_min(0.0), weights.flip(1)
        # Only the images of the newest block reach outside the space, by `coupling` times the pending block.
        tail = weights[self.size - self.coupling.shape[1] :]
        leak = torch.linalg.vector_norm(self.coupling[sample].mT @ tail, dim=0)
        scale = values.clamp_min(torch.finfo(torch.float32).eps * values[0]).clamp_min(torch.finfo(torch.float64).tiny)
        relative = leak / scale
        errors = _value_errors(values, leak, relative)[:count]
        vectors = canonical_signs((weights[:, :count].mT.float() @ self.basis[sample])[None])[0]
        return _Ritz(values[:count].sqrt().float(), vectors, relative[:count].float(), errors.float(), self.size)

    def _append(self, block: Tensor) -> None:
        width = block.shape[1]
        if self.size + width > self._buffer.shape[1]:
            more = torch.zeros(len(block), max(GROWTH, width), self.dim, device=block.device)
            self._buffer = torch.cat([self._buffer, more], 1)
        self._buffer[:, self.size : self.size + width] = block
        self.size += width

    def _grow_projected(self, image: Tensor, width: int) -> None:
        fresh = torch.matmul(self.basis, image.mT).double()
        old = self.size - width
        top = torch.cat([self.projected, fresh[:, :old]], 2)
        corner = 0.5 * (fresh[:, old:] + fresh[:, old:].mT)
        self.projected = torch.cat([top, torch.cat([fresh[:, :old].mT, corner], 2)], 1)

    def _orthonormal(self, block: Tensor) -> tuple[Tensor, Tensor]:
        """Return orthonormal rows spanning `block` outside the basis, and the coefficients of `block` in them.

        A direction that the basis already holds (to float32 rounding) is replaced by a fresh random one: the
        space then grows past an invariant subspace instead of collecting rounding noise.
        """
        size = torch.linalg.vector_norm(block, dim=2, keepdim=True)
        outside = self._project_out(self._project_out(block))
        thin = torch.linalg.vector_norm(outside, dim=2, keepdim=True) <= 1e-6 * size
        if bool(thin.any()):
            fresh = self._project_out(self._project_out(self._gaussian(block.shape[1])))
            mixed = torch.where(thin, fresh, outside)
        else:
            mixed = outside
        rows = torch.linalg.qr(mixed.mT)[0].mT
        rows = torch.linalg.qr(self._project_out(rows).mT)[0].mT
        return rows, torch.matmul(torch.where(thin, 0.0, outside), rows.mT).double()

    def _project_out(self, block: Tensor) -> Tensor:
        return block - torch.matmul(torch.matmul(block, self.basis.mT), self.basis)

    def _gaussian(self, count: int) -> Tensor:
        draws = [torch.randn(count, self.dim, generator=generator) for generator in self.generators]
        return torch.stack(draws).to(self.basis.device)


def _value_errors(values: Tensor, leak: Tensor, relative: Tensor) -> Tensor:
    """Return the estimated error of each squared singular value, as a share of the largest one.

    The error of a Ritz value is leak^2 / gap to second order, where the gap reaches down to the first value that
    is not resolved yet; it never exceeds the leak itself.
    """
    unresolved = values[relative > RESOLVED]
    ceiling = unresolved.max() if len(unresolved) else values.new_zeros(())
    gap = (values - ceiling).clamp_min(0.0)
    second_order = torch.where(gap > 0, leak.square() / gap.clamp_min(1e-300), leak)
    return torch.minimum(second_order, leak) / values[0].clamp_min(1e-300)


def _stack(results: list[_Ritz], finite: Tensor, tolerance: float) -> SingularTriplets:
    residuals = torch.stack([r.residuals for r in results])
    return SingularTriplets(
        singular_values=torch.stack([r.values for r in results]),
        right_vectors=torch.stack([r.vectors for r in results]),
        residuals=residuals,
        value_errors=torch.stack([r.value_errors for r in results]),
        num_products=torch.tensor([r.num_products for r in results]),
        converged=(residuals <= tolerance).all(1) & finite,
        finite=finite,
    )
