"""The benchmark of training steps: every method beside vanilla and its floor, from real steps."""

from pathlib import Path

from clarep_ray.cadistill import step_benchmark
from clarep_ray.cadistill.step_benchmark import FLOOR, HEADER, run
from clarep_ray.config import DistillBenchmarkConfig
from tests.cadistill.small import small_config


def test_every_method_has_a_row_and_ratios_to_vanilla(files: Path) -> None:
    config = DistillBenchmarkConfig(
        methods=("cadistill", "supcon"), clareps=str(files / "clareps"), num_steps=2, num_repeats=1
    )
    rows = [line.strip("| ").split(" | ") for line in run(config, small_config(files)).splitlines()]
    assert tuple(rows[0]) == HEADER
    assert [row[0] for row in rows[2:]] == ["vanilla", "cadistill", "supcon", FLOOR]
    figures = {row[0]: [float(cell) for cell in row[1:]] for row in rows[2:]}
    assert figures["vanilla"][4] == figures[FLOOR][5] == 1
    for step, images, loader, ratio, _, _ in figures.values():
        assert min(step, images, loader, ratio) > 0


def test_a_step_takes_the_whole_batch_through_the_student(files: Path) -> None:
    training = step_benchmark._Training(small_config(files, "cadistill"))
    seen = []
    training.learner.register_forward_pre_hook(lambda _, arguments: seen.append(len(arguments[0])))
    found = training.measure(3)
    size = training.config.schedule.batch_size
    assert found.images == size
    assert seen == [2 * size] * (3 + step_benchmark.WARM_UP)
