"""A training killed at any operation of a save: it goes on from the newest whole checkpoint, to the same bits."""

import json
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from clarep_ray import cli
from clarep_ray.config import TrainCdmConfig
from clarep_ray.data.durable import new_folder
from clarep_ray.data.shards import sha256_file
from clarep_ray.dotted import override
from clarep_ray.errors import TrainingDiverged
from clarep_ray.models import cdm_networks
from clarep_ray.models import cdm_training as cdm
from clarep_ray.models.checkpoints import load_newest, save_checkpoint
from clarep_ray.presets import TRAIN_CDM
from tests.faults.kills import killed_before
from tests.faults.test_damage import SmallTraining


def small_step(training: SmallTraining) -> None:
    training.step += 1
    training.weights = training.weights * 1.5 + training.step
    training.loss = {"mean": float(training.weights.sum())}


def resumed(root: Path) -> SmallTraining:
    training = SmallTraining()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no checkpoint is damaged
        load_newest(training, root, "mark")
    return training


def go_on(root: Path, until: int) -> SmallTraining:
    training = resumed(root)
    while training.step < until:
        small_step(training)
        save_checkpoint(training, root, "mark")
    return training


@pytest.mark.parametrize("before", [0, 1, 2, 3])
def test_a_save_killed_at_any_operation_leaves_the_newest_whole_checkpoint(before: int, tmp_path: Path) -> None:
    """As the first save, the second, and those that remove an older one."""
    whole = go_on(tmp_path / "whole", 5)
    go_on(tmp_path / "start", before)
    (tmp_path / "start").mkdir(exist_ok=True)
    newest: list[int] = []
    for number in range(100):
        root = tmp_path / "root"
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(tmp_path / "start", root)
        if not killed_before(number, root, lambda root=root: go_on(root, before + 1)):
            break
        newest.append(resumed(root).step)
        again = go_on(root, 5)
        assert (again.step, again.loss) == (5, whole.loss)
        assert again.weights.equal(whole.weights)
    assert len(newest) >= 12
    assert newest == sorted(newest)
    assert set(newest) == {before, before + 1}


def fill(folder: Path, number: int) -> None:
    """Write a folder as a model's is: tensors, a text, and a folder in it."""
    with new_folder(folder.parent, folder.name) as work:
        save_file({"x": torch.full((64,), float(number))}, work / "model.safetensors")
        (work / "config.json").write_text(str(number))
        (work / "part").mkdir()
        (work / "part" / "more.json").write_text(str(number))


def filled(folder: Path) -> int | None:
    """Return the number that a folder was filled with; None where there is none."""
    if not folder.exists():
        return None
    texts = [(folder / name).read_text() for name in ("config.json", "part/more.json")]
    numbers = {*map(int, texts), *(int(value) for value in load_file(folder / "model.safetensors")["x"])}
    assert len(numbers) == 1, f"of two saves: {numbers}"
    return numbers.pop()


@pytest.mark.parametrize("before", [None, 1])
def test_a_folder_whose_writing_is_killed_is_whole_or_absent(before: int | None, tmp_path: Path) -> None:
    """The first of its name, and one that takes the place of an older one."""
    seen: list[int | None] = []
    for number in range(100):
        root = tmp_path / str(number)
        root.mkdir()
        if before is not None:
            fill(root / "last", before)
        if not killed_before(number, root, lambda root=root: fill(root / "last", 2)):
            break
        seen.append(filled(root / "last"))
        fill(root / "last", 3)
        assert filled(root / "last") == 3
        assert [path.name for path in root.iterdir()] == ["last"], "something was left behind"
    assert len(seen) >= 12
    assert set(seen) == {before, None, 2}


def test_a_folder_takes_its_name_after_its_bytes_are_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    plain_fsync, plain_rename = os.fsync, os.rename

    def fsync(handle: int) -> None:
        done.append(f"sync {Path(f'/proc/self/fd/{handle}').readlink().name}")
        plain_fsync(handle)

    def rename(source: Any, target: Any, **rest: Any) -> None:
        done.append(f"name {Path(target).name}")
        plain_rename(source, target, **rest)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", rename)
    fill(tmp_path / "last", 1)
    named = done.index("name last")
    inside = {"sync model.safetensors", "sync config.json", "sync more.json", "sync part"}
    assert inside < set(done[:named])
    assert done[named - 1].startswith("sync .tmp-")
    assert done[named + 1 :] == [f"sync {tmp_path.name}"]


def test_a_folder_whose_writing_fails_leaves_the_older_one(tmp_path: Path) -> None:
    fill(tmp_path / "last", 1)
    with pytest.raises(IsADirectoryError), new_folder(tmp_path, "last") as work:
        work.write_text("a folder is no file")
    assert filled(tmp_path / "last") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["last"]


CDM: TrainCdmConfig = override(TRAIN_CDM["smoke"]().config, {"num_steps": 5, "checkpoint_every": 1})


def train_cdm_here(output: Path) -> None:
    """Do what a worker of the training job does, without Ray."""
    data = cdm.TrainingSet.read(CDM)
    network = cdm_networks.make_network(CDM, data.class_names)
    trainer = cdm.CdmTrainer.start(network, CDM)
    load_newest(trainer, output / "checkpoints", "mark")
    for _ in cdm.train_steps(trainer, network, data, CDM):
        save_checkpoint(trainer, output / "checkpoints", "mark")
    cdm_networks.write_result(trainer, CDM, data, output, "mark")


def distil_here(files: Path) -> Callable[[Path], None]:
    from clarep_ray.cadistill.run import train_alone
    from tests.cadistill.small import small_config

    config = small_config(files, "vanilla", schedule__epochs=2, checkpoint_every=2)
    return lambda output: train_alone(override(config, {"output": str(output)})) and None


def weights(output: Path) -> dict[str, Any]:
    """Return hashes of what a finished training leaves, and its loss; older checkpoints may be one more."""
    newest = max((output / "checkpoints").glob("step-*"))
    files = [path for path in output.rglob("*.safetensors") if path.parent == newest or "step-" not in path.parent.name]
    found = {str(path.relative_to(output)): sha256_file(path) for path in files}
    return found | {"loss": json.loads((output / "result.json").read_text())["loss"]}


def check_whole(output: Path) -> None:
    """Check that models are whole where they are at all, and that a result names those that are."""
    for name in ("model", "best", "last"):
        if (output / name).exists():
            more = {"scheduler"} if name == "model" else set[str]()
            assert {path.name for path in (output / name).iterdir()} == {"config.json", "model.safetensors"} | more
            assert load_file(output / name / "model.safetensors")
            assert json.loads((output / name / "config.json").read_text())
    if (output / "result.json").exists():
        result = json.loads((output / "result.json").read_text())
        named = [result["model"]] if "model" in result else [result[kind]["student"] for kind in ("last", "best")]
        assert all(Path(folder).is_dir() for folder in named)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("training", ["train_cdm", "distill"])
def test_a_training_killed_at_every_operation_one_after_another_ends_with_the_same_weights(
    training: str, files: Path, tmp_path: Path
) -> None:
    train = train_cdm_here if training == "train_cdm" else distil_here(files)
    train(tmp_path / "whole")
    (tmp_path / "cut").mkdir()
    kills = 0
    for number in range(1, 500):
        cut = tmp_path / "cut" / str(number)
        if not killed_before(number, cut, lambda cut=cut: train(cut)):
            break
        kills += 1
        check_whole(cut)
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            train(cut)
        assert weights(cut) == weights(tmp_path / "whole"), f"killed before operation {number}"
        shutil.rmtree(cut)
    print(f"{training}: {kills} kills")
    assert kills > 60


@pytest.mark.nightly
@pytest.mark.timeout(900)
def test_a_training_on_ray_that_diverges_ends_at_its_step_and_is_not_begun_again(
    tmp_path: Path, ray_session: None
) -> None:
    from clarep_ray.cluster.train_cdm import train_cdm

    changes = {"output": str(tmp_path), "learning_rate": 1e30, "warmup_steps": 0, "tracking.enabled": False}
    with pytest.raises(TrainingDiverged, match=r"step [2-5]: the loss is") as caught:
        train_cdm(override(CDM, changes))
    assert cli.known_fault(caught.value) == (str(caught.value), 13)
    assert not (tmp_path / "result.json").exists()
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, len(steps) + 1)), "it was begun again"
