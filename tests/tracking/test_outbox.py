"""An outbox of somebody else: what it asks for beyond words is never done, and its files lie in the output."""

import json
import os
import uuid
from pathlib import Path
from typing import Any

import mlflow
import pytest

from clarep_ray import tracking
from clarep_ray.config import TrackingConfig
from clarep_ray.tracking.outbox import ENTRIES, FOLDER, SENT

TIME = {"time_ms": 1_700_000_000_000}
OPEN = {"op": "open", "name": "run", "job": "extract", "fingerprint": "f", "parent": None, "tags": {}} | TIME
CLOSE = {"op": "close", "status": "FINISHED"} | TIME
SHAPES = {"input_shape": [-1, 3, 8, 8], "output_shape": [-1, 2]}


@pytest.fixture
def config(tmp_path: Path) -> TrackingConfig:
    return TrackingConfig(uri=f"sqlite:///{tmp_path / 'server' / 'mlflow.db'}", experiment="e")


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret.txt"
    path.write_text("a secret")
    return path


def plant(output: Path, *entries: Any) -> Path:
    folder = output / FOLDER / uuid.uuid4().hex
    folder.mkdir(parents=True)
    lines = [entry if isinstance(entry, str) else json.dumps(entry) for entry in (OPEN, *entries, CLOSE)]
    (folder / ENTRIES).write_text("".join(f"{line}\n" for line in lines))
    return folder


def uploaded(tmp_path: Path) -> str:
    """Everything that lies in the server's folder, as text."""
    files = [path for path in (tmp_path / "server").rglob("*") if path.is_file()]
    return "\n".join(f"{path.name}\n{path.read_bytes().decode(errors='replace')}" for path in files)


def hostile(output: Path, secret: Path, code: Path) -> list[Any]:
    (output / "link.txt").symlink_to(secret)
    (output / "linked").symlink_to(secret.parent)
    (output / "kept.txt").write_text("kept")
    os.mkfifo(output / "pipe")
    (output / "image.png").symlink_to(secret)
    model = {"op": "model", "name": "m", "tags": {}} | SHAPES | TIME
    artifact = {"op": "artifact", "version": ""} | TIME
    return [
        model | {"code": str(code), "artifacts": {}},
        model | {"kind": "student", "folder": "last", "code": str(code)},
        model | {"kind": str(code), "folder": "last"},
        model | {"kind": "student", "folder": "../.."},
        model | {"kind": "student", "folder": "linked"},
        model | {"kind": "student", "folder": "last", "name": "m' or name = 'x"},
        *(
            artifact | {"path": path}
            for path in (str(secret), "../secret.txt", "link.txt", "linked/secret.txt", "pipe")
        ),
        *(artifact | {"path": path} for path in ("", ".", "a//b", "./kept.txt", "kept.txt/..", "x\0y", 7, None, ["a"])),
        {"op": "image", "key": "k", "step": 0, "path": "image.png", "version": ""} | TIME,
        {"op": "text", "name": "../../up.txt", "text": "up"} | TIME,
        {"op": "tags", "values": {"mlflow.parentRunId": "x"}} | TIME,
        {"op": "params", "values": {"a": {"b": 1}}} | TIME,
        {"op": "metrics", "values": {"a": "x"}, "step": 0} | TIME,
        {"op": "metrics", "values": {"a": 1.0}, "step": 10**40} | TIME,
        {"op": "download", "uri": "http://127.0.0.1:9/x"} | TIME,
        {"op": "tags", "values": {"a": "b"}, "extra": 1} | TIME,
        {"op": ["open"]},
        "[" * 10_000,
        '{"op": "tags", "op": "close"}',
        "null",
        "not json",
    ]


def test_nothing_but_words_leaves_a_planted_outbox(config: TrackingConfig, secret: Path, tmp_path: Path) -> None:
    output = tmp_path / "output"
    output.mkdir()
    marker, code = tmp_path / "executed", tmp_path / "evil.py"
    code.write_text(f"open({str(marker)!r}, 'w').write('yes')\n")
    entries = hostile(output, secret, code)
    good = [
        {"op": "artifact", "path": "kept.txt", "version": ""} | TIME,
        {"op": "metrics", "values": {"fine": 1.5}, "step": 3} | TIME,
    ]
    plant(output, *entries, *good)
    before = sorted(path for path in tmp_path.rglob("*") if "server" not in path.parts)
    found = tracking.replay(output, config)
    problem = found[str(output)]
    assert problem is not None
    assert f"refused {len(entries)} of {len(entries) + len(good) + 2} entries" in problem
    assert not marker.exists()
    everything = uploaded(tmp_path)
    assert "a secret" not in everything
    assert "evil.py" not in everything
    assert "up.txt" not in everything
    assert "kept.txt" in everything
    (run,) = mlflow.MlflowClient(config.uri).search_runs(
        [mlflow.MlflowClient(config.uri).get_experiment_by_name("e").experiment_id]
    )
    assert run.data.metrics == {"fine": 1.5}
    assert run.info.status == "FINISHED"
    left = sorted(path for path in tmp_path.rglob("*") if "server" not in path.parts)
    assert {path.name for path in set(left) - set(before)} <= {SENT, "lock"}


def test_a_job_that_continues_does_not_run_what_an_outbox_names(
    config: TrackingConfig, secret: Path, tmp_path: Path
) -> None:
    output = tmp_path / "output"
    output.mkdir()
    code = tmp_path / "evil.py"
    code.write_text(f"open({str(tmp_path / 'executed')!r}, 'w').write('yes')\n")
    plant(output, *hostile(output, secret, code))
    with (
        pytest.warns(UserWarning, match="refused"),
        tracking.start_run(config, "run", output, job="extract", fingerprint="f") as run,
    ):
        run.metrics({"fine": 2.0})
    assert not (tmp_path / "executed").exists()
    assert "a secret" not in uploaded(tmp_path)


@pytest.mark.parametrize("linked", [FOLDER, "run", ENTRIES, SENT, "lock"])
def test_links_among_its_own_files_are_not_followed(
    linked: str, config: TrackingConfig, secret: Path, tmp_path: Path
) -> None:
    output, victim = tmp_path / "output", tmp_path / "victim"
    output.mkdir()
    victim.mkdir()
    folder = plant(output)
    if linked == FOLDER:
        folder.parent.rename(victim / "outbox")
        (output / FOLDER).symlink_to(victim / "outbox")
    elif linked == "run":
        folder.rename(victim / folder.name)
        folder.symlink_to(victim / folder.name)
    else:
        (folder / linked).unlink(missing_ok=True)
        (folder / linked).symlink_to(secret)
    if linked in (FOLDER, "run"):
        with pytest.raises(ValueError, match="valid"):
            tracking.replay(output, config)
    else:
        tracking.replay(output, config)
    assert secret.read_text() == "a secret"
    assert {path.name for path in victim.rglob("*")} <= {"outbox", folder.name, ENTRIES}
    assert "a secret" not in uploaded(tmp_path)


def test_a_pipe_in_place_of_the_entries_ends_at_once(config: TrackingConfig, tmp_path: Path) -> None:
    output = tmp_path / "output"
    output.mkdir()
    folder = plant(output)
    (folder / ENTRIES).unlink()
    os.mkfifo(folder / ENTRIES)
    assert "not a regular file" in str(tracking.replay(output, config)[str(output)])
    with pytest.warns(UserWarning, match="not in MLflow"):
        tracking.start_run(config, "run", output, job="extract", fingerprint="f").close()


def test_a_file_outside_the_output_is_not_told(config: TrackingConfig, secret: Path, tmp_path: Path) -> None:
    output = tmp_path / "output"
    with (
        pytest.warns(UserWarning, match="not in the output"),
        tracking.start_run(config, "run", output, job="extract", fingerprint="f") as run,
    ):
        run.artifact(secret)
    assert "a secret" not in uploaded(tmp_path)
