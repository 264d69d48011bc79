"""The benchmark of training steps: every method beside vanilla and its floor, from real steps."""

from pathlib import Path
from typing import Any

from clarep_ray.cadistill import step_benchmark
from clarep_ray.cadistill.step_benchmark import FLOOR, run
from clarep_ray.config import DistillBenchmarkConfig
from tests.cadistill.small import small_config


def test_every_method_has_a_row_and_ratios_to_vanilla(files: Path) -> None:
    config = DistillBenchmarkConfig(
        methods=("cadistill", "supcon"), clareps=str(files / "clareps"), num_steps=2, num_repeats=1
    )
    (table,) = run(config, small_config(files))
    rows: dict[Any, dict[str, Any]] = {row["method"]: row for row in table.records()}
    assert list(rows) == ["vanilla", "cadistill", "supcon", FLOOR]
    same = {"value": 1.0, "low": 1.0, "high": 1.0}
    assert rows["vanilla"]["over vanilla"] == rows[FLOOR]["over twice vanilla"] == same
    for row in rows.values():
        assert min(row["step, ms"], row["images/s"], row["loader images/s"], row["loader / step"]["low"]) > 0


def test_a_step_takes_the_whole_batch_through_the_student(files: Path) -> None:
    training = step_benchmark._Training(small_config(files, "cadistill"))
    seen = []
    training.learner.register_forward_pre_hook(lambda _, arguments: seen.append(len(arguments[0])))
    found = training.measure(3)
    size = training.config.schedule.batch_size
    assert found.images == size
    assert seen == [2 * size] * (3 + step_benchmark.WARM_UP)
