"""Explained variance and the elbow: rules, fallbacks and the margin that says how close a decision was."""

import numpy as np
import pytest
import torch
from kneed import KneeLocator

from clarep_ray.clarid.directions import explained_variance_ratio, find_elbow
from clarep_ray.config import ElbowConfig


def random_spectra(count: int, length: int, seed: int = 0) -> list[torch.Tensor]:
    rng = np.random.default_rng(seed)
    drops = rng.exponential(size=(count, length)) * np.exp(-np.arange(length) / rng.uniform(2, length, (count, 1)))
    squares = np.cumsum(drops[:, ::-1], axis=1)[:, ::-1] + rng.uniform(0, 3, (count, 1))
    return list(explained_variance_ratio(torch.tensor(np.sqrt(squares.copy()))))


def test_explained_variance_sums_to_one_and_ignores_scale() -> None:
    values = torch.tensor([[3.0, 2.0, 1.0], [30.0, 20.0, 10.0]])
    ratios = explained_variance_ratio(values)
    torch.testing.assert_close(ratios.sum(1), torch.ones(2, dtype=torch.float64))
    torch.testing.assert_close(ratios[0], ratios[1])
    torch.testing.assert_close(ratios[0], torch.tensor([9.0, 4.0, 1.0], dtype=torch.float64) / 14)


def test_kneed_is_what_kneed_says_and_none_falls_back_to_the_chord() -> None:
    methods = set()
    for evr in random_spectra(300, 20) + random_spectra(100, 4, seed=1):
        found = find_elbow(evr, ElbowConfig())
        knee = KneeLocator(range(1, len(evr) + 1), evr.numpy(), curve="convex", direction="decreasing").knee
        methods.add(found.method)
        if knee is None:
            assert found.method == "chord_fallback"
            assert found.num_removed == find_elbow(evr, ElbowConfig(rule="chord")).num_removed
        else:
            assert (found.method, found.num_removed) == ("kneed", knee)
    assert methods == {"kneed", "chord_fallback"}


@pytest.mark.parametrize("rule", ["kneed", "chord"])
@pytest.mark.parametrize("length", [4, 6, 20])
def test_perturbations_below_the_margin_never_change_k(rule: str, length: int) -> None:
    """The margin is in units of EVR_1; a decision compares sums of at most four perturbed values."""
    rng = np.random.default_rng(3)
    changed_above = 0
    for evr in random_spectra(150, length, seed=4):
        found = find_elbow(evr, ElbowConfig(rule=rule))  # type: ignore[arg-type]
        for scale in (0.24, 8.0):
            for _ in range(20):
                noise = torch.tensor(rng.choice([-1.0, 1.0], len(evr))) * found.margin * scale * evr[0]
                moved = find_elbow((evr + noise).clamp_min(1e-12), ElbowConfig(rule=rule))  # type: ignore[arg-type]
                if scale < 1:
                    assert (moved.num_removed, moved.method) == (found.num_removed, found.method)
                else:
                    changed_above += moved.num_removed != found.num_removed
    assert changed_above > 0, "the margin would be vacuous if no perturbation ever changed k"


def test_fixed_rule_and_degenerate_curves() -> None:
    flat = torch.full((10,), 0.1, dtype=torch.float64)
    assert find_elbow(flat, ElbowConfig()).method == "degenerate"
    assert find_elbow(flat, ElbowConfig(rule="fixed", num_removed=4)).num_removed == 4
    assert find_elbow(flat[:2], ElbowConfig()).num_removed == 1
