"""Trials on Ray Tune: failures, early stops, Optuna, and kill -9 of the driver."""

import os
import pickle
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from clarep_ray.cluster.sweep import run_sweep
from clarep_ray.cluster.sweep_rows import Row, asked_points
from clarep_ray.config import DistillConfig, Range, SearchConfig, Space
from clarep_ray.dotted import override
from clarep_ray.presets import Sweep
from tests.cluster.fake_study import NUM_EPOCHS, FakeStudy, starts
from tests.hostile import canaries

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("ray_session")


def sweep(root: Path, space: Space, **search: Any) -> list[Row]:
    study = FakeStudy(override(DistillConfig(), {"output": str(root), "tracking.enabled": False}))
    settings = SearchConfig(**search)
    return run_sweep(study, space, Sweep(space=space, metric="score", columns=("score",)), settings, "x", print)


def test_every_outcome_is_a_row_and_only_the_machine_is_given_another_chance(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = ({"loss.temperature": (0.1,), "loss.weight_ce": (0.0, 1.0, 2.0, 3.0, 5.0)}, {"loss.temperature": (0.2,)})
    rows = sweep(tmp_path, space, seeds=(0,))
    found = {row.point.get("loss.weight_ce"): row for row in rows}
    wanted = {0.0: "ok", 1.0: "failed", 2.0: "nan", 3.0: "failed", 5.0: "ok", None: "ok"}
    assert {kind: row.status for kind, row in found.items()} == wanted
    assert len(rows) == 6
    assert found[3.0].reason == "its process died 3 times"
    counts = starts(tmp_path)
    assert {kind: counts[f"{row.trial}/seed-0"] for kind, row in found.items()} == {
        **dict.fromkeys(wanted, 1),
        3: 3,
        5: 2,
    }
    assert "Best by score (max): temperature 0.2, 0.2" in capsys.readouterr().out
    assert sweep(tmp_path, space, seeds=(0,)) == rows
    assert starts(tmp_path) == counts
    sweep(tmp_path, ({"loss.temperature": (0.1,), "loss.weight_ce": (0.0, 1.0)},), seeds=(0,), retry_failed=True)
    again = starts(tmp_path)
    assert {name for name in again if again[name] > counts[name]} == {f"{found[1.0].trial}/seed-0"}


def test_asha_stops_what_is_behind_and_a_stopped_trial_stays_stopped(tmp_path: Path) -> None:
    space = ({"loss.temperature": tuple(number / 10 for number in range(9, 0, -1)), "loss.weight_ce": (4.0,)},)
    search = {"seeds": (0,), "asha": True, "grace_epochs": 2, "at_once": 1}
    rows = sweep(tmp_path, space, **search)
    assert Counter(row.status for row in rows)["stopped"] >= 4
    best = rows[0]
    assert (best.status, best.metrics["val_accuracy"]) == ("ok", 0.9 * NUM_EPOCHS)
    stopped = [row for row in rows if row.status == "stopped"]
    assert all(row.metrics["epoch"] < NUM_EPOCHS for row in stopped)
    before = starts(tmp_path)
    (tmp_path / "rows" / f"{rows[-1].key}.json").unlink()  # as a kill of the driver leaves it
    again = sweep(tmp_path, space, **search)
    assert again[:-1] == rows[:-1]
    assert again[-1].status == "stopped"  # it is compared with what the others had reported
    changed = {name for name, count in starts(tmp_path).items() if count != before[name]}
    assert changed == {f"{rows[-1].trial}/seed-0"}


def test_optuna_learns_and_goes_on_from_the_rows(tmp_path: Path) -> None:
    space = ({"loss.temperature": Range(0.01, 1.0), "loss.weight_ce": (0.0, 2.0)},)
    first = sweep(tmp_path, space, method="optuna", num_trials=5, seeds=(0, 1), at_once=1)
    assert len(first) == 10
    assert all(row.status == ("nan" if row.point["loss.weight_ce"] == 2.0 else "ok") for row in first)
    gone = first[3]  # asked for, and its driver died
    (tmp_path / "rows" / f"{gone.key}.json").unlink()
    rows = sweep(tmp_path, space, method="optuna", num_trials=8, seeds=(0, 1), at_once=1)
    assert len(rows) == 16
    assert len(asked_points(tmp_path)) == 8
    kept = {row.key: row.metrics.get("score") for row in rows}
    assert all(kept[row.key] == row.metrics["score"] for row in first if row.status == "ok")
    counts = starts(tmp_path)
    assert counts.pop(f"{gone.trial}/seed-{gone.seed}") == 2
    assert set(counts.values()) == {1}


@pytest.mark.nightly
def test_what_lies_in_the_storage_folder_is_never_unpickled(tmp_path: Path) -> None:
    """Tune's own way to continue would: every run has a folder of a new name, and what counts are the rows."""
    canary, space = tmp_path / "canary", ({"loss.temperature": (0.1, 0.2)},)
    rows = sweep(tmp_path / "out", space, seeds=(0,))
    evil, storage = pickle.dumps(canaries.touch(canary)), tmp_path / "out" / "ray"
    (earlier,) = storage.glob("tune-*")
    known = [path for path in earlier.rglob("*") if path.is_file()]
    assert "tuner.pkl" in {path.name for path in known}
    for path in [*known, *(storage / path.name for path in known)]:
        path.write_bytes(evil)
    storage.chmod(0o777)
    (tmp_path / "out" / "rows" / f"{rows[0].key}.json").unlink()
    again = sweep(tmp_path / "out", space, seeds=(0,))
    assert [row.metrics for row in again] == [row.metrics for row in rows]
    assert not canary.exists()
    pickle.loads(evil)
    assert canary.exists(), "it would not have sung"


@pytest.mark.nightly
def test_optuna_over_few_values_runs_none_twice(tmp_path: Path) -> None:
    space = ({"loss.temperature": (0.1, 0.2, 0.3)},)
    rows = sweep(tmp_path, space, method="optuna", num_trials=3, seeds=(0,))
    assert 1 <= len(rows) <= 3
    assert set(starts(tmp_path).values()) == {1}
    assert {row.status for row in rows} == {"ok"}


@pytest.mark.nightly
def test_a_killed_driver_is_continued_by_the_same_command(tmp_path: Path) -> None:
    """kill -9 after three of eight rows; the same command runs the others and no row twice (F29)."""
    import ray

    space = tmp_path / "space.json"
    space.write_text('{"elbow.num_removed": [1, 2], "elbow.rule": ["fixed"], "decoding.guidance_scale": [1, 2]}')
    changes = {"search.space": str(space), "output.path": str(tmp_path / "out"), "data.digits.count": "12"}
    flags = [part for name, value in changes.items() for part in (f"--{name.replace('_', '-')}", value)]
    command = [sys.executable, str(ROOT / "tune" / "clarid.py"), "--preset", "digits_smoke", *flags]
    command += ["--search.seeds", "0", "1", "--tracking.no-enabled"]
    env = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    rows = tmp_path / "out" / "rows"
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while not rows.is_dir() or len(list(rows.iterdir())) < 3:
        assert process.poll() is None, process.stdout and process.stdout.read()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = {path.name: path.read_bytes() for path in rows.iterdir()}
    assert len(before) < 8
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    after = {path.name: path.read_bytes() for path in rows.iterdir()}
    assert len(after) == 8
    assert {name: after[name] for name in before} == before
    assert len((tmp_path / "out" / "trials.csv").read_text().splitlines()) == 1 + 8
    assert f"{len(before)} of 8 rows" in done.stdout or "4 of 8 rows" in done.stdout  # workers finish what they hold
