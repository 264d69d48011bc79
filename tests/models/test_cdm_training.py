"""Training of the embedded model: the same weights whatever interrupts it, and what is refused."""

from pathlib import Path

import pytest
import torch

from clarep_ray import dotted
from clarep_ray.config import TrainCdmConfig
from clarep_ray.data.spurious_digits import CLASS_NAMES
from clarep_ray.errors import TrainingDiverged
from clarep_ray.models import cdm_training as cdm
from clarep_ray.models.cdm_networks import make_network
from clarep_ray.models.checkpoints import check_checkpoints, load_newest, save_checkpoint
from clarep_ray.presets import TRAIN_CDM
from clarep_ray.seeding import torch_generator
from tests.cluster.reference import flip_byte

CONFIG: TrainCdmConfig = dotted.override(TRAIN_CDM["smoke"]().config, {"num_steps": 6})


def fresh(config: TrainCdmConfig = CONFIG) -> cdm.CdmTrainer:
    return cdm.CdmTrainer.start(make_network(config, CLASS_NAMES), config)


@pytest.fixture(scope="module")
def pictures() -> cdm.TrainingSet:
    return cdm.TrainingSet.read(CONFIG)


def train(trainer: cdm.CdmTrainer, pictures: cdm.TrainingSet, until: int, root: Path | None = None) -> cdm.CdmTrainer:
    while trainer.step < until:
        cdm.train_step(trainer, trainer.network, cdm.draw_batch(pictures, CONFIG, trainer.step), CONFIG)
        if root is not None:
            save_checkpoint(trainer, root, "mark")
    return trainer


def test_a_training_that_was_interrupted_ends_with_the_same_bits(pictures, tmp_path: Path) -> None:
    whole = train(fresh(), pictures, 6)
    train(fresh(), pictures, 4, tmp_path)
    resumed = fresh()
    load_newest(resumed, tmp_path, "mark")
    assert resumed.step == 4
    train(resumed, pictures, 6)
    assert resumed.recent_loss == whole.recent_loss
    for name, value in whole.average.items():
        assert torch.equal(value, resumed.average[name]), name
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["step-00000003", "step-00000004"]


def test_a_loss_that_is_no_number_ends_the_training_before_it_reaches_the_weights(pictures, tmp_path: Path) -> None:
    trainer = train(fresh(), pictures, 2, tmp_path)
    before = {name: value.clone() for name, value in trainer.network.state_dict().items()}
    batch = cdm.draw_batch(pictures, CONFIG, 2)
    batch["eps"][0, 0, 0, 0] = torch.inf
    with pytest.raises(TrainingDiverged, match=r"step 3: the loss is (nan|inf) .*; try a lower learning rate"):
        cdm.train_step(trainer, trainer.network, batch, CONFIG)
    assert trainer.step == 2
    assert all(torch.equal(value, before[name]) for name, value in trainer.network.state_dict().items())


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
        load_newest(resumed, tmp_path, "mark")
    assert resumed.step == 1
    flip_byte(tmp_path / "step-00000001" / damage, 0)
    with pytest.warns(UserWarning, match="damaged"), pytest.raises(ValueError, match="all are damaged"):
        load_newest(fresh(), tmp_path, "mark")


def test_checkpoints_of_another_config_are_refused(pictures, tmp_path: Path) -> None:
    train(fresh(), pictures, 1, tmp_path / "checkpoints")
    with pytest.raises(ValueError, match="holds a training with another config"):
        check_checkpoints(tmp_path / "checkpoints", "other mark")


def test_batches_follow_from_the_step_alone_and_labels_are_dropped_whole(pictures) -> None:
    first, again = (cdm.draw_batch(pictures, CONFIG, 5) for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["eps"], cdm.draw_batch(pictures, CONFIG, 6)["eps"])
    large = dotted.override(CONFIG, {"batch_size": 4000})
    share = (cdm.draw_batch(pictures, large, 0)["classes"] == 10).float().mean().item()
    assert share == pytest.approx(CONFIG.label_dropout, abs=0.02)


def test_the_stream_of_the_shipped_models_is_what_it_was(pictures) -> None:
    """Their cards cite a command: another order of draws, or another layout of pictures, would give other weights."""
    batch = cdm.draw_batch(pictures, CONFIG, 3)
    generator = torch_generator(CONFIG.seed, "step/3", "train_cdm")
    chosen = torch.randint(64, (8,), generator=generator)
    assert torch.equal(batch["timesteps"], torch.randint(1000, (8,), generator=generator))
    assert torch.equal(batch["eps"], torch.randn((8, 3, 8, 8), generator=generator))
    dropped = torch.rand(8, generator=generator) < 0.1
    assert torch.equal(batch["classes"], torch.where(dropped, 10, pictures.labels[chosen]))
    pixels = pictures.images.float() / 127.5 - 1
    assert torch.equal(batch["x_0"], pixels[chosen])
    assert batch["x_0"].stride() == pixels[chosen].stride()
    assert pictures.sha256.startswith("fbc43795911cd13b")


def test_flips_mirror_about_half_the_pictures_and_change_nothing_else(pictures) -> None:
    plain = cdm.draw_batch(pictures, dotted.override(CONFIG, {"batch_size": 400}), 0)
    flipped = cdm.draw_batch(pictures, dotted.override(CONFIG, {"batch_size": 400, "flip": True}), 0)
    for name in ("timesteps", "eps", "classes"):
        assert torch.equal(plain[name], flipped[name])
    mirrored = (flipped["x_0"] == plain["x_0"].flip(3)).flatten(1).all(1)
    same = (flipped["x_0"] == plain["x_0"]).flatten(1).all(1)
    assert bool((mirrored | same).all())
    assert mirrored.float().mean().item() == pytest.approx(0.5, abs=0.1)


class _Constant(torch.nn.Module):
    def forward(self, x_t: torch.Tensor, *, timestep, class_labels, return_dict: bool) -> tuple[torch.Tensor]:
        return (0.5 * x_t,)


def test_losses_equal_a_computation_by_hand() -> None:
    """One pixel at timesteps 0 and 1, where alpha^2 is 1 - 1e-4 and that times (1 - beta_1)."""
    ones = torch.ones(2, 1, 1, 1)
    batch = {"x_0": ones, "eps": -2 * ones, "timesteps": torch.tensor([0, 1]), "classes": torch.tensor([0, 1])}
    second_beta = 1e-4 + (0.02 - 1e-4) / 999
    by_hand = {"epsilon": 0.0, "v_prediction": 0.0}
    for squared in (1 - 1e-4, (1 - 1e-4) * (1 - second_beta)):
        alpha, sigma = squared**0.5, (1 - squared) ** 0.5
        predicted = 0.5 * (alpha * 1 + sigma * -2)
        by_hand["epsilon"] += (predicted - -2) ** 2 / 2
        by_hand["v_prediction"] += (predicted - (alpha * -2 - sigma * 1)) ** 2 / 2
    assert cdm.denoising_loss(_Constant(), batch, "epsilon").item() == pytest.approx(by_hand["epsilon"], rel=1e-6)
    found = cdm.denoising_loss(_Constant(), batch, "v_prediction").item()
    assert found == pytest.approx(by_hand["v_prediction"], rel=1e-6)


def test_learning_rates_warm_up_and_then_decay_or_stay() -> None:
    config = dotted.override(CONFIG, {"warmup_steps": 4, "num_steps": 100, "learning_rate": 1.0})
    assert cdm.learning_rate_at(0, config) == 0.25
    assert cdm.learning_rate_at(50, config) == pytest.approx(0.5)
    constant = dotted.override(config, {"decay": "constant"})
    assert [cdm.learning_rate_at(step, constant) for step in (0, 3, 50, 99)] == [0.25, 1.0, 1.0, 1.0]
