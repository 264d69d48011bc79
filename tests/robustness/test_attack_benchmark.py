"""The benchmark of our attacks beside the torchattacks loop: one line per budget and attack, both verdicts in it."""

from typing import Any

import pytest

from clarep_ray.config import AttackBenchmarkConfig
from clarep_ray.robustness.attack_benchmark import run


def test_both_are_measured_at_the_same_budget() -> None:
    names = ("pgd", "square")
    config = AttackBenchmarkConfig(
        num_samples=12, num_repeats=1, batch_size=6, eps_255=(24.0,), num_steps=3, num_queries=4, names=names
    )
    (table,) = run(config)
    rows: list[dict[str, Any]] = table.records()
    assert [(row["eps"], row["attack"]) for row in rows] == [(24.0, name) for name in names]
    for row in rows:
        assert min(row["robust"], row["torchattacks, robust"]) >= 0
        assert max(row["robust"], row["torchattacks, robust"]) <= 1
        speeds = row["samples/s"] / row["torchattacks, samples/s"]
        assert row["ratio"] == {
            "value": pytest.approx(speeds),
            "low": pytest.approx(speeds),
            "high": pytest.approx(speeds),
        }


def test_what_it_cannot_measure_is_named() -> None:
    with pytest.raises(ValueError, match="names: 'autoattack' is not valid; valid: pgd, cw"):
        AttackBenchmarkConfig(names=("autoattack",))
    with pytest.raises(ValueError, match=r"eps_255: \(0\.0,\) is not valid"):
        AttackBenchmarkConfig(eps_255=(0.0,))
