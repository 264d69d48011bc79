"""What products with the Jacobian cost in forward passes of the same batch, beside products one vector at a time."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import jvp, vjp
from torch.nn.attention import SDPBackend, sdpa_kernel

from clarep_ray import models
from clarep_ray.clarid.jacobian import FeatureJacobian
from clarep_ray.config import ModelConfig, ProductsBenchmarkConfig, SpectrumConfig
from clarep_ray.measured import Cell, Spread, Table
from clarep_ray.seeding import torch_generator

COLUMNS = {
    "samples": "d",
    "vectors": "d",
    "JVP": ".2f",
    "VJP": ".2f",
    "J^T J": ".2f",
    "start": ".2f",
    "JVP, one by one": ".2f",
    "VJP, one by one": ".2f",
    "ratio of J^T J": ".2f",
}


def run(config: ProductsBenchmarkConfig) -> list[Table]:
    """Return the cost of one vector of every sample, in forward passes of these samples to the layer.

    `start` is what recording the transposed map once costs. One by one is torch.func's jvp and vjp with the forward
    pass taken again for each vector; the ratio is theirs to ours, turn by turn. CPU seconds of one thread; the GPU's
    where there is one.
    """
    torch.set_num_threads(1)
    model = models.build(ModelConfig(weights=config.weights))
    model = model.to("cuda" if torch.cuda.is_available() else "cpu")
    layer = SpectrumConfig().layer
    rows: list[tuple[Cell, ...]] = []
    for samples in config.samples:
        x_t = torch.randn(samples, *model.latent_shape, generator=torch_generator(0, "x_t", "products"))
        x_t = x_t.to(model.device)
        cond = model.cond(torch.arange(samples) % len(model.class_names))

        def features(x: Tensor, cond: Tensor = cond) -> Tensor:
            return model.features(x, config.project_t, cond, layer)

        for vectors in config.vectors:
            rows.append(_row(features, x_t, samples, vectors, config.num_repeats))
    return [Table(COLUMNS, rows)]


def _row(
    features: Callable[[Tensor], Tensor], x_t: Tensor, samples: int, vectors: int, repeats: int
) -> tuple[Cell, ...]:
    jacobian = FeatureJacobian(features, x_t)
    tangents = torch.randn(samples, vectors, jacobian.dim, device=x_t.device)
    cotangents = torch.randn(samples, vectors, jacobian.dim_out, device=x_t.device)
    shape = jacobian.matvec(tangents)[:, 0].shape  # warm as well
    single_in, single_out = tangents[:, 0].view_as(x_t), cotangents[:, 0].view(shape)

    def forward() -> None:
        with torch.no_grad():
            features(x_t)

    def one_jvp() -> None:
        with sdpa_kernel(SDPBackend.MATH):  # the fused kernel has no forward-mode derivative
            jvp(features, (x_t,), (single_in,))

    def one_vjp() -> None:
        out, pull = vjp(features, x_t)[:2]
        pull(single_out.view_as(out))

    for warm in (forward, one_jvp, one_vjp):
        warm()
    rounds: list[tuple[float, ...]] = []
    for _ in range(repeats):
        forward_s = _timed(forward)
        ours = [
            _timed(lambda: jacobian.matvec(tangents)) / vectors,
            _timed(lambda: jacobian.rmatvec(cotangents)) / vectors,
            _timed(lambda: jacobian.gram(tangents)) / vectors,
            _timed(lambda: FeatureJacobian(features, x_t)),
        ]
        theirs = [_timed(one_jvp), _timed(one_vjp)]
        rounds.append((forward_s, *ours, *theirs))
    forward_s, *costs = (min(column) for column in zip(*rounds, strict=True))
    push, pull, both, start, their_push, their_pull = (cost / forward_s for cost in costs)
    ratio = Spread.of([(turn[5] + turn[6]) / turn[3] for turn in rounds])
    return (samples, vectors, push, pull, both, start, their_push, their_pull, ratio)


def _timed(run: Callable[[], object]) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        began = time.perf_counter()
        run()
        torch.cuda.synchronize()
        return time.perf_counter() - began
    began = time.process_time()
    run()
    return time.process_time() - began
