"""The subspace iteration of Park et al. (2023) as published: the reference our solver is measured against."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from clarep_ray.clarid.svd import Gram, SingularTriplets, canonical_signs


def subspace_iteration(
    gram: Gram,
    dim: int,
    num_directions: int,
    generators: Sequence[torch.Generator],
    *,
    tolerance: float = 1e-3,
    min_iterations: int = 12,
    max_iterations: int = 100,
    device: torch.device | str = "cpu",
) -> SingularTriplets:
    """Return the leading triplets by orthogonal iteration on J^T J.

    Each iteration multiplies all vectors by J^T J and orthonormalises by a thin SVD, whose singular values
    estimate s^2. A sample stops when no entry of V moved by more than `tolerance` (signs are not aligned, as
    published), after at least `min_iterations` and at most `max_iterations` iterations. `residuals` are those of
    the last iteration's input vectors; `value_errors` repeats them, for this method estimates nothing else.
    """
    draws = torch.stack([torch.randn(dim, num_directions, generator=g) for g in generators]).to(device)
    vectors = torch.linalg.qr(draws)[0].mT
    batch = len(generators)
    values = torch.zeros(batch, num_directions, device=device)
    residuals = torch.ones_like(values)
    products = torch.zeros(batch, dtype=torch.long)
    active = torch.ones(batch, dtype=torch.bool, device=device)
    finite = torch.ones_like(active)
    for iteration in range(1, max_iterations + 1):
        image = gram(vectors)
        finite &= image.isfinite().flatten(1).all(1)
        image = torch.where(finite[:, None, None], image, vectors)
        quotients = (image * vectors).sum(-1, keepdim=True)
        misfit = torch.linalg.vector_norm(image - quotients * vectors, dim=-1) / quotients[..., 0].clamp_min(1e-30)
        _, squared, turned = torch.linalg.svd(image, full_matrices=False)
        moved = (turned - vectors).abs().flatten(1).amax(1)
        keep = active[:, None, None]
        vectors = torch.where(keep, turned, vectors)
        values = torch.where(keep[..., 0], squared.sqrt(), values)
        residuals = torch.where(keep[..., 0], misfit, residuals)
        products = torch.where(active.cpu(), iteration * num_directions, products)
        if iteration >= min_iterations:
            active &= moved > tolerance
        if not bool(active.any()):
            break
    return SingularTriplets(
        singular_values=torch.where(finite[:, None], values, 0.0),
        right_vectors=torch.where(finite[:, None, None], canonical_signs(vectors), 0.0),
        residuals=residuals,
        value_errors=residuals,
        num_products=products,
        converged=~active & finite,
        finite=finite,
    )
