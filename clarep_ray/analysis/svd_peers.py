"""Other ways to leading singular triplets of the same matrix-free operator, to be measured beside ours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clarep_ray.clarid.subspace_iteration import subspace_iteration
from clarep_ray.clarid.svd import Gram, block_lanczos

TOLERANCE = 5e-3
"""Relative residual ||J^T J v - s^2 v|| / s^2 at which those that have a stopping rule by residual stop."""
OVERSAMPLING = 10
"""Vectors of randomised SVD beyond M (Halko et al. 2011)."""
LOBPCG_ITERATIONS = 60


@dataclass(frozen=True)
class Problem:
    """One sample's J^T J, and what is wanted of it."""

    gram: Gram
    dim: int
    num_directions: int
    seed: int
    least: float
    """s_M^2, for a solver whose stopping rule must be told the scale: a favour to it."""

    @property
    def generators(self) -> list[torch.Generator]:
        return [torch.Generator().manual_seed(self.seed)]

    def draw(self, count: int) -> Tensor:
        """Return orthonormal random rows (count, d)."""
        return _orthonormal(torch.randn(count, self.dim, generator=self.generators[0]))


@dataclass(frozen=True)
class Found:
    """Singular values (m,), descending, and right vectors (m, d)."""

    values: Tensor
    vectors: Tensor


Solver = Callable[[Problem], Found]


def ours(problem: Problem) -> Found:
    """Block Lanczos, as the extraction runs it."""
    found = block_lanczos(problem.gram, problem.dim, problem.num_directions, problem.generators, tolerance=TOLERANCE)
    return Found(found.singular_values[0], found.right_vectors[0])


def published(max_iterations: int) -> Solver:
    """Return the subspace iteration of Park et al. (2023) with its stopping rule."""

    def solve(problem: Problem) -> Found:
        wanted = problem.dim, problem.num_directions, problem.generators
        found = subspace_iteration(problem.gram, *wanted, max_iterations=max_iterations)
        return Found(found.singular_values[0], found.right_vectors[0])

    return solve


def randomised(num_powers: int) -> Solver:
    """Return randomised SVD (Halko et al. 2011) with so many power iterations, orthonormalised in between."""

    def solve(problem: Problem) -> Found:
        basis = problem.draw(min(problem.num_directions + OVERSAMPLING, problem.dim))
        for _ in range(num_powers):
            basis = _orthonormal(problem.gram(basis[None])[0])
        projected = (basis @ problem.gram(basis[None])[0].mT).double()
        squares, turn = torch.linalg.eigh((projected + projected.mT) / 2)
        return _descending(squares, turn.float().mT @ basis, problem.num_directions)

    return solve


def lobpcg(problem: Problem) -> Found:
    """SciPy's LOBPCG (Knyazev 2001) on M vectors, without a preconditioner; it stops by the residual's length."""
    import warnings

    start, tolerance = problem.draw(problem.num_directions).double().numpy().T, TOLERANCE * problem.least
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it ended without all of M within its tolerance, which the table says
        squares, columns = _scipy().lobpcg(
            _operator(problem), start, largest=True, tol=tolerance, maxiter=LOBPCG_ITERATIONS
        )
    return _descending(torch.from_numpy(squares), torch.from_numpy(columns).mT.float(), problem.num_directions)


def arpack(problem: Problem) -> Found:
    """SciPy's implicitly restarted Lanczos (ARPACK), one vector at a time."""
    start = problem.draw(1)[0].double().numpy()
    squares, columns = _scipy().eigsh(_operator(problem), problem.num_directions, v0=start, tol=TOLERANCE, which="LA")
    return _descending(torch.from_numpy(squares), torch.from_numpy(columns).mT.float(), problem.num_directions)


SOLVERS: dict[str, Solver] = {
    "block Lanczos (ours)": ours,
    "subspace iteration, as published": published(100),
    "subspace iteration, 10 iterations": published(10),
    "randomised SVD, 1 power iteration": randomised(1),
    "randomised SVD, 3 power iterations": randomised(3),
    "randomised SVD, 7 power iterations": randomised(7),
    "LOBPCG (SciPy)": lobpcg,
    "restarted Lanczos (ARPACK)": arpack,
}


def _scipy() -> Any:
    from scipy.sparse import linalg

    return linalg  # whose types are wrong


def _operator(problem: Problem) -> Any:
    """Return J^T J for SciPy, whose vectors are columns."""

    def columns(block: NDArray[np.float64]) -> NDArray[np.float64]:
        rows = torch.from_numpy(np.ascontiguousarray(block.T)).float()
        return problem.gram(rows[None])[0].double().numpy().T

    shape = (problem.dim, problem.dim)
    return _scipy().LinearOperator(
        shape, matvec=lambda v: columns(v.reshape(-1, 1))[:, 0], matmat=columns, dtype=np.float64
    )


def _descending(squares: Tensor, rows: Tensor, count: int) -> Found:
    order = squares.argsort(descending=True)[:count]
    return Found(squares[order].clamp_min(0).sqrt().float(), rows[order])


def _orthonormal(rows: Tensor) -> Tensor:
    return torch.linalg.qr(rows.mT)[0].mT
