"""Our solver beside its peers, one sample at a time, on the shipped model and at the shapes of released ones."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from clarep_ray import models
from clarep_ray.analysis.svd_peers import SOLVERS, Found, Problem, Solver
from clarep_ray.clarid.directions import explained_variance_ratio, find_elbow
from clarep_ray.clarid.jacobian import FeatureJacobian
from clarep_ray.clarid.sampling import guided_eps, invert
from clarep_ray.clarid.schedule import path_to
from clarep_ray.clarid.svd import block_lanczos
from clarep_ray.config import ElbowConfig, ModelConfig, PeersBenchmarkConfig
from clarep_ray.data.spurious_digits import SpuriousDigits
from clarep_ray.measured import Cell, Spread, Table
from clarep_ray.models.adapter import Adapter
from clarep_ray.models.full_size import FULL_SIZE
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
"""Latent sizes up to which J is formed column by column for the truth."""
TRUTH_TOLERANCE, TRUTH_PRODUCTS = 2e-5, 1500
"""Of block Lanczos where it is the truth: errors of values are of the square of the residual."""


@dataclass
class Cost:
    """What the samples cost one solver."""

    products: int = 0
    rounds: int = 0
    wall_s: list[float] = field(default_factory=list[float])
    """Of each sample."""


@dataclass(frozen=True)
class Sample:
    """One sample's Jacobian, the true singular values, and the elbow that they have."""

    jacobian: FeatureJacobian
    exact: Tensor

    def num_removed(self, count: int) -> int:
        return _elbow(self.exact[:count])


def run(config: PeersBenchmarkConfig) -> list[Table]:
    """Return for every solver and window, products, sequential rounds, time, errors, and k."""
    torch.set_num_threads(1)
    samples = _samples(config)
    lines: list[tuple[Cell, ...]] = []
    for count in config.windows:
        rows = {name: _measure(SOLVERS[name], samples, count) for name in config.solvers}
        ours = next(iter(rows.values()))[0].wall_s
        lines += [_cells(name, count, cost, found, samples, ours) for name, (cost, found) in rows.items()]
    first = samples[0].jacobian
    size = f"{config.model}{'' if config.depth is None else f', depth {config.depth}'}"
    truth = "the dense SVD" if first.dim <= DENSE_UP_TO else f"block Lanczos to residuals of {TRUTH_TOLERANCE:g}"
    note = f"{size}: latent size {first.dim}, feature size {first.dim_out}, {len(samples)} samples, one at a time"
    note += f", one thread; errors against {truth}; x ours: wall time, sample by sample."
    return [Table(COLUMNS, lines, [note])]


def _measure(solve: Solver, samples: Sequence[Sample], count: int) -> tuple[Cost, list[Found]]:
    cost, found = Cost(), list[Found]()
    for number, sample in enumerate(samples):

        def counted(vectors: Tensor, sample: Sample = sample) -> Tensor:
            cost.products += vectors.shape[1]
            cost.rounds += 1
            # Calls of one size for all: very wide ones are slower per vector on a CPU.
            return torch.cat([sample.jacobian.gram(part) for part in vectors.split(4, dim=1)], 1)

        problem = Problem(counted, sample.jacobian.dim, count, number, float(sample.exact[count - 1] ** 2))
        began = time.perf_counter()
        found.append(solve(problem))
        cost.wall_s.append(time.perf_counter() - began)
    return cost, found


def _cells(
    name: str, count: int, cost: Cost, found: Sequence[Found], samples: Sequence[Sample], ours_s: Sequence[float]
) -> tuple[Cell, ...]:
    all_of_them, to_k, residuals, same = [0.0], [0.0], [0.0], 0
    for mine, sample in zip(found, samples, strict=True):
        k = sample.num_removed(count)
        errors = (mine.values.double() / sample.exact[:count] - 1).abs()
        image = sample.jacobian.gram(mine.vectors[None, :k])[0]
        squares = mine.values[:k].square()
        residual = (image - squares[:, None] * mine.vectors[:k]).norm(dim=1) / squares.clamp_min(1e-30)
        all_of_them.append(float(errors.max()))
        to_k.append(float(errors[:k].max()))
        residuals.append(float(residual.max()))
        same += _elbow(mine.values) == k
    number = len(samples)
    ratio = Spread.of([mine / ours for mine, ours in zip(cost.wall_s, ours_s, strict=True)])
    return (
        *(name, count, cost.products / number, cost.rounds / number, sum(cost.wall_s) / number, ratio),
        *(max(all_of_them), max(to_k), max(residuals), f"{same}/{number}"),
    )


def _samples(config: PeersBenchmarkConfig) -> list[Sample]:
    torch.manual_seed(0)
    model = models.build(ModelConfig()) if config.model == "digits" else FULL_SIZE[config.model](config.depth)
    clean, labels = _latents(model, config)
    times = path_to(model.schedule.times(config.num_steps), config.project_t)
    layer = "mid_block" if "mid_block" in model.feature_layers else model.feature_layers[-1]
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


def _truth(jacobian: FeatureJacobian, count: int) -> Tensor:
    """Return the leading singular values in float64."""
    if jacobian.dim > DENSE_UP_TO:
        found = block_lanczos(
            jacobian.gram,
            jacobian.dim,
            count,
            [torch.Generator().manual_seed(1)],
            tolerance=TRUTH_TOLERANCE,
            max_products=TRUTH_PRODUCTS,
        )
        if not bool(found.converged.all()):
            raise RuntimeError(
                f"the truth needs more than {TRUTH_PRODUCTS} products; its residual is {found.residuals.max():.1e}"
            )
        return found.singular_values[0].double()
    columns = [jacobian.matvec(part[None]) for part in torch.eye(jacobian.dim).split(64)]
    transposed = torch.cat(columns, 1)[0].double()
    return torch.linalg.svdvals(transposed)[:count]


def _elbow(values: Tensor) -> int:
    return find_elbow(explained_variance_ratio(values[None])[0], ElbowConfig()).num_removed
