"""Our solver against the published subspace iteration, on the shipped model, with the dense SVD as the truth."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from clarep_ray import models
from clarep_ray.clarid.directions import explained_variance_ratio, find_elbow, leading, project_out
from clarep_ray.clarid.jacobian import FeatureJacobian
from clarep_ray.clarid.sampling import guided_eps, invert
from clarep_ray.clarid.schedule import path_to
from clarep_ray.clarid.subspace_iteration import subspace_iteration
from clarep_ray.clarid.svd import SingularTriplets, block_lanczos
from clarep_ray.config import ElbowConfig, ModelConfig, Precision, SvdBenchmarkConfig
from clarep_ray.data.spurious_digits import SpuriousDigits
from clarep_ray.measured import Cell, Spread, Table

LADDER = (10, 15, 20, 30, 40, 60, 80, 100, 150, 200, 300, 400, 600)
"""Iterations of the published method that are tried for an accuracy target."""
PUBLISHED_TOLERANCE = 1e-3
VECTORS_PER_CALL = 4


@dataclass(frozen=True)
class SolverRow:
    """One solver's mean cost and worst error over the samples."""

    solver: str
    num_directions: int
    products: float
    calls: int
    cpu_s: tuple[float, ...]
    """Of each turn."""
    worst_value_error: float
    worst_value_error_top: float
    same_k: str

    def cells(self) -> tuple[Cell, ...]:
        return (
            self.solver,
            self.num_directions,
            self.products,
            self.calls,
            Spread.of(self.cpu_s),
            self.worst_value_error,
            self.worst_value_error_top,
            self.same_k,
        )


COLUMNS = {
    "solver": "",
    "M": "d",
    "products": ".0f",
    "network calls": "d",
    "CPU s": ".2f",
    "worst s error": ".1e",
    "worst s error to k": ".1e",
    "same k": "",
}
RATIOS = {
    "M": "d",
    "times fewer products": ".1f",
    "times less CPU time": ".1f",
    "products for equal worst error": "",
    "times ours": ".1f",
}
PRECISIONS = {
    "network": "",
    "M": "d",
    "products": ".0f",
    "met": ".0%",
    "worst s error": ".1e",
    "worst change of the CLARep": ".1e",
    "same k": "",
}


def run(config: SvdBenchmarkConfig) -> list[Table]:
    """Return products, network calls and CPU seconds per sample, errors; ratios to ours; and lower precisions."""
    torch.set_num_threads(1)
    jacobian, _ = _jacobian(config)
    gram = _dense_gram(jacobian)
    squares, _ = torch.linalg.eigh(gram.double())
    exact = squares.flip(1).clamp_min(0).sqrt()
    rows: list[tuple[Cell, ...]] = []
    ratios: list[tuple[Cell, ...]] = []
    for count in config.windows:
        ours = _measure("block Lanczos", jacobian, exact, count, _ours(count), config.num_repeats)
        published = _measure("subspace iteration, published", jacobian, exact, count, _published(count))
        rows += [row.cells() for row in (ours, published)]
        seconds = Spread.of([published.cpu_s[0] / mine for mine in ours.cpu_s])
        needed = _equal_accuracy(gram, exact, count, ours)
        times = None if isinstance(needed, str) else needed / ours.products
        ratios.append((count, published.products / ours.products, seconds, needed, times))
    note = "Published beside ours; its products until its worst error is ours; the spread is of our turns."
    tables = [Table(COLUMNS, rows, name="solvers"), Table(RATIOS, ratios, [note], "ratios")]
    return [*tables, Table(PRECISIONS, _precision_rows(config, exact), name="precisions")]


def _precision_rows(config: SvdBenchmarkConfig, exact: Tensor) -> list[tuple[Cell, ...]]:
    """Return rows of what a half-precision network does to values, projection and k; the basis stays float32."""
    count = max(config.windows)
    rows, truth = list[tuple[Cell, ...]](), Tensor()
    for precision in ("float32", "bfloat16", "float16"):
        jacobian, x_t = _jacobian(config, precision)
        found = _ours(count)(jacobian.gram, jacobian.dim, jacobian.batch)
        ks = _ks(found.singular_values)
        projected = project_out(x_t, leading(found.right_vectors, torch.tensor(ks)))
        truth = projected if precision == "float32" else truth
        change = (projected - truth).flatten(1).norm(dim=1) / x_t.flatten(1).norm(dim=1)
        same = sum(a == b for a, b in zip(_ks(exact[:, :count]), ks, strict=True))
        spent, met = found.num_products.double().mean().item(), found.converged.double().mean().item()
        worst = float(_errors(found, exact, count).max())
        rows.append((precision, count, spent, met, worst, float(change.max()), f"{same}/{len(ks)}"))
    return rows


def _jacobian(config: SvdBenchmarkConfig, precision: Precision = "float32") -> tuple[FeatureJacobian, Tensor]:
    """Return the Jacobian of the network in a precision, and the latents, inverted in float32."""
    model = models.build(ModelConfig(weights=config.weights))
    pictures = SpuriousDigits(split="conflict", count=config.num_samples, seed=config.seed)
    rows = [pictures[i] for i in range(config.num_samples)]
    pixels = torch.from_numpy(np.stack([row.image for row in rows])).permute(0, 3, 1, 2).float() / 127.5 - 1
    cond = model.cond(torch.tensor([row.label for row in rows]))
    times = path_to(model.schedule.times(50), config.project_t)
    x_t = invert(guided_eps(model, cond, None, 1.0), pixels, model, times)
    model.set_precision(getattr(torch, precision))
    layer = model.feature_layers[-1]
    return FeatureJacobian(lambda x: model.features(x, config.project_t, cond, layer), x_t), x_t


def _dense_gram(jacobian: FeatureJacobian) -> Tensor:
    """Return J^T J from the explicit Jacobian, shape (b, d, d)."""
    rows = torch.eye(jacobian.dim).split(64)
    transposed = torch.cat([jacobian.matvec(part.expand(jacobian.batch, -1, -1)) for part in rows], 1)
    return transposed @ transposed.mT


def _generators(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(i) for i in range(count)]


Solve = Callable[[Callable[[Tensor], Tensor], int, int], SingularTriplets]


def _ours(count: int) -> Solve:
    return lambda gram, dim, batch: block_lanczos(gram, dim, count, _generators(batch))


def _published(count: int, max_iterations: int = 100, tolerance: float = PUBLISHED_TOLERANCE) -> Solve:
    return lambda gram, dim, batch: subspace_iteration(
        gram, dim, count, _generators(batch), tolerance=tolerance, max_iterations=max_iterations
    )


def _measure(
    name: str, jacobian: FeatureJacobian, exact: Tensor, count: int, solve: Solve, repeats: int = 1
) -> SolverRow:
    rounds = 0

    def counted(vectors: Tensor) -> Tensor:
        nonlocal rounds
        # Calls of one size for both: very wide ones are slower per vector, which would flatter us.
        parts = vectors.split(VECTORS_PER_CALL, dim=1)
        rounds += 2 * len(parts)
        return torch.cat([jacobian.gram(part) for part in parts], 1)

    turns: list[tuple[float, SingularTriplets]] = []
    for _ in range(repeats):
        rounds, began = 0, time.process_time()
        solved = solve(counted, jacobian.dim, jacobian.batch)
        turns.append((time.process_time() - began, solved))
    found = turns[0][1]
    errors = _errors(found, exact, count)
    truth, mine = _ks(exact[:, :count]), _ks(found.singular_values)
    top = max(float(errors[i, :k].max()) for i, k in enumerate(truth))
    return SolverRow(
        solver=name,
        num_directions=count,
        products=float(found.num_products.double().mean()),
        calls=rounds,
        cpu_s=tuple(taken / jacobian.batch for taken, _ in turns),
        worst_value_error=float(errors.max()),
        worst_value_error_top=top,
        same_k=f"{sum(a == b for a, b in zip(truth, mine, strict=True))}/{len(truth)}",
    )


def _equal_accuracy(gram: Tensor, exact: Tensor, count: int, ours: SolverRow) -> int | str:
    """Return how many products the published iteration needs for our worst error, on the explicit J^T J."""
    for iterations in LADDER:
        found = _published(count, iterations, tolerance=0.0)(lambda v: v @ gram, gram.shape[1], len(gram))
        if float(_errors(found, exact, count).max()) <= ours.worst_value_error:
            return iterations * count
    return f"more than {LADDER[-1] * count}"


def _errors(found: SingularTriplets, exact: Tensor, count: int) -> Tensor:
    return (found.singular_values.double() / exact[:, :count] - 1).abs()


def _ks(values: Tensor) -> list[int]:
    return [find_elbow(row, ElbowConfig()).num_removed for row in explained_variance_ratio(values)]
