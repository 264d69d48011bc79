"""The two-dimensional proof of concept: where the claim holds, where it fails (bars B)."""

import pytest
import torch

from clarep_ray.clarid.toy import ToyOutcome, distance_to_segment, draw_points, run_method, train_toy
from clarep_ray.config import ToyConfig
from clarep_ray.seeding import torch_generator

SEEDS = (0, 1, 2)


def outcomes(config: ToyConfig, *methods: tuple[str, str, float]) -> list[dict[tuple[str, str, float], ToyOutcome]]:
    found = []
    for seed in SEEDS:
        model = train_toy(config, seed)
        labels = torch.ones(300, dtype=torch.long)
        points = draw_points(labels, config.height, torch_generator(seed, "toy", "test"))
        found.append({method: run_method(model, points, *method, config) for method in methods})
    return found


ORIGINAL, GUIDANCE, RANDOM = ("original", "-", 200.0), ("guidance", "-", 200.0), ("random_centred", "-", 200.0)
EARLY, LATE = ("clarid_centred", "eps", 100.0), ("clarid", "second", 600.0)


def test_the_claim_holds_at_the_right_layer_and_time_and_fails_elsewhere() -> None:
    for found in outcomes(ToyConfig(), ORIGINAL, GUIDANCE, RANDOM, EARLY, LATE):
        assert found[EARLY].distance <= found[ORIGINAL].distance / 3
        assert found[EARLY].correlation >= 0.94
        assert found[EARLY].points[:, 0].std() >= 0.5
        assert found[RANDOM].distance >= 0.095
        assert found[GUIDANCE].distance >= 0.14
        assert abs(found[LATE].correlation) < 0.65, "the last hidden layer erases the class content"


@pytest.mark.nightly
def test_without_centring_eq_2_assumes_a_core_through_the_origin() -> None:
    found = outcomes(ToyConfig(height=1.0, num_steps=1500), ORIGINAL, ("clarid", "eps", 200.0))
    for seed in found:
        assert seed["clarid", "eps", 200.0].distance > seed[ORIGINAL].distance


def test_distance_to_the_segment() -> None:
    points = torch.tensor([[1.0, 0.0], [1.0, -2.0], [3.5, 0.0], [-0.5, 1.0]])
    expected = torch.tensor([0.0, 2.0, 1.0, 2**0.5])
    torch.testing.assert_close(distance_to_segment(points, 1, 0.0), expected)


def test_an_unknown_method_is_an_error() -> None:
    config = ToyConfig(num_steps=1)
    points = draw_points(torch.ones(3, dtype=torch.long), 0.0, torch_generator(0, "a", "b"))
    with pytest.raises(ValueError, match="'magic' is unknown"):
        run_method(train_toy(config, 0), points, "magic", "eps", 200.0, config)
