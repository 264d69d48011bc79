"""Our solver beside its peers, one sample at a time, on the shipped model and at the shapes of released ones."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from clarep_ray.analysis.sampling_benchmark import nearest
from clarep_ray.analysis.svd_peers import SOLVERS, Found, Problem, Solver
from clarep_ray.clarid.directions import explained_variance_ratio, find_elbow
from clarep_ray.clarid.jacobian import FeatureJacobian
from clarep_ray.clarid.sampling import guided_eps, invert
from clarep_ray.clarid.schedule import path_to
from clarep_ray.config import ElbowConfig, PeersBenchmarkConfig
from clarep_ray.data.spurious_digits import SpuriousDigits
from clarep_ray.measured import Cell, Spread, Table
from clarep_ray.models.adapter import Adapter
from clarep_ray.models.full_size import benchmarked, jacobian_layer
from clarep_ray.seeding import torch_generator

COLUMNS = {
    "solver": "",
    "M": "d",
    "products": ".0f",
    "rounds": ".0f",
    "wall s": ".2f",
    "x ours": ".1f",
    "worst s error": ".1e",
    "worst s error to k": ".1e",
    "worst residual to k": ".1e",
    "same k": "",
}
DENSE_UP_TO = 1024
"""Latent sizes up to which J is formed column by column for the truth; above, residuals say how far one may be off."""


@dataclass
class Cost:
    """What the samples cost one solver."""

    products: int = 0
    rounds: int = 0
    wall_s: list[float] = field(default_factory=list[float])
    """Of each sample."""


@dataclass(frozen=True)
class Sample:
    """One sample's Jacobian, and its largest singular values where they can be known."""

    jacobian: FeatureJacobian
    exact: Tensor | None


def run(config: PeersBenchmarkConfig) -> list[Table]:
    """Return for every solver and window, products, sequential rounds, time, errors or residuals, and k."""
    torch.set_num_threads(1)
    samples = _samples(config)
    lines: list[tuple[Cell, ...]] = []
    ours, *others = config.solvers
    for count in config.windows:
        cost, found = _measure(SOLVERS[ours], samples, count, [math.nan] * len(samples))
        # Where nothing is exact, k is compared with ours, and the scale that others are told is ours too.
        truths = [
            mine.values.double() if sample.exact is None else sample.exact[:count]
            for mine, sample in zip(found, samples, strict=True)
        ]
        least = [float(values[-1] ** 2) for values in truths]
        rows = {ours: (cost, found)} | {name: _measure(SOLVERS[name], samples, count, least) for name in others}
        lines += [_cells(name, count, *row, samples, truths, cost.wall_s) for name, row in rows.items()]
    first = samples[0]
    size = f"{config.model}{'' if config.depth is None else f', depth {config.depth}'}"
    truth = "no exact values at this size: k beside ours" if first.exact is None else "errors against the dense SVD"
    note = (
        f"{size}: latent size {first.jacobian.dim}, feature size {first.jacobian.dim_out}, {len(samples)} samples, one"
    )
    note += f" at a time, one thread; {truth}; x ours: wall time, sample by sample."
    return [Table(COLUMNS, lines, [note])]


def _measure(solve: Solver, samples: Sequence[Sample], count: int, least: Sequence[float]) -> tuple[Cost, list[Found]]:
    cost, found = Cost(), list[Found]()
    for number, (sample, scale) in enumerate(zip(samples, least, strict=True)):

        def counted(vectors: Tensor, sample: Sample = sample) -> Tensor:
            cost.products += vectors.shape[1]
            cost.rounds += 1
            # Calls of one size for all: very wide ones are slower per vector on a CPU.
            return torch.cat([sample.jacobian.gram(part) for part in vectors.split(4, dim=1)], 1)

        problem = Problem(counted, sample.jacobian.dim, count, number, scale)
        began = time.perf_counter()
        found.append(solve(problem))
        cost.wall_s.append(time.perf_counter() - began)
    return cost, found


def _cells(
    name: str,
    count: int,
    cost: Cost,
    found: Sequence[Found],
    samples: Sequence[Sample],
    truths: Sequence[Tensor],
    ours_s: Sequence[float],
) -> tuple[Cell, ...]:
    all_of_them, to_k, residuals, same = [0.0], [0.0], [0.0], 0
    for mine, sample, truth in zip(found, samples, truths, strict=True):
        k = _elbow(truth)
        errors = (mine.values.double() / truth - 1).abs()
        image = sample.jacobian.gram(mine.vectors[None, :k])[0]
        squares = mine.values[:k].square()
        residual = (image - squares[:, None] * mine.vectors[:k]).norm(dim=1) / squares.clamp_min(1e-30)
        all_of_them.append(float(errors.max()))
        to_k.append(float(errors[:k].max()))
        residuals.append(float(residual.max()))
        same += _elbow(mine.values) == k
    number = len(samples)
    ratio = Spread.of([mine / ours for mine, ours in zip(cost.wall_s, ours_s, strict=True)])
    exact = samples[0].exact is not None
    return (
        *(name, count, cost.products / number, cost.rounds / number, sum(cost.wall_s) / number, ratio),
        *((max(all_of_them), max(to_k)) if exact else (None, None)),
        *(max(residuals), f"{same}/{number}"),
    )


def _samples(config: PeersBenchmarkConfig) -> list[Sample]:
    model = benchmarked(config.model, config.depth)
    clean, labels = _latents(model, config)
    grid = model.schedule.times(config.num_steps)
    times = path_to(grid, nearest(grid, config.project_t))
    layer = jacobian_layer(model)
    found: list[Sample] = []
    for number in range(config.num_samples):
        cond = model.cond(labels[number : number + 1])
        x_t = invert(guided_eps(model, cond, None, 1.0), clean[number : number + 1], model, times)
        t = times[-1].item()
        jacobian = FeatureJacobian(lambda x, cond=cond, t=t: model.features(x, t, cond, layer), x_t)
        found.append(Sample(jacobian, _truth(jacobian, max(config.windows))))
    return found


def _latents(model: Adapter, config: PeersBenchmarkConfig) -> tuple[Tensor, Tensor]:
    """Return clean latents and labels: digits for the model that knows them, noise for random weights."""
    if config.model == "digits":
        pictures = SpuriousDigits(split="conflict", count=config.num_samples, seed=config.seed)
        rows = [pictures[i] for i in range(config.num_samples)]
        pixels = torch.from_numpy(np.stack([row.image for row in rows])).permute(0, 3, 1, 2).float() / 127.5 - 1
        return model.encode(pixels), torch.tensor([row.label for row in rows])
    draws = [torch_generator(config.seed, str(i), "peers_benchmark") for i in range(config.num_samples)]
    latents = torch.stack([torch.randn(*model.latent_shape, generator=draw) for draw in draws])
    return latents, torch.arange(config.num_samples)


def _truth(jacobian: FeatureJacobian, count: int) -> Tensor | None:
    """Return the leading singular values in float64, of a J that is formed column by column; None for a large one."""
    if jacobian.dim > DENSE_UP_TO:
        return None
    columns = [jacobian.matvec(part[None]) for part in torch.eye(jacobian.dim).split(64)]
    transposed = torch.cat(columns, 1)[0].double()
    return torch.linalg.svdvals(transposed)[:count]


def _elbow(values: Tensor) -> int:
    return find_elbow(explained_variance_ratio(values[None])[0], ElbowConfig()).num_removed
