"""What is best, and what the table says of trials that failed or turned NaN."""

import csv
import math
from pathlib import Path
from typing import Any

import pytest

from clarep_ray.cluster.sweep_rows import Row, best_trial, claim, commit_row, read_row, take_out_failed, trials_csv
from clarep_ray.cluster.sweep_study import run_cell
from clarep_ray.config import DistillConfig
from clarep_ray.data.store import WORK
from clarep_ray.dotted import override
from tests.cluster.fake_study import FakeStudy, starts


def row(trial: str, seed: int, score: float, status: Any = "ok") -> Row:
    return Row(
        key=f"{trial}{seed}", trial=trial, seed=seed, status=status, point={"x": trial}, metrics={"score": score}
    )


def test_nan_failed_stopped_and_incomplete_trials_are_never_best() -> None:
    rows = [row("a", 0, 0.5), row("a", 1, 0.6), row("b", 0, 9.0), row("c", 0, 9.0), row("c", 1, math.nan, "nan")]
    rows += [row("d", 0, 9.0), row("d", 1, 9.0, "failed"), row("e", 0, 9.0, "stopped"), row("e", 1, 9.0, "stopped")]
    rows += [row("f", 0, -9.0), row("f", 1, 0.0), row("g", 0, math.inf), row("g", 1, 9.0)]
    assert best_trial(rows, "score", "max", 2) == "a"
    assert best_trial(rows, "score", "min", 2) == "f"
    assert best_trial(rows[2:5], "score", "max", 2) is None
    assert best_trial(rows, "other", "max", 2) is None


def test_the_table_has_a_line_for_every_row_and_a_column_for_every_field_and_metric() -> None:
    bad = Row(key="b", trial="b", seed=3, status="failed", point={"y": (1, 2)}, reason="Error: a, b")
    lines = list(csv.DictReader(trials_csv([row("a", 0, 0.5), bad], ["x", "y"]).splitlines()))
    assert list(lines[0])[:6] == ["trial", "status", "seed", "x", "y", "metric/score"]
    assert [line["metric/score"] for line in lines] == ["0.5", ""]
    assert (lines[1]["status"], lines[1]["y"], lines[1]["reason"]) == ("failed", "(1, 2)", "Error: a, b")


@pytest.fixture
def study(tmp_path: Path) -> FakeStudy:
    for folder in ("rows", WORK):
        (tmp_path / folder).mkdir()
    return FakeStudy(override(DistillConfig(), {"output": str(tmp_path)}))


def run(study: FakeStudy, kind: float, seed: int = 0) -> Row:
    return run_cell(study, {"loss.temperature": 0.5, "loss.weight_ce": kind}, seed, "score", lambda *_: None)


def test_a_cell_is_run_once_whatever_it_came_to(study: FakeStudy) -> None:
    found = [run(study, kind) for kind in (0, 1, 2)]
    assert [each.status for each in found] == ["ok", "failed", "nan"]
    assert found[1].reason == "RuntimeError: it cannot be"
    again = [run(study, kind) for kind in (0, 1)]
    assert again == found[:2]
    kept = run(study, 2)
    assert (kept.status, math.isnan(kept.metrics["score"])) == ("nan", True)
    assert "NaN" not in (study.root / "rows" / f"{kept.key}.json").read_text()  # which is no JSON: null
    assert run(study, 0, seed=1).metrics["score"] == 1.5
    assert sorted(starts(study.root).values()) == [1, 1, 1, 1]
    assert len({each.key for each in found}) == 3


def test_a_fault_of_the_machine_is_no_row(study: FakeStudy) -> None:
    with pytest.raises(OSError, match="the disk is gone"):
        run(study, 5)
    assert not list((study.root / "rows").iterdir())
    assert run(study, 5).status == "ok"


def test_failed_rows_can_be_taken_out_and_no_others(study: FakeStudy) -> None:
    kept = run(study, 0)
    gone = run(study, 1)
    assert take_out_failed(study.root) == 1
    assert read_row(study.root, gone.key) is None
    assert read_row(study.root, kept.key) == kept


def test_rows_come_back_as_they_were(study: FakeStudy) -> None:
    before = Row(
        key="k", trial="t", seed=1, status="ok", point={"data.classes": ("3",)}, metrics={"a": 0.1}, wall_s=2.0
    )
    commit_row(study.root, before)
    assert read_row(study.root, "k") == before


def test_work_is_claimed_once_and_again_by_its_owner_alone(tmp_path: Path) -> None:
    (tmp_path / "claims").mkdir()
    assert claim(tmp_path, "work", "first")
    assert not claim(tmp_path, "work", "second")
    assert claim(tmp_path, "work", "first")
