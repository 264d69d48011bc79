"""Products with single operations against autograd's own Jacobians; what autograd keeps; what a product computes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from clarep_ray import models
from clarep_ray.clarid import linearised
from clarep_ray.clarid.jacobian import FeatureJacobian
from clarep_ray.clarid.linearised import Linearised


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def own_attention(x: Tensor) -> Tensor:
    q, k, v = x.unflatten(-1, (3, 2, 4)).unbind(-3)
    return F.scaled_dot_product_attention(q.transpose(-2, -3), k.transpose(-2, -3), v.transpose(-2, -3), scale=0.7)


def attention_to_text(x: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(x, draw(2, 5, 24, seed=8), draw(2, 5, 3, seed=9))


OPERATIONS: dict[str, tuple[tuple[int, ...], Callable[[Tensor], Tensor]]] = {
    "gelu": ((2, 6), F.gelu),
    "gelu, tanh": ((2, 6), lambda x: F.gelu(x, approximate="tanh")),
    "silu": ((2, 6), F.silu),
    "softmax": ((2, 3, 5), lambda x: F.softmax(x, dim=-1)),
    "softmax, method": ((2, 3, 5), lambda x: x.softmax(2)),
    "softmax, in another type": ((2, 3, 5), lambda x: x.softmax(2, torch.float64)),
    "softmax, first dimension": ((2, 3, 5), lambda x: torch.softmax(x, 1)),
    "layer norm": ((2, 3, 8), lambda x: F.layer_norm(x, (8,))),
    "layer norm, weights, two dimensions": (
        (2, 3, 4, 2),
        lambda x: F.layer_norm(x, (4, 2), draw(4, 2), draw(4, 2, seed=1), 1e-2),
    ),
    "group norm": ((2, 6, 2, 3), lambda x: F.group_norm(x, 3)),
    "group norm, weights": ((2, 6, 5), lambda x: F.group_norm(x, 2, draw(6), draw(6, seed=1), 1e-3)),
    "convolution": ((2, 3, 5, 4), lambda x: F.conv2d(x, draw(4, 3, 3, 3), draw(4), padding=1)),
    "convolution, strided, by groups": (
        (2, 4, 6, 5),
        lambda x: F.conv2d(x, draw(6, 2, 3, 2), None, (2, 3), (1, 0), (1, 2), 2),
    ),
    "convolution, padding by name": ((2, 3, 5, 4), lambda x: F.conv2d(x, draw(4, 3, 3, 3), padding="same")),
    "attention": ((2, 5, 24), own_attention),
    "attention to text": ((2, 7, 24), attention_to_text),
    "attention, causal": ((2, 5, 8), lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True)),
    "all in a row": (
        (2, 4, 6),
        lambda x: (
            F.silu(F.layer_norm(own_attention(F.linear(x, draw(24, 6))).flatten(1), (32,))) * x.sum((1, 2))[:, None]
        ),
    ),
}

AUTOGRAD_S = {"attention, causal", "softmax, in another type"}
"""Not recorded as ours, and autograd needs their values as they are."""


@pytest.fixture(params=["at once", "in parts"])
def parts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "in parts":
        monkeypatch.setattr(linearised, "SCORES_AT_ONCE", 40)


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize("name", OPERATIONS)
def test_products_are_those_of_autograd_s_jacobian_sample_by_sample(name: str) -> None:
    shape, operation = OPERATIONS[name]
    x = draw(*shape, seed=2)
    jacobian = FeatureJacobian(operation, x)
    whole: Any = torch.autograd.functional.jacobian(operation, x)
    whole = whole.float().reshape(len(x), jacobian.dim_out, len(x), jacobian.dim)
    dense = torch.stack([whole[row, :, row] for row in range(len(x))])
    tangents, cotangents = draw(len(x), 3, jacobian.dim, seed=3), draw(len(x), 3, jacobian.dim_out, seed=4)
    torch.testing.assert_close(jacobian.matvec(tangents), tangents @ dense.mT, atol=2e-5, rtol=2e-4)
    torch.testing.assert_close(jacobian.rmatvec(cotangents), cotangents @ dense, atol=2e-5, rtol=2e-4)


@pytest.mark.parametrize("name", sorted(OPERATIONS.keys() - AUTOGRAD_S))
def test_values_are_those_of_the_operation_and_may_be_changed_in_place(name: str) -> None:
    shape, operation = OPERATIONS[name]
    x = draw(*shape, seed=2).requires_grad_(True)
    with Linearised():
        value = operation(x)
    torch.testing.assert_close(value, operation(x))
    (before,) = torch.autograd.grad(value.sum(), x, retain_graph=True)
    changed = value.mul_(1.0).add_(5.0)
    (after,) = torch.autograd.grad(changed.sum(), x)
    torch.testing.assert_close(after, before)


def test_weights_that_are_trained_keep_their_gradients() -> None:
    weight = draw(4, 3, 3, 3).requires_grad_(True)
    x = draw(1, 3, 5, 5).requires_grad_(True)
    with Linearised():
        y = F.conv2d(x, weight)
    (found,) = torch.autograd.grad(y.square().sum(), weight)
    (expected,) = torch.autograd.grad(F.conv2d(x, weight).square().sum(), weight)
    assert torch.equal(found, expected)


def test_what_is_done_in_place_is_left_alone() -> None:
    x = draw(3, 4).requires_grad_(True)
    with Linearised():
        y = x + 0
        assert F.silu(y, inplace=True) is y


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["group norm", "layer norm", "attention", "softmax", "gelu, tanh", "silu"])
def test_half_precision_stays_near(name: str, precision: torch.dtype) -> None:
    shape, operation = OPERATIONS[name]
    x = draw(*shape, seed=2)
    full, low = FeatureJacobian(operation, x), FeatureJacobian(operation, x.to(precision))
    tangents = draw(len(x), 3, full.dim, seed=3)
    expected = full.gram(tangents)
    assert 0 < (low.gram(tangents) - expected).norm() < 0.03 * expected.norm()


def flops(run: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


@pytest.mark.parametrize("name", ["class_unet", "dit", "edm", "stable_diffusion", "uvit"])
def test_a_product_computes_what_the_network_does_and_no_gradient_of_weights(name: str) -> None:
    """One vector: as many operations as a forward pass, but for attention, which has twice as many matrix products."""
    model = models.build_tiny(name)
    x, t = draw(2, *model.latent_shape), model.schedule.times(10)[5].item()
    cond, layer = model.cond(torch.tensor([1, 2])), model.feature_layers[len(model.feature_layers) // 2]
    with torch.no_grad():
        forward = flops(lambda: model.features(x, t, cond, layer))
    jacobian = FeatureJacobian(lambda x: model.features(x, t, cond, layer), x)
    for push in (True, False):
        vectors = draw(2, 4, jacobian.dim if push else jacobian.dim_out)
        product = flops(lambda push=push, vectors=vectors: (jacobian.matvec if push else jacobian.rmatvec)(vectors)) / 4
        assert product < 1.5 * forward, f"{product / forward:.2f} forward passes"
