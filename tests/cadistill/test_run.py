"""A training from config to result: what is written, what is resumed, what is refused before anything starts."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from clarep_ray import cli
from clarep_ray.cadistill import run as running
from clarep_ray.cadistill import training
from clarep_ray.cadistill.evaluation import accuracy
from clarep_ray.cadistill.run import prepare, read_result, run_training, train_alone
from clarep_ray.dotted import override
from clarep_ray.errors import TrainingDiverged
from clarep_ray.models.checkpoints import load_newest
from clarep_ray.models.students import load_student
from tests.cadistill.small import digest, small_config, start, write_clareps, write_teacher


def hashes(output: Path) -> list[str]:
    from clarep_ray.data.shards import sha256_file

    return [sha256_file(output / name / "model.safetensors") for name in ("last", "best")]


class Killed(Exception):
    pass


def killed_at(step: int):
    def report(record: dict) -> None:
        if record["step"] == step:
            raise Killed

    return report


def test_a_training_that_is_killed_between_epochs_and_in_one_ends_with_the_same_files(
    files: Path, tmp_path: Path
) -> None:
    config = small_config(files, "cadistill", schedule__epochs=3, checkpoint_every=3, loader_threads=2)
    whole = train_alone(override(config, {"output": str(tmp_path / "whole")}))
    cut = override(config, {"output": str(tmp_path / "cut"), "loader_threads": 1})
    for step in (3, 4, 9):
        opened, mark, _ = prepare(cut)
        with pytest.raises(Killed):
            run_training(cut, opened, mark, report=killed_at(step))
    again = train_alone(cut)
    assert hashes(tmp_path / "whole") == hashes(tmp_path / "cut")
    assert (tmp_path / "whole/metrics.jsonl").read_bytes() == (tmp_path / "cut/metrics.jsonl").read_bytes()
    records = [json.loads(line) for line in (tmp_path / "cut/metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [4, 8, 12]
    assert {"ce", "align", "separate", "cka", "loss", "val_accuracy", "learning_rate"} <= records[0].keys()
    best = max(records, key=lambda record: record["val_accuracy"])
    assert again["best"]["epoch"] == best["epoch"]
    assert again["fingerprint"] == whole["fingerprint"]
    assert train_alone(cut) == again  # finished: read, not trained


def test_students_of_a_training_load_and_say_what_their_labels_stand_for(files: Path, tmp_path: Path) -> None:
    result = train_alone(small_config(files, "vanilla", output=str(tmp_path)))
    for kind in ("last", "best"):
        student = load_student(result[kind]["student"])
        assert student.architecture.class_names == tuple("0123456789")
    opened, _, _ = prepare(small_config(files, "vanilla", output=str(tmp_path / "other")))
    assert accuracy(student, opened.val) == pytest.approx(result["best"]["val_accuracy"])


@pytest.mark.parametrize(
    ("method", "changes", "message"),
    [
        ("cadistill", {"clareps__path": "/nowhere"}, "'/nowhere' has no MANIFEST"),
        ("cadistill", {"clareps__pictures": "random@1"}, "pictures: 'random@1' is not in"),
        ("cadistill", {"clareps__pairing": "same_image", "data__digits__count": 60}, "12 images have no CLARep in"),
        ("dmdistill", {"data__digits__count": 60}, "12 images have no CLARep in"),
        (
            "dmdistill",
            {"teacher__source": "network"},
            r"teacher\.source: 'network' is not valid; valid: features, diff",
        ),
        ("dmdistill", {"teacher__features": None}, r"teacher\.features: None is not valid"),
        ("kd", {"teacher__network": "/nowhere"}, r"teacher\.network: '/nowhere' has no config\.json"),
        ("repfusion", {"teacher__reading__layer": "blocks.9"}, r"teacher\.reading\.layer: 'blocks\.9' is not valid"),
        ("vanilla", {"student__name": "resnet99"}, r"student\.name: 'resnet99' is unknown"),
        ("vanilla", {"schedule__batch_size": 100}, r"schedule\.batch_size: 100 is more than the 48 training images"),
        ("vanilla", {"num_workers": 5}, r"schedule\.batch_size: 12 is not valid; valid: a multiple of 5"),
        ("vanilla", {"val__digits__image_size": 20}, r"val\.digits\.image_size: 20 is not valid"),
        ("supcon", {"augment__mixup": 0.8}, r"augment\.mixup: 0\.8 is not valid"),
        ("cadistill", {"loss__weight_align": -1.0}, r"loss\.weight_align: -1\.0 is not valid"),
    ],
)
def test_what_cannot_work_is_refused_before_a_training_starts(
    method: str, changes: dict, message: str, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "run_training", None)
    with pytest.raises(ValueError, match=message):
        train_alone(small_config(files, method, output=str(tmp_path), **changes))


def test_other_clareps_or_another_teacher_are_another_training(files: Path, tmp_path: Path) -> None:
    config = small_config(files, "cadistill", output=str(tmp_path / "out"))
    opened, mark, _ = prepare(config)
    with pytest.raises(Killed):
        run_training(config, opened, mark, report=killed_at(4))
    assert read_result(tmp_path / "out") == {}
    other = write_clareps(tmp_path / "other", count=40)
    with pytest.raises(ValueError, match="holds a training with another config, other pictures"):
        prepare(override(config, {"clareps.path": other}))
    moved = override(config, {"clareps.path": str(files / "clareps") + "/."})
    assert prepare(moved)[1] == mark
    first = prepare(small_config(files, "kd", output=str(tmp_path / "kd")))[1]
    write_teacher(tmp_path / "teacher")
    moved = small_config(files, "kd", output=str(tmp_path / "kd"), teacher__network=str(tmp_path / "teacher"))
    assert prepare(moved)[1] == first


@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_loss_that_is_no_number_ends_the_training_at_its_step_and_the_last_good_weights_are_kept(
    clip: float | None, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config(files, "vanilla", checkpoint_every=2, optimizer__clip_norm=clip, output=str(tmp_path))
    plain, seen = training.batch_terms, list[str]()

    def batch_terms(trainer, *rest):
        terms = plain(trainer, *rest)
        if trainer.step == 4:  # the fifth
            seen.append(digest(trainer))
            return {name: value * float("nan") for name, value in terms.items()}
        return terms

    opened, mark, _ = prepare(config)
    with monkeypatch.context() as patch:
        patch.setattr(training, "batch_terms", batch_terms)
        with pytest.raises(TrainingDiverged, match=r"step 5: the loss is nan and its gradient's norm nan") as caught:
            run_training(config, opened, mark)
    assert cli.known_fault(caught.value) == (str(caught.value), 13)
    kept, _, _ = start(config)
    load_newest(kept, tmp_path / "checkpoints", mark)
    assert (kept.step, [digest(kept)]) == (4, seen)
    cut, whole = train_alone(config), train_alone(override(config, {"output": str(tmp_path / "whole")}))
    assert hashes(tmp_path) == hashes(tmp_path / "whole")
    assert cut["loss"] == whole["loss"]


def test_a_gradient_that_overflows_ends_the_training(files: Path, tmp_path: Path) -> None:
    config = small_config(files, "vanilla", optimizer__learning_rate=1e30, output=str(tmp_path))
    with pytest.raises(TrainingDiverged, match=r"step 2: .*; try a lower learning rate"):
        train_alone(config)


@pytest.mark.parametrize("option", ["amp", "channels_last"])
def test_precision_and_layout_change_rounding_only(option: str, files: Path, tmp_path: Path) -> None:
    plain = train_alone(small_config(files, "cadistill", schedule__epochs=1, output=str(tmp_path / "plain")))
    other = train_alone(
        small_config(files, "cadistill", schedule__epochs=1, output=str(tmp_path / option), **{option: True})
    )
    assert other["fingerprint"] != plain["fingerprint"]
    assert other["loss"] == pytest.approx(plain["loss"], rel=0.02)


def test_a_logged_student_is_served_without_pickles(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    from clarep_ray import tracking
    from clarep_ray.config import TrackingConfig

    result = train_alone(small_config(files, "vanilla", schedule__epochs=1, output=str(tmp_path / "out")))
    folder = result["last"]["student"]
    model = tracking.ServedModel(
        kind="student",
        folder=Path(folder),
        input_shape=(-1, 3, 16, 16),
        output_shape=(-1, 10),
    )
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    for _ in range(2):  # a training that is run again adds no version
        with tracking.start_run(
            TrackingConfig(uri=uri, experiment="e"), "run", tmp_path, job="distill", fingerprint="f"
        ) as run:
            run.model(model, "clarep-ray-student", {"seed": "0"})
    client = mlflow.MlflowClient(uri)
    (version,) = client.search_model_versions("name = 'clarep-ray-student'")
    assert version.tags == {"seed": "0"}
    (output,) = client.get_run(version.run_id).outputs.model_outputs
    assert f"/{output.model_id}/" in version.source
    assert not list(Path(tmp_path).rglob("*.pkl"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)  # as a user of the model has it
    served = mlflow.pyfunc.load_model("models:/clarep-ray-student/1")
    pixels = np.random.default_rng(0).random((2, 3, 16, 16), dtype=np.float32)
    with torch.no_grad():
        assert np.allclose(served.predict(pixels), load_student(folder)(torch.from_numpy(pixels)).numpy(), atol=1e-6)
    assert served.metadata.signature.inputs.inputs[0].shape == (-1, 3, 16, 16)
