from pathlib import Path

import mlflow
import pytest

from clarep_ray.config import TrackingConfig
from clarep_ray.tracking import log_run, tracking_uri


def _log(config: TrackingConfig, folder: Path) -> str | None:
    picture = folder / "picture.png"
    picture.write_bytes(b"png")
    return log_run(
        config,
        "a run",
        folder,
        params={"seed": 3, "long": "x" * 2000},
        metrics={"nmi/random@1": 0.25, "unknown": float("nan")},
        tags={"job": "test"},
        artifacts=[picture],
    )


def test_a_run_lands_in_sqlite_with_parameters_metrics_and_artefacts(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert _log(TrackingConfig(uri=uri, experiment="ours"), tmp_path) == uri
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("ours")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.params["seed"] == "3"
    assert run.data.metrics["nmi/random_1"] == 0.25
    assert run.data.tags["output"] == str(tmp_path)
    assert {item.path for item in client.list_artifacts(run.info.run_id)} == {"config.json", "picture.png"}
    assert (tmp_path / "mlartifacts").is_dir()


def test_a_dead_server_costs_a_warning_not_the_run(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="did not take the run"):
        assert _log(TrackingConfig(uri="http://127.0.0.1:9", experiment="ours"), tmp_path) is None


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
