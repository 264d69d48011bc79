"""Benchmarks of products, sampling and the whole extraction, at their smallest: real figures in every cell."""

import pytest
import torch

from clarep_ray.analysis import products_benchmark, reference_benchmark, sampling_benchmark
from clarep_ray.config import ProductsBenchmarkConfig, ReferenceBenchmarkConfig, SamplingBenchmarkConfig
from clarep_ray.dotted import override
from clarep_ray.presets import EXTRACT

SMALL = override(EXTRACT["digits_smoke"]().config, {"engine.micro_batch": 2})


def rows(table: str) -> list[list[str]]:
    return [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("|")]


def test_products_are_counted_in_forward_passes() -> None:
    header, _, *lines = rows(
        products_benchmark.run(ProductsBenchmarkConfig(samples=(2,), vectors=(1, 3), num_repeats=1))
    )
    assert tuple(header) == products_benchmark.HEADER
    assert [line[:2] for line in lines] == [["2", "1"], ["2", "3"]]
    assert all(0 < float(cell) < 1000 for line in lines for cell in line[2:])


def test_the_finest_grid_is_the_truth_and_coarser_ones_move_away() -> None:
    config = SamplingBenchmarkConfig(num_samples=4, num_steps=(5, 20), solvers=("ddim",), limit_steps=40)
    header, _, truth, seed, coarse = rows(sampling_benchmark.run(config, SMALL))
    assert tuple(header) == sampling_benchmark.HEADER
    found = {line[0]: dict(zip(header, line, strict=True)) for line in (truth, seed)}
    assert float(found["ddim"]["pixels moved"]) == float(found["ddim"]["feature moved"]) == 0
    assert float(found["ddim, another seed"]["feature moved"]) > 0
    assert coarse[:4] == ["ddim", "5", "600", "16"]  # four steps up, four back, four down, guided
    assert float(coarse[4]) > float(found["ddim, another seed"]["pixels moved"])
    assert float(coarse[6]) > float(found["ddim"]["pixels off"]) > 0


def test_the_nearest_time_of_a_grid_is_noisy() -> None:
    assert sampling_benchmark.nearest(torch.tensor([0.0, 100, 300]), 10) == 100


def test_both_ways_of_extraction_are_measured_on_the_same_pictures() -> None:
    config = ReferenceBenchmarkConfig(num_samples=2, num_reference=1)
    _, _, ours, plain = rows(reference_benchmark.run(config, SMALL))
    assert float(ours[1]) > float(plain[1]) > 0
    assert plain[2] in ("0/1", "1/1")
    with pytest.raises(ValueError, match="num_reference: 3 is not valid; valid: 1 up to num_samples"):
        ReferenceBenchmarkConfig(num_samples=2, num_reference=3)
    with pytest.raises(
        ValueError, match="limit_steps: 100 is not valid; valid: more than 100, the finest of num_steps"
    ):
        SamplingBenchmarkConfig(limit_steps=100)
    with pytest.raises(ValueError, match=r"num_steps: \(20, 5\) is not valid; valid: 2 and more, ascending"):
        SamplingBenchmarkConfig(num_steps=(20, 5))
