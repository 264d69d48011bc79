"""The training job up to where Ray would start: what it refuses, what it finds finished."""

import json
from pathlib import Path

import pytest

from clarep_ray import cli, dotted
from clarep_ray.cluster import runtime
from clarep_ray.cluster.train_cdm import _absolute, train_cdm
from clarep_ray.config import TrainCdmConfig
from clarep_ray.models.cdm_networks import make_network, write_result
from clarep_ray.models.cdm_training import CdmTrainer, TrainingSet, fingerprint, train_steps
from clarep_ray.models.checkpoints import save_checkpoint
from clarep_ray.presets import TRAIN_CDM
from tests.data import trees

SMOKE: TrainCdmConfig = dotted.override(TRAIN_CDM["cifar10_unet_smoke"]().config, {"tracking.enabled": False})


class RayStarted(Exception):
    pass


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect() -> None:
        raise RayStarted

    monkeypatch.setattr(runtime, "connect", connect)


def test_pictures_that_cannot_be_read_are_refused_before_ray_starts() -> None:
    with pytest.raises(ValueError, match=r"data\.path: '/nowhere' is not a folder"):
        train_cdm(dotted.override(SMOKE, {"data.source": "cifar10", "data.path": "/nowhere", "image_size": 32}))


def test_a_folder_of_other_pictures_is_refused_and_a_finished_one_is_read(tmp_path: Path) -> None:
    config: TrainCdmConfig = dotted.override(SMOKE, {"output": str(tmp_path), "num_steps": 1})
    data = TrainingSet.read(config)
    trainer = CdmTrainer.start(make_network(config, data.class_names), config)
    assert list(train_steps(trainer, trainer.network, data, config)) == [1]
    save_checkpoint(trainer, tmp_path / "checkpoints", fingerprint(config, data))
    with pytest.raises(RayStarted):
        train_cdm(config)
    with pytest.raises(ValueError, match="holds a training with another config, other pictures"):
        train_cdm(dotted.override(config, {"data.digits.seed": 7}))
    write_result(trainer, config, data, tmp_path, fingerprint(config, data))
    done = json.loads((tmp_path / "result.json").read_text())
    (tmp_path / "result.json").write_text(json.dumps(done | {"model": "/elsewhere"}))
    assert train_cdm(config) == done, "the model is the output's own, whatever its record says"


def test_renamed_class_folders_are_another_training(tmp_path: Path) -> None:
    root = trees.image_folder(tmp_path / "in", ("cat", "dog"))
    files = {"data.source": "image_folder", "data.path": str(root), "output": str(tmp_path / "out")}
    config: TrainCdmConfig = dotted.override(SMOKE, files)
    data = TrainingSet.read(config)
    save_checkpoint(
        CdmTrainer.start(make_network(config, data.class_names), config),
        tmp_path / "out/checkpoints",
        fingerprint(config, data),
    )
    with pytest.raises(RayStarted):
        train_cdm(config)
    (root / "dog").rename(root / "horse")
    assert TrainingSet.read(config).sha256 == data.sha256
    with pytest.raises(ValueError, match="holds a training with another config, other pictures or other class names"):
        train_cdm(config)


def test_workers_are_given_absolute_paths(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    files = {"data.source": "flat_folder", "data.path": "in", "data.labels_file": "a.csv", "data.classes": ("3", "@b")}
    data = _absolute(dotted.override(SMOKE, files)).data
    assert (data.path, data.labels_file) == (str(tmp_path / "in"), str(tmp_path / "a.csv"))
    assert data.classes == ("3", f"@{tmp_path / 'b'}")


def test_a_wrong_setting_on_the_command_line_exits_with_two(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from jobs.train_cdm import TrainCdmJob

    monkeypatch.setattr("sys.argv", ["train_cdm.py", "--preset", "cifar10_unet_smoke", "--label-dropout", "1.0"])
    with pytest.raises(SystemExit) as stopped:
        cli.parse(TrainCdmJob, TRAIN_CDM, "rho90")
    assert stopped.value.code == 2
    assert "label_dropout: 1.0 is not valid; valid: 0 up to" in capsys.readouterr().err
