"""The whole chain against a model that is known in closed form (bars A1 to A3)."""

import math
from dataclasses import replace

import pytest
import torch

from clarep_ray.clarid.directions import leading, project_out
from clarep_ray.clarid.pipeline import clarid, leading_triplets
from clarep_ray.clarid.projection import class_centre
from clarep_ray.clarid.sampling import ddim_step, decode, dpmpp_step, guided_eps, heun_step, invert, path_evaluations
from clarep_ray.clarid.schedule import (
    SigmaSchedule,
    linear_schedule,
    log_snr_path,
    path_of,
    path_to,
    scaled_linear_schedule,
)
from clarep_ray.config import ExtractConfig, InversionConfig, PathSolver, SpectrumConfig
from clarep_ray.dotted import override
from tests.oracles import EdmGaussianModel, GaussianModel

TIMES = (200.0, 400.0, 600.0, 800.0)


@pytest.fixture
def model() -> GaussianModel:
    means = torch.tensor([[3.0, 1.0, -2.0, 0.5], [0.0, -1.0, 1.0, 2.0]], dtype=torch.float64)
    return GaussianModel(means, torch.tensor([4.0, 1.0, 0.25, 0.0625], dtype=torch.float64))


def round_trip(model: GaussianModel, num_steps: int, t: float, refinements: int = 0, solver: PathSolver = "ddim"):
    torch.manual_seed(0)
    cond = model.cond(torch.zeros(64, dtype=torch.long))
    x_0 = cond + model.variances.sqrt() * torch.randn(64, 4, dtype=torch.float64)
    times = path_to(model.schedule.times(num_steps), t)
    denoise = guided_eps(model, cond, None, 1.0)
    x_t = invert(denoise, x_0, model, times, refinements, solver)
    return x_0, x_t, decode(denoise, x_t, model, times, solver), cond


def test_plain_inversion_errs_by_one_over_n(model: GaussianModel) -> None:
    errors = {}
    for steps in (50, 100, 200):
        x_0, _, back, _ = round_trip(model, steps, 800.0)
        errors[steps] = (back - x_0).abs().mean(0).max().item()
    assert errors[50] <= 0.16
    assert 1.7 <= errors[50] / errors[100] <= 2.2
    assert 1.7 <= errors[100] / errors[200] <= 2.2


def test_fixed_point_refinement_makes_decoding_the_inverse(model: GaussianModel) -> None:
    x_0, _, back, _ = round_trip(model, 50, 800.0, refinements=8)
    assert (back - x_0).abs().max() <= 1e-4


def solver_errors(model: GaussianModel, solver: PathSolver, family: str) -> tuple[list[float], list[float]]:
    """Return distances from the exact latent and of the round trip, for twice as many steps each time."""
    edm = EdmGaussianModel(model.means, model.variances)
    gaps, errors = [], []
    for steps in (25, 50, 100):
        # The same end for every number of steps: VP grids end at 800, sigma grids at 80, both start at the clean time.
        used, count, t = (model, steps, 800.0) if family == "vp" else (edm, steps + 1, 80.0)
        x_0, x_t, back, cond = round_trip(used, count, t, solver=solver)
        gaps.append((x_t - used.exact_latent(x_0, t, cond)).abs().mean().item())
        errors.append((back - x_0).abs().mean().item())
    return gaps, errors


@pytest.mark.parametrize("family", ["vp", "sigma"])
def test_heun_errs_by_one_over_n_squared_where_ddim_errs_by_one_over_n(model: GaussianModel, family: str) -> None:
    orders = {"ddim": (1.7, 2.2), "heun": (3.6, 5.5)}
    found = {solver: solver_errors(model, solver, family) for solver in ("ddim", "heun")}
    for solver, (low, high) in orders.items():
        gaps, errors = found[solver]
        for coarse, fine in ((0, 1), (1, 2)):
            assert low <= gaps[coarse] / gaps[fine] <= high, (solver, gaps)
            assert errors[coarse] / errors[fine] >= low, (solver, errors)
    assert found["heun"][0][1] < 0.25 * found["ddim"][0][2], "better than as many evaluations of ddim"


def test_dpmpp_errs_less_than_ddim_at_as_many_evaluations(model: GaussianModel) -> None:
    for family, order in (("vp", 2.5), ("sigma", 3.5)):  # of VP grids only the upper part has logarithms that are near
        gaps, errors = solver_errors(model, "dpmpp_2m", family)
        plain, plain_errors = solver_errors(model, "ddim", family)
        for steps in range(3):
            assert gaps[steps] < 0.6 * plain[steps]
            assert errors[steps] < 0.3 * plain_errors[steps]
        assert min(gaps[0] / gaps[1], gaps[1] / gaps[2]) >= order, (family, gaps)
    heun = solver_errors(model, "heun", "sigma")[0]
    assert gaps == pytest.approx(heun, rel=0.1), "for half the evaluations of heun"


@pytest.mark.parametrize(
    ("schedule", "t", "count"),
    [(linear_schedule(), 600.0, 40), (scaled_linear_schedule(1), 701.0, 40), (SigmaSchedule(), 11.85, 40)],
    ids=["ddpm", "stable diffusion", "edm"],
)
def test_a_log_snr_path_is_as_even_as_the_times_allow(schedule, t: float, count: int) -> None:
    path = log_snr_path(schedule, t, count)
    assert (path[0], path[-1]) == (schedule.times(1)[0], t)
    assert path[1] == schedule.finest()[0]
    assert bool((path.diff() > 0).all())
    assert count / 2 < len(path) - 1 <= count, "several steps may fall on one of the first timesteps"
    alpha, sigma = schedule.alpha_sigma(path[1:])
    strides = (sigma / alpha).log().diff()
    even = strides[len(strides) // 2 :]
    assert even.max() / even.min() < 1.2
    assert torch.equal(path, log_snr_path(schedule, t, count))
    assert log_snr_path(schedule, t, 1).tolist() == [path[0].item(), t]
    settings = InversionConfig(spacing="log_snr", num_steps=count, project_t=t)
    assert torch.equal(path_of(schedule, settings), path)
    with pytest.raises(ValueError, match="is no noisy time"):
        path_of(schedule, replace(settings, project_t=path[0].item()))


def test_log_snr_steps_err_less_than_four_times_as_many_even_ones(model: GaussianModel) -> None:
    gaps = {}
    for name, solver, path in (
        ("published", "ddim", path_to(model.schedule.times(100), 600.0)),
        ("16", "dpmpp_2m", log_snr_path(model.schedule, 600.0, 16)),
        ("32", "dpmpp_2m", log_snr_path(model.schedule, 600.0, 32)),
    ):
        torch.manual_seed(0)
        cond = model.cond(torch.zeros(64, dtype=torch.long))
        x_0 = cond + model.variances.sqrt() * torch.randn(64, 4, dtype=torch.float64)
        denoise = guided_eps(model, cond, None, 1.0)
        x_t = invert(denoise, x_0, model, path, solver=solver)
        back = decode(denoise, x_t, model, path, solver)
        gaps[name] = (
            (x_t - model.exact_latent(x_0, 600.0, cond)).abs().mean().item(),
            (back - x_0).abs().mean().item(),
        )
    for published, coarse, fine in zip(gaps["published"], gaps["16"], gaps["32"], strict=True):
        assert coarse < published
        assert fine < coarse / 2.5


@pytest.mark.parametrize("there", [(0.6, 0.8), (0.95, math.sqrt(1 - 0.95**2))])
def test_dpmpp_is_the_published_formula_up_and_down(there: tuple[float, float]) -> None:
    x_t, eps, x_0_before = torch.randn(3, 2, 4, dtype=torch.float64).unbind()
    here, h_before = (0.8, 0.6), -0.3
    (alpha, sigma), (alpha_next, sigma_next) = here, there
    log_snr = math.log(alpha / sigma)
    h = math.log(alpha_next / sigma_next) - log_snr
    x_0 = (x_t - sigma * eps) / alpha
    slope = (x_0 - x_0_before) / (h_before / h)
    expected = sigma_next / sigma * x_t - alpha_next * math.expm1(-h) * (x_0 + slope / 2)
    found, (estimate, place) = dpmpp_step(x_t, eps, (x_0_before, log_snr - h_before), here, there)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(estimate, x_0)
    assert place == log_snr
    for before, first, last in (
        (None, here, there),
        ((x_0_before, math.inf), here, there),
        ((x_0, 0.1), here, (1.0, 0.0)),
    ):
        torch.testing.assert_close(dpmpp_step(x_t, eps, before, first, last)[0], ddim_step(x_t, eps, first, last))


def test_heun_is_the_mean_of_two_slopes_and_ddim_is_euler_where_alpha_is_1() -> None:
    x_t, slope = torch.randn(3, 4, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    here, there = (1.0, 3.0), (1.0, 2.25)
    torch.testing.assert_close(ddim_step(x_t, slope, here, there), x_t + (2.25 - 3.0) * slope)
    ahead = lambda x, t: torch.tanh(x) * t  # noqa: E731
    euler = x_t - 0.75 * slope
    expected = x_t - 0.75 * (slope + torch.tanh(euler) * 2.25) / 2
    torch.testing.assert_close(heun_step(ahead, x_t, slope, 2.25, here, there), expected)


@pytest.mark.parametrize("solver", ["ddim", "heun", "dpmpp_2m"])
def test_the_counted_evaluations_are_those_that_are_made(model: GaussianModel, solver: PathSolver) -> None:
    times, calls = path_to(model.schedule.times(50), 400.0), list[float]()

    def denoise(x_t: torch.Tensor, t: float) -> torch.Tensor:
        calls.append(t)
        return model.eps(x_t, t, model.means[:1])

    x_t = invert(denoise, torch.zeros(1, 4), model, times, solver=solver)
    assert len(calls) == path_evaluations(21, solver)
    decode(denoise, x_t, model, times, solver)
    assert len(calls) == 2 * path_evaluations(21, solver)
    assert min(calls) == 0.0, "never at the clean time"


@pytest.mark.parametrize("solver", ["heun", "dpmpp_2m"])
def test_solvers_of_second_order_take_no_refinements(model: GaussianModel, solver: PathSolver) -> None:
    with pytest.raises(ValueError, match=f"num_refinements: 2 refines ddim only; valid with {solver}: 0"):
        round_trip(model, 50, 400.0, refinements=2, solver=solver)
    with pytest.raises(ValueError, match=r"inversion\.num_refinements: 1 .*0 where inversion\.solver is not ddim"):
        override(ExtractConfig(), {"inversion.solver": solver, "inversion.num_refinements": 1})


@pytest.mark.parametrize("t", TIMES)
def test_inversion_reaches_the_exact_latent_as_steps_grow(model: GaussianModel, t: float) -> None:
    errors = []
    for steps in (50, 500):
        x_0, x_t, _, cond = round_trip(model, steps, t)
        errors.append((x_t - model.exact_latent(x_0, t, cond)).abs().mean().item())
    assert errors[1] < errors[0] / 5
    assert errors[1] < 0.01


def triplets_of(model: GaussianModel, layer: str, t: float):
    single = GaussianModel(model.means.float(), model.variances.float())
    settings = SpectrumConfig(layer=layer, num_directions=4, max_products=4)
    generators = [torch.Generator().manual_seed(i) for i in range(2)]
    return leading_triplets(single, torch.randn(2, 4), t, single.cond(torch.tensor([0, 1])), settings, generators)


@pytest.mark.parametrize("t", TIMES)
def test_singular_values_follow_the_closed_form_at_both_outputs(model: GaussianModel, t: float) -> None:
    alpha, sigma = model.scales(t)
    denominator = alpha**2 * model.variances + sigma**2
    for layer, expected in (("eps", sigma / denominator), ("x_0", alpha * model.variances / denominator)):
        found = triplets_of(model, layer, t)
        expected = expected.sort(descending=True).values.float()
        torch.testing.assert_close(found.singular_values[0], expected, rtol=2e-5, atol=1e-5)


def test_eps_and_x_0_outputs_order_the_directions_oppositely(model: GaussianModel) -> None:
    eps = triplets_of(model, "eps", 200.0).right_vectors[0].abs().argmax(1).tolist()
    x_0 = triplets_of(model, "x_0", 200.0).right_vectors[0].abs().argmax(1).tolist()
    assert eps == [3, 2, 1, 0]
    assert x_0 == [0, 1, 2, 3]


@pytest.mark.parametrize("t", TIMES)
def test_uncentred_projection_moves_the_mean_and_the_centred_one_keeps_it(model: GaussianModel, t: float) -> None:
    """Decoded coordinate along a removed direction: mu (1 - sqrt(a lam / (a lam + 1 - a))), or mu if centred."""
    direction = torch.eye(4, dtype=torch.float64)[:1].expand(8, 1, 4)
    cond = model.cond(torch.zeros(8, dtype=torch.long))
    x_t = torch.randn(8, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    times = path_to(model.schedule.times(500), t)
    denoise = guided_eps(model, cond, None, 1.0)
    centre = class_centre(model, x_t, t, cond)
    plain = decode(denoise, project_out(x_t, direction), model, times)[:, 0]
    centred = decode(denoise, project_out(x_t, direction, centre), model, times)[:, 0]
    alpha, sigma = model.scales(t)
    expected = 3.0 * (1 - (alpha**2 * 4 / (alpha**2 * 4 + sigma**2)) ** 0.5)
    assert plain.sub(expected).abs().max() <= 0.01
    assert centred.sub(3.0).abs().max() <= 0.01


def test_the_edm_parametrisation_follows_the_same_closed_form(model: GaussianModel) -> None:
    """alpha = 1 on the clock of sigma, with the network's D turned into eps: inversion, round trip, spectrum."""
    edm = EdmGaussianModel(model.means, model.variances)
    errors, gaps = [], []
    for steps in (50, 500):
        t = edm.schedule.times(steps)[int(0.7 * steps)].item()
        x_0, x_t, back, cond = round_trip(edm, steps, t)
        errors.append((back - x_0).abs().mean().item())
        gaps.append(((x_t - edm.exact_latent(x_0, t, cond)).abs().mean() / t).item())
    assert errors[1] < errors[0] / 5
    assert errors[1] < 0.01
    assert gaps[1] < gaps[0] / 5
    single = EdmGaussianModel(model.means.float(), model.variances.float())
    settings = SpectrumConfig(layer="x_0", num_directions=4, max_products=4)
    found = leading_triplets(
        single, torch.randn(1, 4), 1.5, single.cond(torch.tensor([0])), settings, [torch.Generator()]
    )
    expected = (model.variances / (model.variances + 1.5**2)).sort(descending=True).values.float()
    torch.testing.assert_close(found.singular_values[0], expected, rtol=2e-5, atol=1e-5)


def test_sigma_grid_is_the_published_one() -> None:
    times = SigmaSchedule().times(18)
    assert times[:2].tolist() == pytest.approx([0.0, 0.002])
    assert times[-3:].tolist() == pytest.approx([40.7856, 57.586, 80.0], rel=1e-5)
    assert torch.equal(path_to(times, 57.586), times[:-1])
    with pytest.raises(ValueError, match=r"time 50 is not on the sampling grid; nearest: \[40\.78557, 57\.58598\]"):
        path_to(times, 50.0)
    with pytest.raises(ValueError, match=r"81\.0 is no noise scale; valid: 0 \(clean\) to 80"):
        SigmaSchedule().alpha_sigma(torch.tensor([81.0]))


def test_projection_is_idempotent_and_removes_the_directions() -> None:
    generator = torch.Generator().manual_seed(1)
    basis = torch.linalg.qr(torch.randn(3, 40, 6, generator=generator))[0].mT
    x = torch.randn(3, 40, generator=generator)
    once = project_out(x, leading(basis, torch.tensor([1, 4, 6])))
    for sample, k in enumerate((1, 4, 6)):
        assert (basis[sample, :k] @ once[sample]).abs().max() <= 1e-5 * x[sample].norm()
    torch.testing.assert_close(project_out(once, leading(basis, torch.tensor([1, 4, 6]))), once, atol=1e-5, rtol=0)
    torch.testing.assert_close(project_out(x, leading(basis, torch.tensor([0, 0, 0]))), x)


def test_clarid_end_to_end_on_the_closed_form(model: GaussianModel) -> None:
    """eps output at t = 200: the top direction is the lowest-variance coordinate, and Eq. 2 flattens it."""
    config = override(
        ExtractConfig(),
        {
            "spectrum.layer": "eps",
            "spectrum.num_directions": 4,
            "spectrum.max_products": 4,
            "elbow.rule": "fixed",
            "elbow.num_removed": 1,
            "inversion.num_steps": 500,
            "inversion.project_t": 200,
            "decoding.guidance_scale": 1.0,
            "features.layer": "eps",
            "output.extras": ("reconstruction", "centred@1", "random@1"),
        },
    )
    single = GaussianModel(model.means.float(), model.variances.float())
    labels = torch.arange(6) % 2
    x_0 = single.cond(labels) + single.variances.sqrt() * torch.randn(6, 4, generator=torch.Generator().manual_seed(2))
    batch = clarid(single, x_0, labels, config, [f"s{i}" for i in range(6)])
    assert batch.status == ["ok"] * 6
    alpha, sigma = single.scales(200.0)
    shift = 1 - (alpha**2 * 0.0625 / (alpha**2 * 0.0625 + sigma**2)) ** 0.5
    torch.testing.assert_close(
        batch.canonical_samples[:, 3], single.means[labels, 3] * shift, atol=0.02, rtol=0, check_dtype=False
    )
    torch.testing.assert_close(batch.canonical_samples[:, :3], x_0[:, :3], atol=0.05, rtol=0)
    torch.testing.assert_close(batch.extras["centred@1"][0][:, 3], single.means[labels, 3], atol=0.02, rtol=0)
    torch.testing.assert_close(batch.extras["reconstruction"][0], x_0, atol=0.05, rtol=0)
    assert batch.inversion.round_trip_error.max() < 0.02
