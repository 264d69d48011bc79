"""An outbox of somebody else: what it asks for beyond words is never done, and its files lie in the output."""

import json
import os
import shutil
import uuid
from pathlib import Path
from typing import Any

import mlflow
import pytest

from clarep_ray import tracking
from clarep_ray.config import TrackingConfig
from clarep_ray.data.inside import NotInside
from clarep_ray.data.text_tables import markdown
from clarep_ray.tracking import outbox, sender
from clarep_ray.tracking.entries import check_entry
from clarep_ray.tracking.outbox import ENTRIES, FOLDER, SENT

TIME = {"time_ms": 1_700_000_000_000}
OPEN = {"op": "open", "name": "run", "job": "extract", "fingerprint": "f", "parent": None, "tags": {}} | TIME
CLOSE = {"op": "close", "status": "FINISHED"} | TIME
SHAPES = {"input_shape": [-1, 3, 8, 8], "output_shape": [-1, 2]}


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A server's file without runs, which takes MLflow seconds to make."""
    path = tmp_path_factory.mktemp("server") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def config(empty: Path, tmp_path: Path) -> TrackingConfig:
    (tmp_path / "server").mkdir()
    shutil.copy(empty, tmp_path / "server")
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


def runs_of(config: TrackingConfig) -> list[mlflow.entities.Run]:
    client = mlflow.MlflowClient(config.uri)
    experiment = client.get_experiment_by_name("e")
    return list(client.search_runs([experiment.experiment_id])) if experiment else []


def student_folder(output: Path) -> dict[str, Any]:
    (output / "last").mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "evil.py", "huge.bin"):
        (output / "last" / name).write_text("{}")
    return {"op": "model", "kind": "student", "folder": "last", "tags": {}} | SHAPES | TIME


def test_whose_models_are_replaced_is_for_the_command_line_to_say(config: TrackingConfig, tmp_path: Path) -> None:
    """A version of a registered model is what others deploy: no outbox names another one, nor one for other jobs."""
    output = tmp_path / "output"
    model = student_folder(output)
    plant(output, model | {"name": config.registered_model}, model | {"name": "production"})
    problem = tracking.replay(output, config)[str(output)]
    assert problem is not None
    assert "refused 2 of 4 entries: model: a run of the job 'extract' makes no model" in problem
    distilled = tmp_path / "distilled"
    model = student_folder(distilled)
    folder = plant(distilled, model | {"name": "production"}, model | {"name": config.registered_model})
    lines = (folder / ENTRIES).read_text().splitlines()
    (folder / ENTRIES).write_text("\n".join([json.dumps(OPEN | {"job": "distill"}), *lines[1:]]) + "\n")
    problem = tracking.replay(distilled, config)[str(distilled)]
    assert problem is not None
    assert (
        "refused 1 of 4 entries: model: tracking.registered_model is 'clarep-ray-student', not 'production'" in problem
    )
    client = mlflow.MlflowClient(config.uri, registry_uri=config.uri)
    assert [model.name for model in client.search_registered_models()] == ["clarep-ray-student"]
    everything = uploaded(tmp_path)
    assert "model.safetensors" in everything
    assert "evil.py" not in everything
    assert "huge.bin" not in everything


def test_a_record_of_what_was_sent_can_lie_about_its_own_run_alone(config: TrackingConfig, tmp_path: Path) -> None:
    """It names somebody else's run, which stays as it is; and of two runs of its own none with entries is deleted."""
    output = tmp_path / "output"
    output.mkdir()
    folder = plant(output, {"op": "metrics", "values": {"a": 1.0}, "step": 0} | TIME)
    client = mlflow.MlflowClient(config.uri)
    experiment = client.create_experiment("e")
    other = client.create_run(experiment).info.run_id
    twins = [client.create_run(experiment, tags={"clarep_run": folder.name}).info.run_id for _ in range(3)]
    client.log_metric(twins[2], "precious", 7.0)
    from clarep_ray.tracking.outbox import _server

    for known in (other, twins[0]):
        (folder / SENT).write_text(json.dumps({_server(str(config.uri), "e"): [10**9, known]}))
        assert tracking.replay(output, config) == {str(output): None}
        left = {run.info.run_id: run.data.metrics for run in runs_of(config)}
        assert left[other] == {}
        assert left[twins[2]]["precious"] == 7.0


NOTES = (
    "![x](http://evil.example/pixel.png)",
    "[click](javascript:alert(1))",
    "[x] (http://evil.example)",
    "[x][y]\n\n[y]: http://evil.example",
    "[y]: http://evil.example",
    "<img src=http://evil.example/x.png>",
    "<script>alert(1)</script>",
    "a\n<!-- b",
)


@pytest.mark.parametrize("note", NOTES)
def test_a_description_fetches_and_runs_nothing(note: str, config: TrackingConfig, tmp_path: Path) -> None:
    output = tmp_path / "output"
    output.mkdir()
    with pytest.raises(ValueError, match=r"^values of an entry 'tags' is not valid"):
        check_entry({"op": "tags", "values": {"mlflow.note.content": note}} | TIME)
    with pytest.raises(ValueError, match=r"^tags of an entry 'open' is not valid"):
        check_entry(OPEN | {"tags": {"mlflow.note.content": note}})
    check_entry(
        {"op": "tags", "values": {"mlflow.note.content": f"| {markdown(note)} |\n|---|\n| 0.1 [0.0, 0.2] |"}} | TIME
    )


@pytest.mark.parametrize("name", ["x" * 251, "a\nb", "\x1b[2J", "\u202eevil", "", 7])
def test_a_run_is_called_by_one_short_line(name: Any) -> None:
    if name == "":
        return check_entry(OPEN | {"name": name})
    with pytest.raises(ValueError, match=r"^name of an entry 'open' is not valid"):
        check_entry(OPEN | {"name": name})
    return None


def test_a_job_whose_name_is_odd_is_told_all_the_same(config: TrackingConfig, tmp_path: Path) -> None:
    title = "evaluate a\nb \x1b[2J" + "c" * 300
    with tracking.start_run(config, title, tmp_path / "out", job="evaluate", fingerprint="f"):
        pass
    (run,) = runs_of(config)
    assert run.info.run_name == r"evaluate a\nb \x1b[2J" + "c" * (250 - len(r"evaluate a\nb \x1b[2J"))


def test_what_cannot_be_read_holds_up_nothing_behind_it(config: TrackingConfig, tmp_path: Path) -> None:
    output = tmp_path / "output"
    (output / "folder").mkdir(parents=True)
    (output / "no.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 100)
    (output / "closed.txt").write_text("x")
    image = {"op": "image", "step": 0, "version": ""} | TIME
    bad = [
        {"op": "artifact", "path": "folder", "version": ""} | TIME,
        {"op": "artifact", "path": "gone.txt", "version": ""} | TIME,
        {"op": "artifact", "path": f"{'n' * 300}.txt", "version": ""} | TIME,
        {"op": "artifact", "path": "closed.txt/below", "version": ""} | TIME,
        *(image | {"key": key, "path": "no.png"} for key in ("k", "k" * 121, "../k\x00", "k\nl", "é*")),
        image | {"key": "k", "path": "folder"},
    ]
    plant(output, *bad, {"op": "metrics", "values": {"last": 1.0}, "step": 0} | TIME)
    problem = tracking.replay(output, config)[str(output)]
    assert problem is not None
    assert f"refused {len(bad)} of {len(bad) + 3} entries" in problem
    assert [run.data.metrics for run in runs_of(config)] == [{"last": 1.0}]


def test_files_and_runs_are_counted(config: TrackingConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same file told a thousand times is uploaded once; beyond so many files and runs nothing is sent."""
    monkeypatch.setattr(outbox, "MAX_FILES", 20)
    output = tmp_path / "output"
    output.mkdir()
    (output / "big.txt").write_text("x")
    plant(output, *([{"op": "artifact", "path": "big.txt", "version": ""} | TIME] * 25))
    uploads: list[str] = []
    plain = mlflow.MlflowClient.log_artifact
    monkeypatch.setattr(mlflow.MlflowClient, "log_artifact", lambda *rest: (uploads.append(rest[2]), plain(*rest))[1])
    problem = tracking.replay(output, config)[str(output)]
    assert problem is not None
    assert "refused 5 of 27 entries: refused: it is the file 21 of at most 20" in problem
    assert len(uploads) == 1
    for number in range(3):
        plant(output / str(number))
    monkeypatch.setattr(sender, "MAX_RUNS", 3)
    with pytest.raises(ValueError, match="holds more than 3 runs; valid: a folder below it"):
        tracking.replay(output, config)


def test_an_outbox_that_is_full_costs_a_warning(
    config: TrackingConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "MAX_ENTRIES_BYTES", 2000)
    with tracking.start_run(config, "run", tmp_path / "out", job="extract", fingerprint="f") as run:
        run.tags({"a": "x" * 1000})
        with pytest.warns(UserWarning, match="a run tells MLflow at most 2000 bytes"):
            run.tags({"b": "x" * 1000})
    assert [each.data.tags.get("b") for each in runs_of(config)] == [None]


def test_the_first_entry_of_a_large_outbox_is_found_without_reading_it(tmp_path: Path) -> None:
    output = tmp_path / "output"
    output.mkdir()
    folder = plant(output)
    with (folder / ENTRIES).open("ab") as file:
        file.truncate(2**33)  # a hole: eight gigabytes of nothing
    assert outbox.find_outbox(output, "extract", "another") is None
    with pytest.raises(NotInside, match="has more than"):
        outbox.find_outbox(output, "extract", "f")
