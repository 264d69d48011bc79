"""A store of MLflow that is there already (making one takes seconds), and a real server on it that can fail."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tracking.faults import FaultyServer


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def store(empty_store: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(empty_store, tmp_path / "mlflow.db"))


@pytest.fixture
def server(store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyServer]:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    monkeypatch.setattr("clarep_ray.tracking.sender.FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr("clarep_ray.tracking.sender.LONGEST_PAUSE_S", 0.05)
    running = FaultyServer(store, monkeypatch)
    yield running
    running.stop()
