"""Every loss where its formula has a hole or a float ends: value and gradient stay finite, no epsilon is absolute."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from clarep_ray.cadistill import baseline_losses as baselines
from clarep_ray.cadistill import losses
from clarep_ray.config import LossConfig
from clarep_ray.dotted import override

COUNT, WIDTH = 8, 5
LABELS = torch.tensor([0, 1, 2, 1, 0, 3, 1, 0])  # classes 2 and 3 have a single member
Loss = Callable[[Tensor], Tensor]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


OTHER, TEACHER = drawn(COUNT, WIDTH, seed=1), drawn(COUNT, 7, seed=2)
SCALE_FREE: dict[str, Loss] = {
    "align": lambda x: losses.loss_align(x, OTHER, LABELS),
    "align, canonical": lambda x: losses.loss_align(OTHER, x, LABELS),
    "separate": lambda x: losses.loss_separate(x, LABELS),
    "supcon": lambda x: losses.loss_supcon(x, LABELS),
    "cka": lambda x: losses.linear_cka(x, TEACHER),
    "cka, few dimensions": lambda x: losses.linear_cka(x[:, :2], TEACHER[:, :3]),
    "cka, debiased": lambda x: losses.linear_cka(x, TEACHER, "debiased"),
    "cka loss": lambda x: losses.loss_cka(x, OTHER, TEACHER),
    "rkd": lambda x: baselines.loss_rkd(x, TEACHER),
    "at": lambda x: 1000 * baselines.loss_attention(attention_of(x), attention_of(OTHER)),
}
OTHERS: dict[str, Loss] = {
    "fitnet": lambda x: baselines.loss_fitnet(x, OTHER),
    "kd": lambda x: baselines.loss_kd(x, OTHER),
    "dkd": lambda x: baselines.loss_dkd(x, OTHER, LABELS),
}
INPUTS: dict[str, Tensor] = {
    "usual": drawn(COUNT, WIDTH),
    "zeros": torch.zeros(COUNT, WIDTH),
    "constant": torch.full((COUNT, WIDTH), 0.1),
    "constant rows": drawn(1, WIDTH).expand(COUNT, WIDTH),
    "large mean, no spread": 1e6 + torch.zeros(COUNT, WIDTH),
    "pairs of equal rows": drawn(COUNT // 2, WIDTH).repeat(2, 1),
    "a zero row": torch.cat([torch.zeros(1, WIDTH), drawn(COUNT - 1, WIDTH)]),
    "one row apart": torch.cat([torch.ones(1, WIDTH), torch.zeros(COUNT - 1, WIDTH)]),
    "tiny": 1e-12 * drawn(COUNT, WIDTH),
    "tinier": 1e-30 * drawn(COUNT, WIDTH),
    "subnormal": 1e-40 * drawn(COUNT, WIDTH),
    "huge": 1e30 * drawn(COUNT, WIDTH),
    "half": drawn(COUNT, WIDTH).half(),
    "bfloat16": drawn(COUNT, WIDTH).bfloat16(),
    "half, constant": torch.full((COUNT, WIDTH), 0.1).half(),
    "half, large": (3e4 * drawn(COUNT, WIDTH).sign()).half(),
}


def attention_of(x: Tensor) -> Tensor:
    return baselines.attention_map(x[:, :4].reshape(COUNT, 1, 2, 2), 2)


def value_and_gradient(loss: Loss, x: Tensor) -> tuple[Tensor, Tensor]:
    leaf = x.detach().clone().requires_grad_()
    value = loss(leaf)
    (gradient,) = torch.autograd.grad(value, leaf)
    return value.detach(), gradient


@pytest.mark.parametrize("kind", list(INPUTS))
@pytest.mark.parametrize("name", [*SCALE_FREE, *OTHERS])
def test_values_and_gradients_are_finite(name: str, kind: str) -> None:
    if name == "fitnet" and kind == "huge":
        pytest.skip("a squared difference of 1e60 is no float32: a training ends there with its message")
    value, gradient = value_and_gradient({**SCALE_FREE, **OTHERS}[name], INPUTS[kind])
    assert value.isfinite()
    assert gradient.isfinite().all()
    assert value.dtype == torch.float32


@pytest.mark.parametrize("scale", [1e-24, 1e-12, 1e-6, 1e6, 1e12])
@pytest.mark.parametrize("name", list(SCALE_FREE))
def test_scale_changes_nothing_and_divides_the_gradient(name: str, scale: float) -> None:
    x = drawn(COUNT, WIDTH)
    value, gradient = value_and_gradient(SCALE_FREE[name], x)
    scaled_value, scaled_gradient = value_and_gradient(SCALE_FREE[name], scale * x)
    torch.testing.assert_close(scaled_value, value, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(scaled_gradient * scale, gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", [*SCALE_FREE, *OTHERS])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_autocast_compute_in_float32(name: str, dtype: torch.dtype) -> None:
    x = drawn(COUNT, WIDTH).to(dtype)
    loss = {**SCALE_FREE, **OTHERS}[name]
    exact = loss(x.float())
    torch.testing.assert_close(loss(x), exact, rtol=1e-6, atol=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(loss(x.float()), exact, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("estimator", ["biased", "debiased"])
@pytest.mark.parametrize("kind", ["zeros", "constant", "constant rows", "large mean, no spread", "half, constant"])
def test_a_batch_without_spread_has_no_cka_and_pulls_nowhere(kind: str, estimator: losses.CkaEstimator) -> None:
    value, gradient = value_and_gradient(lambda x: losses.linear_cka(x, TEACHER, estimator), INPUTS[kind])
    assert value == 0
    assert not gradient.any()


def test_debiased_cka_of_samples_at_one_distance_is_zero() -> None:
    """One-hot rows: their U-centred Gram matrix is zero, and the quotient of two roundings would be anything."""
    assert losses.linear_cka(torch.eye(8), drawn(8, 4), "debiased") == 0
    assert losses.linear_cka(torch.eye(8), torch.eye(8)) == pytest.approx(1)


@pytest.mark.parametrize("name", ["align", "separate", "supcon", "rkd", "at"])
def test_a_zero_row_pulls_nowhere(name: str) -> None:
    _, gradient = value_and_gradient(SCALE_FREE[name], INPUTS["a zero row"])
    assert gradient[0].abs().max() < 1e3  # an absolute epsilon of 1e-12 made it 1e12
    if name != "rkd":  # where the distance to the others still tells
        assert not gradient[0].any()


def test_distances_of_equal_samples_are_zero_and_not_the_mean() -> None:
    student, teacher = torch.ones(4, 3), drawn(4, 3)
    spread = torch.cdist(teacher, teacher)
    relative = spread / spread.sum() * 12
    expected = F.smooth_l1_loss(torch.zeros(4, 4), relative)
    assert baselines.loss_rkd(student, teacher, 1.0, 0.0).item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_lone_sample_is_compared_with_nothing() -> None:
    for loss in (losses.loss_separate, losses.loss_supcon):
        value, gradient = value_and_gradient(lambda x, loss=loss: loss(x, LABELS[:1]), drawn(1, WIDTH))
        assert value == 0
        assert not gradient.any()


@pytest.mark.parametrize("temperature", [0.001, 0.01, 1.0, 1000.0])
def test_temperatures_at_the_ends_of_their_range(temperature: float) -> None:
    assert LossConfig(temperature=temperature, kd_temperature=temperature).temperature == temperature
    x = drawn(COUNT, WIDTH)
    for loss in (
        lambda x: losses.loss_align(x, OTHER.to(x), LABELS, temperature),
        lambda x: losses.loss_separate(x, LABELS, temperature),
        lambda x: losses.loss_supcon(x, LABELS, temperature),
        lambda x: baselines.loss_kd(x, OTHER.to(x), temperature),
        lambda x: baselines.loss_dkd(x, OTHER.to(x), LABELS, temperature),
    ):
        value, gradient = value_and_gradient(loss, x)
        exact, slope = value_and_gradient(loss, x.double())
        torch.testing.assert_close(value.double(), exact, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(gradient.double(), slope, rtol=1e-2, atol=1e-5)


@pytest.mark.parametrize("temperature", [0.0, 1e-9, 1e9])
def test_temperatures_beyond_are_refused(temperature: float) -> None:
    for name in ("temperature", "kd_temperature"):
        with pytest.raises(ValueError, match=rf"loss\.{name}: .* is not valid; valid: 0\.001 to 1000"):
            override(LossConfig(), {name: temperature})


def test_kd_at_a_high_temperature_is_half_the_variance_of_the_difference() -> None:
    """T^2 KL tends to Var(difference of logits) / (2 classes); in float32 rounding is as large as that."""
    student, teacher = drawn(COUNT, 100), drawn(COUNT, 100, seed=3)
    limit = (teacher - student).var(1, unbiased=False).mean() / 2
    assert baselines.loss_kd(student, teacher, 1000.0).item() == pytest.approx(limit.item(), rel=0.01)
