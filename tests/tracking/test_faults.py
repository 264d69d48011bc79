"""A server that fails in every way: nothing lost, nothing doubled, no call waits, one warning (F25, R14)."""

import random
import socket
import time
import warnings
from collections import Counter
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow.entities import Run as LoggedRun

from clarep_ray.config import TrackingConfig
from clarep_ray.tracking import Run, replay, start_run
from clarep_ray.tracking.delivery import Delivery
from tests.tracking.faults import Fault, FaultyServer

EPOCHS, MANY = 20, 200
PICTURE = np.zeros((8, 8, 3), np.uint8)
LIMIT_S = 0.05


def begin(uri: str, folder: Path, **more: str | None) -> Run:
    options = {"job": "distill", "fingerprint": "f" * 64} | more
    return start_run(TrackingConfig(uri=uri, experiment="ours"), "a run", folder, **options)  # type: ignore[arg-type]


def tell(run: Run, epochs: range, pause_s: float = 0.0) -> list[float]:
    """Tell everything a training does and return how long each call took."""
    took: list[float] = []

    def timed(call, *arguments, **more) -> None:  # type: ignore[no-untyped-def]
        began = time.perf_counter()
        call(*arguments, **more)
        took.append(time.perf_counter() - began)
        time.sleep(pause_s)

    timed(run.params, {f"field.{number}": number for number in range(150)})
    timed(run.dataset, "digits", "0" * 36, "/data", "training")
    for epoch in epochs:
        timed(run.metrics, {"loss": 1 / epoch, "accuracy": epoch / 100, "unknown": float("nan")}, step=epoch)
    for epoch in epochs[:: max(10, len(epochs) // 2)]:
        timed(run.image, "sheet", PICTURE + epoch, step=epoch)
    return took


def check(uri: str, num_runs: int = 1, epochs: int = EPOCHS) -> None:
    """Check that the server has one run with every point and every picture once."""
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("ours")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == num_runs
    for run in runs:
        assert run.info.status == "FINISHED"
        assert len(run.data.params) == 150
        assert len(run.inputs.dataset_inputs) == 1
        for key in ("loss", "accuracy", "unknown"):
            steps = [point.step for point in client.get_metric_history(run.info.run_id, key)]
            assert steps == list(range(1, epochs + 1)), key
        pictures = [item.path for item in client.list_artifacts(run.info.run_id, "images")]
        assert Counter(Path(path).suffix for path in pictures) == {".png": 2, ".webp": 2}


def no_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


@pytest.mark.parametrize("fault", ["dead", "hang", "500", "401"])
def test_a_server_that_fails_all_the_time_costs_a_warning(fault: str, server: FaultyServer, tmp_path: Path) -> None:
    server.fault = lambda path: fault if fault != "dead" else None  # type: ignore[return-value,assignment]
    uri = no_port() if fault == "dead" else server.uri
    run = begin(uri, tmp_path / "out")
    took = tell(run, range(1, MANY + 1), pause_s=0.005)
    began = time.perf_counter()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        run.close()
    assert time.perf_counter() - began < 5
    assert np.quantile(took, 0.99) < LIMIT_S
    (message,) = [str(each.message) for each in warned]
    assert "has not taken" in message
    assert f"uv run jobs/replay.py {tmp_path / 'out'}" in message
    server.heal()
    config = TrackingConfig(uri=server.uri, experiment="ours")
    assert replay(tmp_path, config) == {str(tmp_path / "out"): None}  # up again, at another address for `dead`
    check(server.uri, epochs=MANY)
    assert replay(tmp_path, config) == {str(tmp_path / "out"): None}
    check(server.uri, epochs=MANY)


@pytest.mark.parametrize("seed", [1, 3, *(pytest.param(seed, marks=pytest.mark.nightly) for seed in (0, 2))])
def test_nothing_is_lost_or_doubled_whatever_fails_when(seed: int, server: FaultyServer, tmp_path: Path) -> None:
    """A third of all requests fail, before or after they were done; the job is interrupted and continues."""
    draw = random.Random(seed)
    faults: list[Fault | None] = ["500", "500 after", "401", "late"]

    def fault(path: str) -> Fault | None:
        chosen = draw.choice(faults) if draw.random() < 1 / 3 else None
        return None if chosen == "late" and draw.random() < 0.8 else chosen  # it takes a second

    server.fault = fault
    for upto in (7, 13, EPOCHS):
        run = begin(server.uri, tmp_path / "out")
        tell(run, range(1, upto + 1))  # a training that continues tells what it told before
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run.close("FAILED" if upto < EPOCHS else "FINISHED")  # KILLED: the process would end now
    time.sleep(3)  # until late requests are done
    server.heal()
    with begin(server.uri, tmp_path / "out"):
        pass
    check(server.uri)


def _num_params(run: LoggedRun) -> int:
    return len(run.data.params)


@pytest.mark.parametrize("late_is_first", [False, True])
def test_a_run_that_the_server_made_after_the_client_had_given_up_is_not_doubled(
    late_is_first: bool, server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever of the two the server lists first."""
    plain = Delivery._search
    monkeypatch.setattr(
        Delivery, "_search", lambda *given: sorted(plain(*given), key=_num_params, reverse=not late_is_first)
    )
    seen: list[str] = []
    until = time.monotonic() + 60

    def fault(path: str) -> Fault | None:
        seen.append(path)
        if path.endswith("runs/create") and seen.count(path) == 1:  # done when the second run has entries already
            while sum(each.endswith("log-batch") for each in seen) < 3 and time.monotonic() < until:
                time.sleep(0.01)
            seen.append("late")
        return None

    server.fault = fault
    run = begin(server.uri, tmp_path / "out")
    tell(run, range(1, EPOCHS + 1))
    while "late" not in seen and time.monotonic() < until:
        time.sleep(0.1)
    time.sleep(1)  # until it is in the store
    assert len(mlflow.MlflowClient(server.uri).search_runs(["1"])) == 2
    run.close()
    check(server.uri)


def test_a_picture_that_was_taken_without_an_answer_is_not_doubled(server: FaultyServer, tmp_path: Path) -> None:
    uploads = 0

    def fault(path: str) -> Fault | None:
        nonlocal uploads
        uploads += "/images/" in path
        return "500 after" if "/images/" in path and uploads < 4 else None

    server.fault = fault
    run = begin(server.uri, tmp_path / "out")
    tell(run, range(1, EPOCHS + 1))
    until = time.monotonic() + 60
    while uploads < 7 and time.monotonic() < until:
        time.sleep(0.1)
    run.close()
    assert uploads >= 7
    check(server.uri)


def test_what_the_server_will_never_take_does_not_block_the_rest(server: FaultyServer, tmp_path: Path) -> None:
    run = begin(server.uri, tmp_path / "out")
    server.heal()
    run.params({"x" * 300: 1.0})
    tell(run, range(1, EPOCHS + 1))
    with pytest.warns(UserWarning, match="refused 1 of \d+ entries: params: .*exceeds the maximum length"):
        run.close()
    check(server.uri)


def test_children_wait_for_their_parent_and_are_nested_in_it(server: FaultyServer, tmp_path: Path) -> None:
    server.fault = lambda path: "500"
    parent = begin(server.uri, tmp_path / "sweep", job="sweep")
    children = [begin(server.uri, tmp_path / "sweep" / name, parent=parent.id) for name in ("a", "b")]
    for run in (*children, parent):
        tell(run, range(1, EPOCHS + 1))
        with pytest.warns(UserWarning, match="has not taken"):
            run.close()
    server.heal()
    child_first = replay(tmp_path / "sweep" / "a", TrackingConfig(uri=server.uri, experiment="ours"))
    assert "its parent run is not there yet" in str(child_first[str(tmp_path / "sweep" / "a")])
    assert set(replay(tmp_path, TrackingConfig(uri=server.uri, experiment="ours")).values()) == {None}
    check(server.uri, num_runs=3)
    runs = mlflow.MlflowClient(server.uri).search_runs(["1"])
    (top,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert {run.data.tags.get("mlflow.parentRunId") for run in runs if run is not top} == {top.info.run_id}


def test_a_password_in_the_environment_is_told_to_nobody(
    server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    uri = server.uri.replace("http://", "http://clarep:c%40nary-7@")
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "")
    server.fault = lambda path: "401"
    for address in (uri, no_port().replace("http://", "http://clarep:c%40nary-7@")):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        run = start_run(
            TrackingConfig(experiment="ours"), "a run", tmp_path / "out", job="distill", fingerprint="f" * 64
        )
        run.params({"where": address, "what": "c@nary-7"})
        run.tags({"where": address})
        run.note(f"see {address}")
        assert run.browse is not None
        assert "nary" not in run.browse
        with pytest.warns(UserWarning, match="has not taken") as warned:
            run.close()
        assert not [each for each in warned if "nary" in str(each.message)]
    written = [path for path in tmp_path.rglob("*") if path.is_file() and b"nary" in path.read_bytes()]
    assert not written
    server.heal()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert replay(tmp_path, TrackingConfig(experiment="ours")) == {str(tmp_path / "out"): None}
    assert server.credentials == {("clarep", "c@nary-7")}
    assert b"nary" not in (tmp_path / "mlflow.db").read_bytes()
    assert "nary" not in "".join(capfd.readouterr())
    with pytest.raises(ValueError, match=r"tracking\.uri: a URI with user or password is not valid") as refused:
        TrackingConfig(uri=uri)
    assert "nary" not in str(refused.value)
