import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow.entities import Run as LoggedRun
from mlflow.utils.validation import _validate_metric_name

from clarep_ray.config import TrackingConfig
from clarep_ray.tracking import Run, following, run, start_run, tracking_uri

MARK = "f" * 64


def config_at(folder: Path) -> TrackingConfig:
    return TrackingConfig(uri=f"sqlite:///{folder / 'mlflow.db'}", experiment="ours")


def begin(folder: Path, **more: str | None) -> Run:
    options = {"job": "extract", "fingerprint": MARK} | more
    return start_run(config_at(folder), "a run", folder / "out", **options)  # type: ignore[arg-type]


def logged(folder: Path) -> list[LoggedRun]:
    client = mlflow.MlflowClient(config_at(folder).uri)
    experiment = client.get_experiment_by_name("ours")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], order_by=["attributes.start_time"]))


def points(folder: Path, run: LoggedRun, key: str) -> list[tuple[int, float]]:
    history = mlflow.MlflowClient(config_at(folder).uri).get_metric_history(run.info.run_id, key)
    return [(point.step, point.value) for point in history]


def files(folder: Path, run: LoggedRun, below: str = "") -> list[str]:
    return [item.path for item in mlflow.MlflowClient(config_at(folder).uri).list_artifacts(run.info.run_id, below)]


@pytest.mark.usefixtures("store")
def test_a_run_lands_in_sqlite_with_all_that_was_told(tmp_path: Path) -> None:
    picture = np.zeros((8, 8, 3), np.uint8)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "table.csv").write_text("a,b\n")
    with begin(tmp_path) as run:
        run.params({"seed": 3, "long": "x" * 2000})
        run.metrics({"nmi/random@1": 0.25, "unknown": float("nan")})
        for epoch in (1, 2, 3):
            run.metrics({"loss": 1 / epoch}, step=epoch)
            run.image("sheets/all", picture + epoch, step=epoch)
        run.artifact(tmp_path / "out" / "table.csv")
        run.dataset("digits", "0" * 64, "/data", "training")
        run.note("*what* it was")
    (found,) = logged(tmp_path)
    assert (found.info.run_name, found.info.status) == ("a run", "FINISHED")
    assert found.data.params == {"seed": "3", "long": "x" * 500}
    assert found.data.metrics["nmi/random_1"] == 0.25
    assert np.isnan(found.data.metrics["unknown"])
    assert points(tmp_path, found, "loss") == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert {name: found.data.tags[name] for name in ("job", "fingerprint", "mlflow.note.content")} == {
        "job": "extract",
        "fingerprint": MARK,
        "mlflow.note.content": "*what* it was",
    }
    assert set(files(tmp_path, found)) == {"config.json", "table.csv", "images"}
    assert [name.rpartition("+timestamp")[0] for name in files(tmp_path, found, "images")][::2] == [
        f"images/sheets~all+step+{epoch}" for epoch in (1, 2, 3)
    ]
    (given,) = found.inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest, given.tags[0].value) == ("digits", "0" * 16, "training")


def test_the_uri_comes_from_config_then_environment_then_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    assert tracking_uri(TrackingConfig(), tmp_path / "out") == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert tracking_uri(TrackingConfig(), tmp_path / "out" / "x") == f"sqlite:///{tmp_path}/out/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server")
    assert tracking_uri(TrackingConfig(), tmp_path) == "http://server"
    assert tracking_uri(TrackingConfig(uri="sqlite:///x.db"), tmp_path) == "sqlite:///x.db"


def test_a_run_is_made_in_a_store_that_is_not_there_yet_and_its_files_lie_beside_it(tmp_path: Path) -> None:
    with begin(tmp_path) as run:
        run.params({"seed": 3})
    (found,) = logged(tmp_path)
    assert found.info.artifact_uri == f"file://{tmp_path}/mlartifacts/{found.info.run_id}/artifacts"
    assert files(tmp_path, found) == ["config.json"]


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(("error", "status"), [(ValueError("no"), "FAILED"), (KeyboardInterrupt(), "KILLED")])
def test_a_run_says_how_it_ended_and_continues(error: BaseException, status: str, tmp_path: Path) -> None:
    run = begin(tmp_path)
    run.metrics({"loss": 1.0}, step=1)
    with pytest.raises(type(error)), run:
        raise error
    (found,) = logged(tmp_path)
    assert found.info.status == status
    assert found.data.tags.get("error") == ("ValueError: no" if status == "FAILED" else None)
    with begin(tmp_path) as again:
        assert again.id == run.id
        again.metrics({"loss": 1.0}, step=1)
        again.metrics({"loss": 0.5}, step=2)
    (found,) = logged(tmp_path)
    assert found.info.status == "FINISHED"
    assert points(tmp_path, found, "loss") == [(1, 1.0), (2, 0.5)]


@pytest.mark.usefixtures("store")
def test_a_job_that_finds_everything_done_changes_nothing(tmp_path: Path) -> None:
    ends = []
    for _ in range(2):
        with begin(tmp_path) as run:
            run.params({"seed": 3})
            run.metrics({"nmi": 0.5, "unknown": float("nan")})
            run.image("sheet", np.zeros((4, 4), np.float32))
            run.dataset("digits", "0" * 64, "/data", "training")
            (tmp_path / "out" / "table.csv").write_text("a,b\n")  # the same again
            run.artifact(tmp_path / "out" / "table.csv")
        ends.append([run.info.end_time for run in logged(tmp_path)])
    assert len(ends[0]) == 1
    assert ends[0] == ends[1]
    with begin(tmp_path, fingerprint="e" * 64):
        pass
    assert len(logged(tmp_path)) == 2


@pytest.mark.usefixtures("store")
def test_a_store_that_lost_the_run_is_told_all_of_it(empty_store: Path, tmp_path: Path) -> None:
    with begin(tmp_path) as run:
        run.metrics({"loss": 1.0}, step=1)
    (tmp_path / "mlflow.db").write_bytes(empty_store.read_bytes())
    with begin(tmp_path) as run:
        run.metrics({"loss": 1.0}, step=1)
    (found,) = logged(tmp_path)
    assert points(tmp_path, found, "loss") == [(1, 1.0)]


TELLER = """
import sys, time
from pathlib import Path
from clarep_ray.config import TrackingConfig
from clarep_ray.tracking import start_run
folder = Path(sys.argv[1])
config = TrackingConfig(uri=f"sqlite:///{folder / 'mlflow.db'}", experiment="ours")
with start_run(config, "a run", folder / "out", job="extract", fingerprint="f" * 64) as run:
    for step in range(1, int(sys.argv[2]) + 1):
        run.metrics({"loss": 1 / step}, step=step)
        print(step, flush=True)
        time.sleep(0.01)
"""


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("told_before", [5, 400])
def test_a_process_killed_before_and_while_sending_loses_and_doubles_nothing(told_before: int, tmp_path: Path) -> None:
    command = [sys.executable, "-c", TELLER, str(tmp_path), "100000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while int(process.stdout.readline()) < told_before:
            pass
        with pytest.warns(UserWarning, match="another process is logging the run"):
            assert begin(tmp_path).id is None
        os.kill(process.pid, signal.SIGKILL)
        last = max((int(line) for line in process.stdout if line.strip()), default=told_before)
    entries = next((tmp_path / "out" / ".mlflow-outbox").glob("*/entries.jsonl"))
    with entries.open("ab") as file:
        file.write(b'{"op": "metr')  # what a kill inside a write would leave
    with begin(tmp_path) as run:
        run.metrics({"loss": -1.0}, step=0)
    (found,) = logged(tmp_path)
    steps = [step for step, _ in points(tmp_path, found, "loss")]
    assert len(steps) == len(set(steps))
    assert set(steps) >= set(range(last + 1))
    assert found.info.status == "FINISHED"


@pytest.mark.usefixtures("store")
def test_a_full_disk_and_a_missing_file_cost_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = begin(tmp_path)
    with pytest.warns(UserWarning, match="not told everything"):
        run.artifact(tmp_path / "missing.csv")
    with monkeypatch.context() as patched:
        patched.setattr("clarep_ray.tracking.outbox.Outbox.append", _no_space)
        with pytest.warns(UserWarning, match="not told everything.*No space left"):
            run.metrics({"loss": 1.0}, step=1)
    run.metrics({"loss": 0.5}, step=2)
    run.close()
    (found,) = logged(tmp_path)
    assert points(tmp_path, found, "loss") == [(2, 0.5)]


def _no_space(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_a_folder_that_cannot_be_used_costs_a_warning(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.warns(UserWarning, match="this run is not in MLflow"):
        run = begin(tmp_path)
    run.metrics({"loss": 1.0})
    run.image("sheet", np.zeros((4, 4), np.uint8))
    run.close()
    assert (run.id, run.browse) == (None, None)


@pytest.mark.usefixtures("store")
def test_a_picture_of_another_kind_is_refused(tmp_path: Path) -> None:
    with begin(tmp_path) as run:
        for wrong in (np.zeros((4, 4, 4), np.uint8), np.full((4, 4), 1.5), np.zeros((4, 4), np.int64)):
            with pytest.raises(ValueError, match=r"picture: an array .* is not valid"):
                run.image("sheet", wrong)


@pytest.mark.usefixtures("store")
def test_lines_of_a_training_are_told_as_they_come_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clarep_ray.tracking.follow.LOOK_EVERY_S", 0.05)
    path = tmp_path / "metrics.jsonl"
    with begin(tmp_path) as run, following(run, path, "epoch"):
        path.write_text('{"epoch": 1, "loss": 1.0}\n{"epoch": 2, "lo')
        until = time.monotonic() + 30
        entries = next((tmp_path / "out" / ".mlflow-outbox").glob("*/entries.jsonl"))
        while b'"loss"' not in entries.read_bytes() and time.monotonic() < until:
            time.sleep(0.05)
        assert b'"loss"' in entries.read_bytes()  # before the training ends
        path.write_text('{"epoch": 1, "loss": 1.0}\n{"epoch": 2, "loss": 0.5}\n')
    with begin(tmp_path) as run, following(run, path, "epoch"):
        pass
    (found,) = logged(tmp_path)
    assert points(tmp_path, found, "loss") == [(1, 1.0), (2, 0.5)]
    path.write_text('{"epoch": 3, "loss": "?"}\n')
    with pytest.warns(UserWarning, match="not told all of"), begin(tmp_path) as run, following(run, path, "epoch"):
        pass


def test_metrics_of_any_two_names_are_two_metrics_that_a_server_takes() -> None:
    names = [
        "nmi/random@1",
        "$100k_$/clean",
        "#100k_#/clean",
        "a//b",
        "../x",
        "/x",
        "x/.",
        "",
        "|",
        "<script>",
        "x" * 400,
    ]
    names += ["x" * 401, "clean accuracy", "\u00e9", "e\u0301", "a\nb", "a%b", "a&b"]
    told = run._names(names)
    assert len(set(told.values())) == len(names)
    assert (told["nmi/random@1"], told["clean accuracy"]) == ("nmi/random_1", "clean accuracy")
    for name in told.values():
        assert _validate_metric_name(name) is None
        assert len(name) <= 250
