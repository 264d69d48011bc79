"""Search spaces: what is refused before anything starts, and that draws are what they were."""

import json
from pathlib import Path
from typing import Any

import pytest

from clarep_ray.cluster.sweep_space import check_space, draw, fields_of, holds, planned_points, read_space
from clarep_ray.cluster.sweep_tune import decoded, distributions, encoded
from clarep_ray.config import ExtractConfig, Range, SearchConfig
from clarep_ray.presets import CADISTILL_SWEEPS, CLARID_SWEEPS, DISTILL, EXTRACT
from clarep_ray.seeding import numpy_generator

SPACE = ({"elbow.num_removed": (1, 2, 3), "decoding.guidance_scale": Range(1.0, 8.0, log=True)},)


def searching(method: str = "random", **changes: Any) -> SearchConfig:
    return SearchConfig(method=method, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"),
        ("3", "holds no space"),
        ('{"elbow.rule": "kneed"}', r"elbow\.rule: 'kneed' is not valid; valid: \[values\]"),
        ('{"elbow.num_removed": {"low": 1}}', "is not valid; valid"),
        ('{"elbow.num_removed": {"low": 3, "high": 1}}', "low below high"),
        ('{"elbow.num_removed": {"low": 0, "high": 1, "log": true}}', "a low above 0 where log is true"),
        ('{"elbow.rules": ["kneed"]}', r"unknown config field 'elbow\.rules'; valid: model\.name,"),
        ('{"elbow.rule": ["chords"]}', r"elbow\.rule: 'chords' is not valid; valid: kneed, chord, fixed"),
        ('{"elbow.num_removed": [1.5]}', r"elbow\.num_removed: 1\.5 is not valid; valid: int"),
        ('{"elbow.num_removed": []}', r"elbow\.num_removed: \(\) is not valid; valid: one value or more"),
        ('{"elbow.num_removed": {"low": 1, "high": 3}}', "valid: a list of values"),
        ('{"engine.num_actors": [1, 2]}', r"'engine\.num_actors' is not swept"),
        ('{"data.seed": [1, 2]}', r"'data\.seed' is not swept; .*--search\.seeds"),
        ('{"output.extras": [["original"]]}', r"'output\.extras' is not swept"),
        ("{}", "one field and more in every block"),
        ("[]", "one field and more in every block"),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "space.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        check_space(read_space(str(tmp_path / "space.json")), ExtractConfig(), searching("grid"))


def test_a_space_from_a_file_has_the_types_of_its_fields(tmp_path: Path) -> None:
    path = tmp_path / "space.json"
    path.write_text('[{"data.classes": [["3"], ["3", "7"]], "decoding.guidance_scale": [1, 2.5]}]')
    space = read_space(str(path))
    check_space(space, ExtractConfig(), searching("grid"))
    points = planned_points(space, searching("grid"))
    assert points[-1] == {"data.classes": ("3", "7"), "decoding.guidance_scale": 2.5}
    assert len(points) == 4


def test_a_grid_is_the_union_of_its_blocks_without_doubles() -> None:
    space = ({"elbow.num_removed": (1, 2)}, {"elbow.num_removed": (2, 3), "elbow.rule": ("fixed",)})
    assert len(planned_points((*space, space[0]), searching("grid"))) == 4
    assert fields_of(space) == ("elbow.num_removed", "elbow.rule")


def test_random_points_follow_from_the_seed_and_more_of_them_hold_the_fewer() -> None:
    first = planned_points(SPACE, searching(num_trials=8))
    assert first == planned_points(SPACE, searching(num_trials=8))
    assert planned_points(SPACE, searching(num_trials=12))[:8] == first
    assert planned_points(SPACE, searching(num_trials=8, sampler_seed=1)) != first
    assert all(holds(SPACE[0], point) for point in first)
    assert len({json.dumps(point) for point in first}) == 8
    with pytest.raises(ValueError, match="20 is not valid; valid: at most the 3 points of this space"):
        planned_points(({"elbow.num_removed": (1, 2, 3)},), searching())


def test_ranges_reach_their_ends_and_log_ranges_are_even_in_the_logarithm() -> None:
    generator = numpy_generator(0, "test", "test")
    whole = [draw(Range(1, 3), generator) for _ in range(300)]
    assert {whole.count(value) > 60 for value in (1, 2, 3)} == {True}
    spread = [draw(Range(0.01, 1.0, log=True), generator) for _ in range(400)]
    assert 140 < sum(value < 0.1 for value in spread) < 260
    assert all(0.01 <= value <= 1.0 for value in spread)


def test_optuna_takes_one_block_and_gives_back_the_values_themselves() -> None:
    with pytest.raises(ValueError, match=r"2 blocks are not valid; valid: one where search\.method is optuna"):
        planned_points((SPACE[0], SPACE[0]), searching("optuna"))
    block = {"data.classes": (("3",), ("3", "7")), "elbow.num_removed": Range(1, 9), "gate.enabled": (True, False)}
    known = distributions(block)
    point = {"data.classes": ("3", "7"), "elbow.num_removed": 4, "gate.enabled": False}
    choice = encoded(point, block)
    assert all(known[name]._contains(known[name].to_internal_repr(value)) for name, value in choice.items())
    assert decoded(choice) == point
    assert not holds(block, point | {"elbow.num_removed": 10})
    assert not holds(block, {"elbow.num_removed": 4})


@pytest.mark.parametrize("name", CLARID_SWEEPS)
def test_sweeps_of_clarid_fit_the_config(name: str) -> None:
    sweep = CLARID_SWEEPS[name]()
    check_space(sweep.space, EXTRACT["digits"]().config, searching("grid"))
    assert len(planned_points(sweep.space, searching("grid"))) >= 4


@pytest.mark.parametrize("name", CADISTILL_SWEEPS)
def test_sweeps_of_cadistill_fit_the_config(name: str) -> None:
    sweep = CADISTILL_SWEEPS[name]()
    check_space(sweep.space, DISTILL["digits"]().config, searching("grid"))
    assert len(planned_points(sweep.space, searching("grid"))) >= 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": ()}, "one or more different seeds"),
        ({"seeds": (1, 1)}, "one or more different seeds"),
        ({"seeds": (-1,)}, "seed: -1 is not valid"),
        ({"num_trials": 0}, "search.num_trials: 0 is not valid"),
        ({"at_once": 0}, "search.at_once: 0 is not valid"),
        ({"asha": True}, "one seed where search.asha is on"),
        ({"asha": True, "seeds": (0,), "metric": "clean"}, "search.metric: 'clean' is not valid; valid: val_accuracy"),
    ],
)
def test_a_wrong_search_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SearchConfig(**changes)
