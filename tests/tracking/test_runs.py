from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow.entities import Run as LoggedRun

from clarep_ray.config import TrackingConfig
from clarep_ray.tracking import Run, start_run, tracking_uri

MARK = "f" * 64


def config_at(folder: Path) -> TrackingConfig:
    return TrackingConfig(uri=f"sqlite:///{folder / 'mlflow.db'}", experiment="ours")


def begin(folder: Path, **more: str) -> Run:
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


def test_a_run_lands_in_sqlite_with_all_that_was_told(tmp_path: Path) -> None:
    picture = np.zeros((8, 8, 3), np.uint8)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "table.csv").write_text("a,b\n")
    with begin(tmp_path, parent=None) as run:  # type: ignore[arg-type]
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
    assert (given.dataset.name, given.dataset.digest, given.tags[0].value) == ("digits", "0" * 36, "training")


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
