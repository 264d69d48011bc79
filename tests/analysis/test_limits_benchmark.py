"""What work asks for is counted as by hand, a bound is the slowest resource, and every stage has a row."""

from collections import Counter
from collections.abc import Callable

import pytest
import torch

from clarep_ray import models
from clarep_ray.analysis import roofline
from clarep_ray.analysis.limits_benchmark import COLUMNS, limit_rows, run
from clarep_ray.analysis.roofline import Ceilings, Counting, Counts, Stages
from clarep_ray.clarid.jacobian import FeatureJacobian
from clarep_ray.config import LimitsBenchmarkConfig
from clarep_ray.models.full_size import FULL_SIZE


def counted(work: Callable[[], object]) -> Counts:
    with Counting() as counting:
        work()
    return counting.take()


def test_a_product_reads_both_factors_and_writes_its_result() -> None:
    a, b = torch.ones(3, 4), torch.ones(4, 5)
    found = counted(lambda: a @ b)
    assert (found.operators, found.flops) == (1, 2 * 3 * 4 * 5)
    assert found.moved == {4 * (12 + 20 + 15): 1}


def test_views_move_nothing_and_an_expanded_tensor_is_read_once() -> None:
    a = torch.ones(4, 1)
    assert counted(lambda: a.mT.reshape(2, 2)).moved_bytes == 0
    wide = a.expand(4, 100)
    assert counted(lambda: wide.neg()).moved_bytes == 4 * (4 + 400)


def test_in_place_and_given_results_are_written() -> None:
    a, b, out = torch.ones(10), torch.ones(10), torch.empty(10)
    assert counted(lambda: a.add_(b)).moved_bytes == 4 * 30
    assert counted(lambda: torch.add(a, b, out=out)).moved_bytes == 4 * 30
    assert counted(lambda: torch.empty(10)).moved_bytes == 0


def test_products_with_a_jacobian_are_counted_below_vmap_and_autograd() -> None:
    weights, x_t = torch.randn(3, 4), torch.randn(2, 3)
    jacobian = FeatureJacobian(lambda x: torch.tanh(x @ weights), x_t)
    assert counted(lambda: jacobian.matvec(torch.randn(2, 5, 3))).flops == 2 * (2 * 5) * 3 * 4
    assert counted(lambda: jacobian.rmatvec(torch.randn(2, 5, 4))).flops == 2 * (2 * 5) * 3 * 4


def test_bounds_take_each_operator_at_the_memory_speed_of_its_size() -> None:
    ceilings = Ceilings(flops_per_s=1e9, bytes_per_s={100: 10.0, 1000: 5.0}, operator_s=1e-3)
    found = ceilings.bounds(Counts(3, 2_000_000_000, Counter({50: 2, 500: 1, 5000: 1})))
    assert found == {"arithmetic": 2.0, "memory": 100 / 10 + 500 / 5 + 5000 / 5, "dispatch": pytest.approx(3e-3)}


def test_what_is_inside_another_stage_is_not_the_outer_ones() -> None:
    readings = iter([100.0, 1.0, 20.0, 3.0, 400.0, 5.0])
    stages = Stages(lambda: next(readings))
    with stages("outer"), stages("inner"):
        pass
    with stages("inner"):
        pass
    assert stages.found == {"outer": [1.0, 3.0], "inner": [20.0, 5.0]}


def test_the_limit_is_the_resource_that_alone_takes_longest() -> None:
    ceilings = Ceilings(1e9, {100: 1e3}, 1e-2)
    seconds = {"products": [4.0, 8.0, 5.0], "commit": [1.0, 1.0, 2.0]}
    counts = {"products": Counts(10, 2_500_000_000, Counter({100: 10})), "commit": Counts()}
    products, commit, whole = (
        dict(zip(COLUMNS, row, strict=True)) for row in limit_rows(seconds, counts, ceilings, {"commit": ("disk", 0.5)})
    )
    assert (products["limit"], products["reached"]) == ("arithmetic", 0.5)
    assert (products["arithmetic, s"], products["memory, s"], products["dispatch, s"]) == (2.5, 1.0, pytest.approx(0.1))
    assert (commit["limit"], commit["reached"]) == ("disk", 0.5)
    assert whole["reached"] == pytest.approx(3.0 / 7.0), "of the middle turn: 5, 9 and 7 s"


@pytest.mark.parametrize("name", ["digits_dit", "stable_diffusion"])
def test_every_stage_of_a_batch_has_a_row(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "TRIADS", (2**16, 2**18))
    monkeypatch.setitem(FULL_SIZE, "dit_xl", lambda depth: models.build_tiny(name))
    (table,) = run(LimitsBenchmarkConfig(model="dit_xl", micro_batch=2, num_steps=5, num_directions=3, num_repeats=1))
    rows = {str(row["stage"]): row for row in table.records()}
    assert len(rows) == 12
    assert sum(row["share of the batch"] for row in rows.values()) == pytest.approx(2.0), "the last row is all of it"  # type: ignore[misc]
    assert all(row["reached"] > 0 for row in rows.values())  # type: ignore[operator]
    there_and_back, guided = rows["invert and check"], rows["decode with guidance"]
    assert there_and_back["GFLOP"] == guided["GFLOP"] > 0, "both take two evaluations a step"
    assert (rows["PNG and shard"]["limit"], rows["commit"]["limit"]) == ("zlib", "disk")
    assert (rows["decode to pixels"]["GFLOP"] > 0) == (name == "stable_diffusion"), "of its VAE"  # type: ignore[operator]
