"""Two-stage sampling against what it must equal at its two ends, and the times a calibration tries."""

import pytest
import torch

from clarep_ray.clarid.calibration import nearest_time, neighbour_times, spread_times, two_stage
from clarep_ray.clarid.sampling import decode, guided_eps
from clarep_ray.clarid.schedule import SigmaSchedule, linear_schedule, path_to
from tests.oracles import GaussianModel

LABELS = torch.tensor([0, 1, 1])
STEPS = 20


@pytest.fixture(scope="module")
def model() -> GaussianModel:
    means = torch.tensor([[4.0, 0.0, 1.0], [-4.0, 2.0, 1.0]], dtype=torch.float64)
    return GaussianModel(means, torch.tensor([1.0, 0.25, 0.5], dtype=torch.float64))


@pytest.fixture(scope="module")
def noise() -> torch.Tensor:
    return torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_every_switch_is_a_path_of_its_own(model: GaussianModel, noise: torch.Tensor) -> None:
    """Sharing the unconditional path changes nothing: without the class above, with it below."""
    grid = model.schedule.times(STEPS)
    found = dict(two_stage(model, LABELS, noise, STEPS, (200.0, 950.0, 500.0)))
    assert list(found) == [950.0, 500.0, 200.0]
    for switch, latents in found.items():
        below = path_to(grid, switch)
        without = guided_eps(model, model.null_cond(3), None, 1.0)
        x_t = decode(without, noise, model, grid[len(below) - 1 :])
        expected = decode(guided_eps(model, model.cond(LABELS), None, 1.0), x_t, model, below)
        torch.testing.assert_close(latents, expected)


def test_the_class_shows_only_where_it_was_known_for_long_enough(model: GaussianModel, noise: torch.Tensor) -> None:
    found = dict(two_stage(model, LABELS, noise, STEPS, (0.0, 950.0)))
    distance = {t: (latents - model.means[LABELS])[:, 0].abs().mean().item() for t, latents in found.items()}
    assert distance[950.0] < 1.0 < 3.0 < distance[0.0]


def test_guidance_is_the_second_stage_s_alone(model: GaussianModel, noise: torch.Tensor) -> None:
    plain, guided = (dict(two_stage(model, LABELS, noise, STEPS, (950.0,), scale))[950.0] for scale in (1.0, 3.0))
    null = decode(guided_eps(model, model.null_cond(3), None, 1.0), noise, model, model.schedule.times(STEPS))
    assert ((guided - null)[:, 0].abs() > (plain - null)[:, 0].abs()).all()


def test_a_time_off_the_grid_is_refused(model: GaussianModel, noise: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"time 123 is not on the sampling grid; nearest: \[100\.0, 150\.0\]"):
        list(two_stage(model, LABELS, noise, STEPS, (123.0,)))


def test_candidate_times_lie_on_the_grid() -> None:
    grid = linear_schedule().times(50)
    assert spread_times(grid, 5) == (180.0, 380.0, 580.0, 780.0, 980.0)
    assert spread_times(grid, 99) == tuple(grid[1:].tolist())
    assert neighbour_times(grid, 600.0, 0.2) == (400.0, 600.0, 800.0)
    assert neighbour_times(grid, 900.0, 0.2) == (700.0, 900.0)
    assert nearest_time(linear_schedule().times(100), 600.0) == 600.0
    sigmas = SigmaSchedule().times(18)
    assert neighbour_times(sigmas, sigmas[9].item(), 0.2) == tuple(sigmas[[5, 9, 13]].tolist())
    assert nearest_time(sigmas, 1000.0) == 80.0
