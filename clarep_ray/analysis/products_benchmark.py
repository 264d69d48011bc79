"""What products with the Jacobian cost in forward passes of the same batch, beside autograd's own and one by one."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import jvp, vjp
from torch.nn.attention import SDPBackend, sdpa_kernel

from clarep_ray.clarid.jacobian import FeatureJacobian
from clarep_ray.config import ProductsBenchmarkConfig
from clarep_ray.measured import Cell, Spread, Table
from clarep_ray.models.full_size import benchmarked, jacobian_layer
from clarep_ray.seeding import torch_generator

COLUMNS = {
    "samples": "d",
    "vectors": "d",
    "JVP": ".2f",
    "VJP": ".2f",
    "J^T J": ".2f",
    "start": ".2f",
    "J^T J, autograd": ".2f",
    "J^T J, one by one": ".2f",
    "autograd / ours": ".2f",
    "one by one / ours": ".2f",
}
Features = Callable[[Tensor], Tensor]


def run(config: ProductsBenchmarkConfig) -> list[Table]:
    """Return the cost of one vector of every sample, in forward passes of these samples to the layer.

    `start` is what recording the transposed map once costs. Autograd: the same map recorded by autograd alone, and
    its batched gradients. One by one is torch.func's jvp and vjp with the forward pass taken again for each vector.
    The ratios are theirs to ours, turn by turn. CPU seconds of one thread; the GPU's where there is one.
    """
    torch.set_num_threads(1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = benchmarked(config.model, config.depth).to(device)
    layer = jacobian_layer(model)
    rows: list[tuple[Cell, ...]] = []
    for samples in config.samples:
        x_t = torch.randn(samples, *model.latent_shape, generator=torch_generator(0, "x_t", "products"))
        cond = model.cond(torch.arange(samples) % len(model.classes))

        def features(x: Tensor, cond: object = cond) -> Tensor:
            return model.features(x, config.project_t, cond, layer)

        for vectors in config.vectors:
            rows.append(_row(features, x_t.to(device), samples, vectors, config.num_repeats))
    size = f"{config.model}{'' if config.depth is None else f', depth {config.depth}'}"
    return [Table(COLUMNS, rows, [f"{size}, to {layer}."])]


class _AutogradsOwn:
    """J^T J by double and batched gradients of what autograd records."""

    def __init__(self, features: Features, x_t: Tensor) -> None:
        self.x = x_t.detach().requires_grad_(True)
        with sdpa_kernel(SDPBackend.MATH):  # the fused kernel has no second derivative
            self.y = features(self.x)
            self.u = torch.zeros_like(self.y).requires_grad_(True)
            (self.transposed,) = torch.autograd.grad(self.y, self.x, self.u, create_graph=True)

    def gram(self, tangents: Tensor) -> Tensor:
        """Return J^T J v of vectors (n, b, *latent)."""
        (pushed,) = torch.autograd.grad(self.transposed, self.u, tangents, retain_graph=True, is_grads_batched=True)
        return torch.autograd.grad(self.y, self.x, pushed, retain_graph=True, is_grads_batched=True)[0]


def _row(features: Features, x_t: Tensor, samples: int, vectors: int, repeats: int) -> tuple[Cell, ...]:
    jacobian, theirs = FeatureJacobian(features, x_t), _AutogradsOwn(features, x_t)
    tangents = torch.randn(samples, vectors, jacobian.dim, device=x_t.device)
    cotangents = torch.randn(samples, vectors, jacobian.dim_out, device=x_t.device)
    folded = tangents.transpose(0, 1).reshape(vectors, *x_t.shape)

    def forward() -> None:
        with torch.no_grad():
            features(x_t)

    def one() -> None:
        with sdpa_kernel(SDPBackend.MATH):  # nor a forward-mode derivative
            pushed = jvp(features, (x_t,), (folded[0],))[1]
        vjp(features, x_t)[1](pushed)

    def forwards() -> tuple[float, ...]:
        forward_s = _timed(forward)
        ours = [
            _timed(lambda: jacobian.matvec(tangents)) / vectors,
            _timed(lambda: jacobian.rmatvec(cotangents)) / vectors,
            _timed(lambda: jacobian.gram(tangents)) / vectors,
            _timed(lambda: FeatureJacobian(features, x_t)),
        ]
        return (forward_s, *ours, _timed(lambda: theirs.gram(folded)) / vectors, _timed(one))

    forwards()  # warm
    turns = [forwards() for _ in range(repeats)]
    forward_s, *costs = (min(column) for column in zip(*turns, strict=True))
    ratios = [Spread.of([turn[place] / turn[3] for turn in turns]) for place in (5, 6)]
    return (samples, vectors, *(cost / forward_s for cost in costs), *ratios)


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
