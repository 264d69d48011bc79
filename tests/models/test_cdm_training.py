"""Training of the embedded model: the same weights whatever interrupts it, and what is refused."""

from pathlib import Path

import pytest
import torch

from clarep_ray import dotted
from clarep_ray.config import TrainCdmConfig
from clarep_ray.models import cdm_training as cdm
from clarep_ray.models.digits_dit import make_network
from clarep_ray.presets import TRAIN_CDM
from tests.cluster.reference import flip_byte

CONFIG: TrainCdmConfig = dotted.override(TRAIN_CDM["smoke"]().config, {"num_steps": 6})


def fresh(config: TrainCdmConfig = CONFIG) -> cdm.CdmTrainer:
    torch.manual_seed(config.seed)
    return cdm.CdmTrainer.start(make_network(cdm.architecture_of(config)), config)


@pytest.fixture(scope="module")
def pictures():
    return cdm.training_pictures(CONFIG)[:2]


def train(trainer: cdm.CdmTrainer, pictures, until: int, root: Path | None = None) -> cdm.CdmTrainer:
    while trainer.step < until:
        cdm.train_step(trainer, trainer.network, cdm.draw_batch(*pictures, CONFIG, trainer.step), CONFIG)
        if root is not None:
            cdm.save_checkpoint(trainer, root, "mark")
    return trainer


def test_a_training_that_was_interrupted_ends_with_the_same_bits(pictures, tmp_path: Path) -> None:
    whole = train(fresh(), pictures, 6)
    train(fresh(), pictures, 4, tmp_path)
    resumed = fresh()
    cdm.load_newest(resumed, tmp_path, "mark")
    assert resumed.step == 4
    train(resumed, pictures, 6)
    assert resumed.recent_loss == whole.recent_loss
    for name, value in whole.average.items():
        assert torch.equal(value, resumed.average[name]), name
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["step-00000003", "step-00000004"]


def test_the_average_lags_behind_the_weights(pictures) -> None:
    trainer = train(fresh(), pictures, 1)
    start = dict(fresh().network.named_parameters())
    for name, parameter in trainer.network.named_parameters():
        # The first step averages one to nine, so that early weights are soon forgotten.
        expected = start[name] + (parameter - start[name]) * (1 - 1 / 10)
        torch.testing.assert_close(trainer.average[name], expected.detach())


@pytest.mark.parametrize("damage", ["network.safetensors", "state.json"])
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(pictures, tmp_path: Path, damage: str) -> None:
    train(fresh(), pictures, 2, tmp_path)
    flip_byte(tmp_path / "step-00000002" / damage, 0)
    resumed = fresh()
    with pytest.warns(UserWarning, match="step-00000002 is damaged"):
        cdm.load_newest(resumed, tmp_path, "mark")
    assert resumed.step == 1
    flip_byte(tmp_path / "step-00000001" / damage, 0)
    with pytest.warns(UserWarning, match="damaged"), pytest.raises(ValueError, match="all are damaged"):
        cdm.load_newest(fresh(), tmp_path, "mark")


def test_checkpoints_of_another_config_are_refused(pictures, tmp_path: Path) -> None:
    train(fresh(), pictures, 1, tmp_path / "checkpoints")
    with pytest.raises(ValueError, match="holds a training with another config"):
        cdm.check_checkpoints(tmp_path / "checkpoints", "other mark")


def test_batches_follow_from_the_step_alone_and_labels_are_dropped_whole(pictures) -> None:
    first, again = (cdm.draw_batch(*pictures, CONFIG, 5) for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["eps"], cdm.draw_batch(*pictures, CONFIG, 6)["eps"])
    large = dotted.override(CONFIG, {"batch_size": 4000})
    share = (cdm.draw_batch(*pictures, large, 0)["classes"] == 10).float().mean().item()
    assert share == pytest.approx(CONFIG.label_dropout, abs=0.02)
