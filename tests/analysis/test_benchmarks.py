"""Benchmarks of products, sampling and the whole extraction, at their smallest: real figures in every cell."""

import re
from functools import partial
from typing import Any

import jaxtyping
import pytest
import torch

from clarep_ray import models
from clarep_ray.analysis import products_benchmark, reference_benchmark, sampling_benchmark
from clarep_ray.clarid.jacobian import FeatureJacobian
from clarep_ray.config import ModelConfig, ProductsBenchmarkConfig, ReferenceBenchmarkConfig, SamplingBenchmarkConfig
from clarep_ray.dotted import override
from clarep_ray.measured import Table
from clarep_ray.presets import EXTRACT

SMALL = override(EXTRACT["digits_smoke"]().config, {"engine.micro_batch": 2})


def rows(tables: list[Table]) -> list[dict[str, Any]]:
    (table,) = tables
    return table.records()


def test_products_are_counted_in_forward_passes() -> None:
    config = ProductsBenchmarkConfig(samples=(2,), vectors=(1, 3), num_repeats=2)
    found = rows(products_benchmark.run(config))
    assert [(row["samples"], row["vectors"]) for row in found] == [(2, 1), (2, 3)]
    for row in found:
        for ratio in (row.pop("autograd / ours"), row.pop("one by one / ours")):
            assert 0 < ratio["low"] <= ratio["value"] <= ratio["high"] < 1000
        assert all(0 < cell < 1000 for cell in row.values())


def test_the_three_ways_of_a_product_agree() -> None:
    model = models.build(ModelConfig())
    x_t, cond = torch.randn(2, *model.latent_shape), model.cond(torch.tensor([1, 2]))
    features = partial(model.features, t=600.0, cond=cond, layer=model.feature_layers[-1])
    tangents = torch.randn(2, 3, x_t[0].numel())
    theirs = products_benchmark._AutogradsOwn(features, x_t).gram(tangents.transpose(0, 1).reshape(3, *x_t.shape))
    torch.testing.assert_close(
        FeatureJacobian(features, x_t).gram(tangents), theirs.flatten(2).transpose(0, 1), rtol=1e-4, atol=1e-4
    )


@pytest.mark.nightly
def test_the_finest_grid_is_the_truth_and_coarser_ones_move_away() -> None:
    config = SamplingBenchmarkConfig(
        num_samples=4, num_steps=(5, 20), solvers=("ddim", "dpmpp_2m"), log_snr_steps=(12,), limit_steps=40
    )
    truth, seed, coarse, plain, *_, even = rows(sampling_benchmark.run(config, SMALL))
    assert truth["pixels moved"] == truth["feature moved"] == 0
    assert (seed["solver"], seed["feature moved"] > 0) == ("ddim, another seed", True)
    # Four steps up, four back, four down, guided.
    assert (coarse["solver"], coarse["steps"], coarse["t_e"], coarse["evaluations"]) == ("ddim", 5, 600.0, 16)
    assert coarse["pixels moved"] > seed["pixels moved"]
    assert coarse["pixels off"] > truth["pixels off"] > even["pixels off"] > 0
    assert (plain["solver"], plain["evaluations"]) == ("ddim, log_snr", 48)
    assert (even["solver"], even["evaluations"]) == ("dpmpp_2m, log_snr", 48)
    assert plain["pixels off"] > even["pixels off"]


def test_the_nearest_time_of_a_grid_is_noisy() -> None:
    assert sampling_benchmark.nearest(torch.tensor([0.0, 100, 300]), 10) == 100


def test_both_ways_of_extraction_are_measured_on_the_same_pictures() -> None:
    config = ReferenceBenchmarkConfig(num_samples=2, num_reference=1, num_repeats=1)
    ours, plain = rows(reference_benchmark.run(config, SMALL))
    speed = "images/s of CPU time"
    assert ours[speed]["value"] > plain[speed]["value"] > 0
    assert ours["times as fast"]["value"] == pytest.approx(ours[speed]["value"] / plain[speed]["value"])
    assert plain["times as fast"]["value"] == 1
    assert (ours["same k"] in ("0/1", "1/1"), plain["same k"]) == (True, None)
    with pytest.raises(ValueError, match="num_reference: 3 is not valid; valid: 1 up to num_samples"):
        ReferenceBenchmarkConfig(num_samples=2, num_reference=3)
    with pytest.raises(
        ValueError, match="limit_steps: 100 is not valid; valid: more than 100, the finest of the others"
    ):
        SamplingBenchmarkConfig(limit_steps=100)
    with pytest.raises(ValueError, match=r"num_steps: \(20, 5\) is not valid; valid: 2 and more, ascending"):
        SamplingBenchmarkConfig(num_steps=(20, 5))


@pytest.mark.nightly
def test_compiled_an_extraction_is_measured_beside_ours_and_the_straightforward_way() -> None:
    jaxtyping.config.update("jaxtyping_disable", True)  # no compiler follows the checks that tests add
    try:
        config = ReferenceBenchmarkConfig(num_samples=4, num_reference=1, num_repeats=2, compile=True)
        (table,) = reference_benchmark.run(config, SMALL)
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
    ours, compiled, plain = table.records()
    assert [ours["way"], compiled["way"]] == ["ours, micro-batches of 2", "the same, compiled"]
    assert compiled["images/s of CPU time"]["low"] > plain["images/s of CPU time"]["high"]
    assert compiled["same k"] == ours["same k"]
    assert re.fullmatch(r"Compiled: \d\.\d\d \(\d\.\d\d to \d\.\d\d\) times ours\.", table.notes[1])
