"""The training job up to where Ray would start, and what runs on its workers, without Ray."""

from pathlib import Path

import pytest

from clarep_ray import cli, dotted
from clarep_ray.cluster import compare as comparing
from clarep_ray.cluster import distill as distilling
from clarep_ray.cluster import runtime
from clarep_ray.cluster.compare import COLUMNS, PGD_COLUMN, ROWS, describe, evaluate_one, plan_runs, tabulate
from clarep_ray.cluster.distill import distill, distill_seeds, with_absolute_paths
from clarep_ray.config import DistillConfig
from clarep_ray.presets import DISTILL

SMOKE: DistillConfig = dotted.override(DISTILL["smoke"]().config, {"tracking.enabled": False})


class RayStarted(Exception):
    pass


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect() -> None:
        raise RayStarted

    monkeypatch.setattr(runtime, "connect", connect)


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train in this process instead of on Ray."""
    from clarep_ray.cadistill.run import train_alone

    monkeypatch.setattr(distilling, "distill", lambda config, parent=None: train_alone(config))


def test_inputs_that_cannot_be_used_are_refused_before_ray_starts(tmp_path: Path) -> None:
    missing = {"method": "cadistill", "clareps.path": str(tmp_path / "none"), "output": str(tmp_path)}
    with pytest.raises(ValueError, match="has no MANIFEST"):
        distill(dotted.override(SMOKE, missing))
    with pytest.raises(RayStarted):
        distill(dotted.override(SMOKE, {"output": str(tmp_path)}))


@pytest.mark.usefixtures("alone")
def test_a_finished_training_is_read_without_ray_and_seeds_make_a_table(tmp_path: Path) -> None:
    config = dotted.override(SMOKE, {"output": str(tmp_path / "runs")})
    table = distill_seeds(config, (0, 1), lambda _: None)
    cells = table.values["vanilla"]["last val_accuracy"]
    assert len(cells) == 2
    assert "last val_accuracy" in (tmp_path / "runs/table.md").read_text()
    again = distill(dotted.override(config, {"seed": 1, "output": str(tmp_path / "runs/seed-1")}))
    assert again["last"]["val_accuracy"] == cells[1]


@pytest.mark.usefixtures("alone")
def test_a_wrong_seed_is_refused_before_the_first_training(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="seed: -1 is not valid"):
        distill_seeds(dotted.override(SMOKE, {"output": str(tmp_path / "runs")}), (0, -1), lambda _: None)
    assert not (tmp_path / "runs").exists()


def test_workers_are_given_absolute_paths(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    changes = {
        "clareps.path": "c",
        "teacher.features": "f",
        "val.path": "v",
        "val.classes": ("3", "@names"),
        "output": "o",
    }
    found = dotted.flatten(with_absolute_paths(dotted.override(SMOKE, changes)))
    assert [found[name] for name in ("clareps.path", "teacher.features", "val.path", "output")] == [
        str(tmp_path / name) for name in "cfvo"
    ]
    assert found["val.classes"] == ("3", f"@{tmp_path / 'names'}")
    assert found["teacher.network"] is None


def test_a_wrong_setting_on_the_command_line_exits_with_two(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from jobs.distill import DistillJob

    arguments = ["distill.py", "--preset", "smoke", "--method", "kd", "--teacher.source", "features"]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit) as stopped:
        cli.parse(DistillJob, DISTILL, "digits")
    assert stopped.value.code == 2
    assert "teacher.source: 'features' is not valid; valid: network (method is kd)" in capsys.readouterr().err


def test_every_row_of_a_comparison_is_prepared_measured_and_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.cadistill.small import write_clareps

    folder = write_clareps(tmp_path / "clareps")
    pictures = {"cfgdistill": {"method": "cfgdistill", "clareps.pictures": "original"}}
    rows = {name: ROWS[name] for name in ("vanilla", "dmdistill", "cadistill")} | pictures
    monkeypatch.setattr(comparing, "ROWS", rows)
    files = {"clareps.path": folder, "teacher.features": folder, "output": str(tmp_path / "out")}
    config = dotted.override(SMOKE, {**files, "data.digits.count": 48, "data.digits.seed": 1, "schedule.epochs": 1})
    runs = plan_runs(config, (0, 1))
    assert list(runs) == [(row, seed) for row in rows for seed in (0, 1)]
    found = {name: evaluate_one(dotted.flatten(run)) for name, run in runs.items()}
    monkeypatch.setattr("clarep_ray.cadistill.evaluation.accuracy", None)
    assert evaluate_one(dotted.flatten(runs["cadistill", 1])) == found["cadistill", 1]
    for shares in found.values():
        assert shares[PGD_COLUMN] <= shares["clean"]
    assert any(shares[PGD_COLUMN] < shares["clean"] for shares in found.values())
    table = tabulate(found, (0, 1))
    assert table.columns == COLUMNS
    text = describe(table)
    assert "| minus vanilla |" in text
    assert "| minus cadistill |" in text
    with pytest.raises(ValueError, match="two or more different seeds"):
        plan_runs(config, (1, 1))
    monkeypatch.setattr(comparing, "ROWS", ROWS)
    with pytest.raises(ValueError, match="pictures: 'guidance' is not in"):
        plan_runs(config, (0, 1))
