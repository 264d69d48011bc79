"""The benchmark of our attacks beside the torchattacks loop: one line per budget and attack, both verdicts in it."""

import pytest

from clarep_ray.config import AttackBenchmarkConfig
from clarep_ray.robustness.attack_benchmark import HEADER, run


def test_both_are_measured_at_the_same_budget() -> None:
    names = ("pgd", "square")
    config = AttackBenchmarkConfig(
        num_samples=12, num_repeats=1, batch_size=6, eps_255=(24.0,), num_steps=3, num_queries=4, names=names
    )
    _, _, *lines = run(config).splitlines()
    assert len(lines) == 2
    for line, name in zip(lines, names, strict=True):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert len(cells) == len(HEADER)
        assert cells[:2] == ["24", name]
        assert all(0 <= float(cell) <= 1 for cell in cells[5:7])


def test_what_it_cannot_measure_is_named() -> None:
    with pytest.raises(ValueError, match="names: 'autoattack' is not valid; valid: pgd, cw"):
        AttackBenchmarkConfig(names=("autoattack",))
    with pytest.raises(ValueError, match=r"eps_255: \(0\.0,\) is not valid"):
        AttackBenchmarkConfig(eps_255=(0.0,))
