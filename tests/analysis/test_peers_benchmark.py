"""Every peer finds the leading triplets of an operator with a known spectrum, and its cost is counted."""

from typing import Any

import pytest
import torch

from clarep_ray.analysis import peers_benchmark
from clarep_ray.analysis.svd_peers import SOLVERS, Problem
from clarep_ray.config import SOLVER_NAMES, PeersBenchmarkConfig

DIM, COUNT = 60, 6
SQUARES = 100.0 * 0.7 ** torch.arange(DIM, dtype=torch.float64)
TURN = torch.linalg.qr(torch.randn(DIM, DIM, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0]
MATRIX = (TURN * SQUARES) @ TURN.mT


@pytest.mark.parametrize("name", SOLVER_NAMES)
def test_leading_triplets_of_a_known_operator(name: str) -> None:
    problem = Problem(lambda v: (v.double() @ MATRIX).float(), DIM, COUNT, seed=1, least=float(SQUARES[COUNT - 1]))
    found = SOLVERS[name](problem)
    tolerance = 2e-2 if name.endswith("1 power iteration") else 1e-3
    assert found.values.double() == pytest.approx(SQUARES[:COUNT].sqrt(), rel=tolerance)
    assert (found.vectors.double() @ TURN[:, :COUNT]).diagonal().abs().min() > 1 - tolerance


def test_the_solvers_that_can_be_named_are_those_that_there_are() -> None:
    assert tuple(SOLVERS) == SOLVER_NAMES
    with pytest.raises(ValueError, match="solvers: 'LAPACK' is not valid; valid: block Lanczos"):
        PeersBenchmarkConfig(solvers=(SOLVER_NAMES[0], "LAPACK"))


def test_products_and_rounds_are_counted_per_sample() -> None:
    names = ("block Lanczos (ours)", "randomised SVD, 3 power iterations")
    (table,) = peers_benchmark.run(PeersBenchmarkConfig(solvers=names, num_samples=1, windows=(4,), num_steps=5))
    rows: list[dict[str, Any]] = table.records()
    ours, randomised = rows
    assert (randomised["solver"], randomised["M"], randomised["products"], randomised["rounds"]) == (names[1], 4, 56, 4)
    assert ours["products"] == 4 * ours["rounds"]
    assert ours["worst s error"] < 1e-3
    assert ours["same k"] == "1/1"
    assert ours["x ours"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert randomised["x ours"]["value"] == pytest.approx(randomised["wall s"] / ours["wall s"])


def test_where_nothing_is_exact_residuals_and_our_k_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers_benchmark, "DENSE_UP_TO", 0)
    names = ("block Lanczos (ours)", "randomised SVD, 1 power iteration")
    (table,) = peers_benchmark.run(PeersBenchmarkConfig(solvers=names, num_samples=1, windows=(4,), num_steps=5))
    ours, randomised = table.records()
    assert ours["worst s error"] is ours["worst s error to k"] is randomised["worst s error"] is None
    assert 0 < ours["worst residual to k"] <= 5e-3 < randomised["worst residual to k"]
    assert ours["same k"] == "1/1"
    assert "no exact values at this size: k beside ours" in table.notes[0]
