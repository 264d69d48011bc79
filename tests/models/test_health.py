"""Whether a model, its labels and its images belong together: derived bounds, right models, and spoiled ones."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from clarep_ray import models
from clarep_ray.analysis.health_benchmark import (
    SPOILED,
    SPOILED_DIGITS,
    Made,
    Spoil,
    ask,
    changed,
    clock,
    digits,
    resized,
    set_to,
)
from clarep_ray.clarid.sampling import guided_eps, inversion_noise, invert
from clarep_ray.clarid.schedule import SigmaSchedule, path_to
from clarep_ray.config import ModelConfig
from clarep_ray.data.pixels import decode_image
from clarep_ray.models.denoising import choose_times, errors, least_errors, linear_filter, measure
from clarep_ray.models.health import OK, TOLERANCE, UNTRAINED, WARNING
from clarep_ray.models.label_order import CHANCE, MAX_LABELS, ORDERS, judge_labels, labels_to_try
from tests.flow_vit import FlowSchedule, load_flow_mnist
from tests.oracles import GaussianModel

REAL = Path(__file__).parents[3] / "shared" / "real"


class WhiteNoiseModel(GaussianModel):
    """The optimal denoiser of images of independent pixels, told `factor` times the noise scale there is."""

    def __init__(self, variance: float, factor: float = 1.0) -> None:
        super().__init__(torch.zeros(3, 1, 16, 16), torch.full((1, 16, 16), variance), SigmaSchedule())
        self.latent_shape, self.factor = (1, 16, 16), factor

    def eps(self, x_t: Tensor, t: float, cond: Tensor) -> Tensor:
        return t * (x_t - cond) / (self.variances + (self.factor * t) ** 2) * self.factor**2


def on_white_noise(factor: float) -> tuple[Tensor, Tensor, list[float]]:
    """Return errors, least errors and times of the Gaussian model of variance 0.25."""
    x_0 = 0.5 * torch.randn(24, 1, 16, 16, generator=torch.Generator().manual_seed(3))
    model: Any = WhiteNoiseModel(0.25, factor)
    times = choose_times(model.schedule, 0.5, 25, None)
    found = measure(model, x_0, [torch.zeros(24, dtype=torch.long)], times, [str(n) for n in range(24)], 0, 8)
    return errors(found.pooled(0)), least_errors(found.pooled(0)), times


def test_the_optimal_denoiser_errs_by_its_closed_form_and_gains_nothing() -> None:
    error, least, times = on_white_noise(1.0)
    exact = torch.tensor([0.25 / (0.25 + t**2) for t in times], dtype=torch.float64)
    torch.testing.assert_close(error, exact, rtol=0.05, atol=0)
    assert float((error / least - 1).max()) < 0.01


@pytest.mark.parametrize("factor", [0.5, 1.3, 1.65, 1.85, 3.0])
def test_a_noise_scale_told_wrong_by_q_gains_sinh_ln_q_squared(factor: float) -> None:
    error, least, _ = on_white_noise(factor)
    gain = float((error / least - 1).max())
    assert gain == pytest.approx(math.sinh(math.log(factor)) ** 2, rel=0.1, abs=0.015)
    assert (gain > TOLERANCE) == (abs(math.log(factor)) > math.log(3) / 2)


def test_the_linear_filter_is_the_best_one_of_white_images_and_better_on_smooth_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    white, noise = torch.randn(2, 16, 2, 16, 16, generator=generator)
    error = float((linear_filter(white, white + 0.5 * noise, 1.0, 0.5) - noise).square().mean())
    assert error == pytest.approx(1 / (1 + 0.25), rel=0.08)
    smooth = torch.nn.functional.avg_pool2d(white, 7, 1, 3, count_include_pad=False)
    smooth = smooth / smooth.std()
    assert float((linear_filter(smooth, smooth + 0.5 * noise, 1.0, 0.5) - noise).square().mean()) < 0.75 * error


def test_times_cover_the_run_and_the_noise_levels_that_tell_something() -> None:
    schedule = SigmaSchedule()
    times = choose_times(schedule, 0.5, 6, 0.002)
    assert times[0] == 0.002
    assert [t / 0.5 for t in times[1:]] == pytest.approx([0.1, 10**-0.5, 1, 10**0.5, 10], rel=0.02)
    assert max(choose_times(schedule, 1e-6, 6, None)) < 0.01
    assert len(choose_times(FlowSchedule(), 0.3, 6, None)) == 5  # the range that there is


@pytest.mark.parametrize("num_classes", [2, 10, 1000])
def test_labels_that_fit_pass_and_unrelated_ones_pass_by_chance_alone(num_classes: int) -> None:
    generator = torch.Generator().manual_seed(1)
    names, passed = [str(number) for number in range(num_classes)], 0
    for trial in range(100):
        own = torch.randint(num_classes, (8,), generator=generator)
        tried = labels_to_try(own, num_classes, seed=0)
        assert tried.shape == (8, min(MAX_LABELS, num_classes))
        assert torch.equal(tried[:, 0], own)
        drawn = torch.rand(tried.shape, generator=generator, dtype=torch.float64)
        passed += judge_labels(drawn, tried, names, seed=trial).fits
        drawn[:, 0] -= 1
        order = judge_labels(drawn, tried, names, seed=trial)
        assert order.fits
        assert order.first == 8
        assert order.likely is None
    assert passed <= 100 * CHANCE + 3  # three standard deviations


@pytest.mark.parametrize("name", list(ORDERS))
@pytest.mark.parametrize("num_classes", [12, 1000])
def test_a_usual_mistake_is_named(name: str, num_classes: int) -> None:
    given = torch.tensor([1, 2, 4, 5, 6, 7, 8, 3]) * (num_classes // 12)
    actual = torch.tensor([ORDERS[name](label, num_classes) for label in given.tolist()])
    tried = labels_to_try(given, num_classes, seed=0)
    found = torch.rand(tried.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found[tried == actual[:, None]] -= 1
    order = judge_labels(found, tried, [str(number) for number in range(num_classes)], seed=0)
    assert not order.fits
    assert order.likely == name


@pytest.mark.parametrize("same", [True, False])
def test_labels_are_in_another_order_where_other_images_agree(same: bool) -> None:
    """Images of conflicting backgrounds look like other classes too, but others of their class like others again."""
    given, generator = torch.arange(8), torch.Generator().manual_seed(0)
    tried = labels_to_try(given, 10, seed=0)
    looks = [tried == torch.randperm(10, generator=generator)[:8, None] for _ in range(2)]
    found, others = (torch.rand(8, 10, generator=generator, dtype=torch.float64) for _ in range(2))
    found[looks[0]] -= 1
    others[looks[0 if same else 1]] -= 1
    order = judge_labels(found, tried, [*"abcdefghij"], 0, lambda: (others, [*range(8)]))
    assert not order.fits
    assert order.decidable == same


def test_two_images_of_two_classes_decide_nothing() -> None:
    tried = labels_to_try(torch.tensor([0, 1]), 2, seed=0)
    assert not judge_labels(torch.tensor([[1.0, 2.0], [1.0, 2.0]]), tried, ["cat", "dog"], seed=0).decidable


@pytest.mark.parametrize("u", [0.05, 0.5, 2.0])
def test_inverted_noise_of_the_exact_path_is_inside_its_bounds(u: float) -> None:
    x_0 = torch.randn(3, 4000, generator=torch.Generator().manual_seed(0))
    exact = GaussianModel(torch.zeros(1, 4000), torch.ones(4000), SigmaSchedule())
    x_t = exact.exact_latent(x_0, 1 / u, exact.cond(torch.zeros(3, dtype=torch.long)))
    found, outside = inversion_noise(x_0, x_t, 1.0, 1 / u)
    torch.testing.assert_close(found, torch.full((3,), math.hypot(1, u) - u), rtol=0.05, atol=0)
    assert not outside.any()
    assert inversion_noise(x_0, 3 * x_t, 1.0, 1 / u)[1].all()
    assert inversion_noise(x_0, x_0 + torch.nan, 1.0, 1 / u)[1].all()


SAID = {
    "labels one higher": "label - 1",
    "labels one lower": "label + 1",
    "labels in another order": "images look like other classes: ",
    "classes 1 and 2 exchanged": "1 ",
    "latents 0.18215 times": "too small by a VAE's",
    "latents 5.49 times": "too large by a VAE's",
    "latents twice": "too large by the factor 2",
    "latents half": "too small by the factor 2",
    "negatives": "negatives",
    "pixels of half the range": "lie in [0, 1], and the model's in [-1, 1]",
    "v read as epsilon": "is read as epsilon and is v_prediction",
    "v read as x_0": "is read as sample and is v_prediction",
    "x_0 read as epsilon": "is read as epsilon and is sample",
    "x_0 read as v": "is read as v_prediction and is sample",
}
"""What a warning says of the cause; of any other one a wrong clock or schedule."""
FLOW: dict[str, Spoil] = SPOILED | {
    "x_0 read as epsilon": set_to(prediction="epsilon"),
    "x_0 read as v": set_to(prediction="v_prediction"),
    "smallest time 0.01": set_to(schedule=FlowSchedule(smallest=0.01)),
    "smallest time 0.05": set_to(schedule=FlowSchedule(smallest=0.05)),
    "clock in thousandths": clock(lambda t: 1000 * t),
    "clock backwards": clock(lambda t: 1 - t),
}


@pytest.fixture(scope="module")
def shipped() -> Any:
    torch.set_num_threads(1)
    return models.build(ModelConfig())


def test_the_shipped_model_is_right_again_and_again_and_leaves_the_random_state_alone(shipped: Any) -> None:
    before = torch.random.get_rng_state()
    first, second = (ask(shipped, digits(3, "test"), 0, smallest=0.0) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert first["verdict"] == OK, first["warnings"]
    assert first.pop("seconds") > 0 < second.pop("seconds")
    assert first == second
    assert first["evaluations"] == 8 * 6 * 11
    for low, error, high, linear in zip(
        *(first[name] for name in ("least_error", "error_without_label", "most_error", "filter_error")), strict=True
    ):
        assert low <= error <= high
        assert error < linear


@pytest.mark.parametrize(
    "name", ["labels one higher", "classes 1 and 2 exchanged", "v read as epsilon", "cosine schedule"]
)
def test_a_spoiled_setting_is_named(shipped: Any, name: str) -> None:
    check_spoiled(shipped, digits(3, "test"), SPOILED_DIGITS, name)


def check_spoiled(model: Any, made: Made, spoils: dict[str, Spoil], name: str) -> None:
    found = ask(*spoils[name](model, made), 0)
    assert found["verdict"] == WARNING
    assert SAID.get(name, "wrong clock, noise schedule") in " ".join(found["warnings"]), found["warnings"]


@pytest.mark.parametrize("name", sorted(models.MODELS))
def test_random_weights_are_untrained(name: str) -> None:
    model: Any = models.build_tiny(name)
    images, labels = resized(digits(3, "test"), model.image_size)
    found = ask(model, (images[:8], labels[:8]), 0)  # half of them
    assert found["verdict"] == UNTRAINED
    assert len(found["warnings"]) == 1


def test_a_prediction_that_is_not_finite_is_said(shipped: Any) -> None:
    found = ask(changed(shipped, forward=lambda x, t, cond: x + torch.nan), digits(3, "test"), 0)
    assert found["warnings"] == ["the predicted noise is not finite"]


def test_an_autoencoder_that_loses_more_than_averages_is_said(shipped: Any) -> None:
    found = ask(changed(shipped, decode=lambda x: (x + 0.3).clamp(-1, 1)), digits(3, "test"), 0)
    assert found["verdict"] == WARNING
    assert "another model's, or untrained" in found["warnings"][0]


@pytest.mark.nightly
@pytest.mark.parametrize("name", list(SPOILED_DIGITS))
def test_every_spoiled_setting_of_the_shipped_model_is_named(shipped: Any, name: str) -> None:
    check_spoiled(shipped, digits(3, "test"), SPOILED_DIGITS, name)


@pytest.mark.nightly
def test_twenty_seeds_raise_no_alarm(shipped: Any) -> None:
    for seed in range(20):
        found = ask(shipped, digits(seed, "test"), seed, smallest=0.0)
        assert found["verdict"] == OK, (seed, found["warnings"])


def mnist(number: int) -> Made:
    files = [sorted((REAL / "mnist_png" / str(digit)).glob("*.png")) for digit in range(8)]
    paths = [of_class[(number + more) % len(of_class)] for more in range(2) for of_class in files]
    return torch.from_numpy(np.stack([decode_image(path.read_bytes(), 28) for path in paths])), [*range(8)] * 2


@pytest.mark.nightly
@pytest.mark.skipif(not REAL.is_dir(), reason="needs ../shared/real")
def test_a_public_model_is_right_on_twenty_sets_of_images() -> None:
    model = load_flow_mnist(REAL / "flow-vit-mnist")
    for number in range(20):
        found = ask(model, mnist(number), number, smallest=0.1)
        assert found["verdict"] == OK, (number, found["warnings"])


@pytest.mark.nightly
@pytest.mark.skipif(not REAL.is_dir(), reason="needs ../shared/real")
@pytest.mark.parametrize("name", list(FLOW))
def test_every_spoiled_setting_of_a_public_model_is_named(name: str) -> None:
    check_spoiled(load_flow_mnist(REAL / "flow-vit-mnist"), mnist(0), FLOW, name)


@pytest.mark.nightly
@pytest.mark.skipif(not REAL.is_dir(), reason="needs ../shared/real")
@pytest.mark.parametrize(("smallest", "wrong"), [(0.1, False), (0.01, True)])
def test_inverted_noise_sees_a_wrong_smallest_time(smallest: float, wrong: bool) -> None:
    model = load_flow_mnist(REAL / "flow-vit-mnist", FlowSchedule(smallest=smallest))
    images, labels = mnist(0)
    images, labels = images[:8], labels[:8]
    x_0 = model.encode(images.permute(0, 3, 1, 2).float() / 127.5 - 1)
    grid = path_to(model.schedule.times(50), model.schedule.times(50)[30].item())
    x_t = invert(guided_eps(model, model.cond(torch.tensor(labels)), None, 1.0), x_0, model, grid)
    alpha, sigma = 1 - grid[-1].item(), grid[-1].item()
    assert (
        inversion_noise(x_0, x_t, alpha, sigma)[1].all()
        if wrong
        else not inversion_noise(x_0, x_t, alpha, sigma)[1].any()
    )
