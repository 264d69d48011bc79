"""Training of the class-conditional UNet: from files to a folder that extraction loads; what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from clarep_ray import dotted, models
from clarep_ray.config import ModelConfig, TrainCdmConfig, UnetSizes
from clarep_ray.data.cifar10 import CIFAR10_NAMES
from clarep_ray.models import cdm_training as cdm
from clarep_ray.models import class_unet
from clarep_ray.models.cdm_networks import make_network, write_result
from clarep_ray.models.checkpoints import load_newest, save_checkpoint
from clarep_ray.presets import TRAIN_CDM
from tests.data import trees

SMOKE: TrainCdmConfig = TRAIN_CDM["cifar10_unet_smoke"]().config
FULL: TrainCdmConfig = TRAIN_CDM["cifar10_unet"]().config


def start(config: TrainCdmConfig, data: cdm.TrainingSet) -> cdm.CdmTrainer:
    return cdm.CdmTrainer.start(make_network(config, data.class_names), config)


def train(trainer: cdm.CdmTrainer, data: cdm.TrainingSet, config: TrainCdmConfig, until: int) -> cdm.CdmTrainer:
    steps = cdm.train_steps(trainer, trainer.network, data, config)
    while trainer.step < until:
        next(steps)
    return trainer


@pytest.fixture
def cifar10(tmp_path: Path) -> TrainCdmConfig:
    trees.cifar10(tmp_path / "cifar")
    files = {"data.source": "cifar10", "data.path": str(tmp_path / "cifar"), "image_size": 32, "num_steps": 3}
    return dotted.override(SMOKE, files)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_files_become_a_folder_that_extraction_loads(cifar10: TrainCdmConfig, tmp_path: Path, prediction: str) -> None:
    config = dotted.override(cifar10, {"prediction": prediction})
    data = cdm.TrainingSet.read(config)
    assert data.images.shape == (20, 3, 32, 32)
    assert data.images.dtype == torch.uint8
    trainer = train(start(config, data), data, config, 3)
    result = write_result(trainer, config, data, tmp_path, "mark")
    assert json.loads((tmp_path / "result.json").read_text()) == json.loads(json.dumps(result))
    assert {path.name for path in (tmp_path / "model").iterdir()} == {"unet", "scheduler", "class_names.json"}
    model = models.build(ModelConfig(name="class_unet", weights=result["model"]))
    assert model.class_names == tuple(name for name in CIFAR10_NAMES if name != "cat")  # these files have none
    x_t, labels = torch.randn(2, 3, 32, 32), torch.tensor([3, 8])
    with torch.no_grad():
        output = torch.func.functional_call(
            trainer.network.eval(), trainer.average, (x_t, torch.tensor([500, 500]), labels), {"return_dict": False}
        )[0]
    alpha, sigma = (value.item() for value in model.schedule.alpha_sigma(torch.tensor([500.0])))
    expected = output if prediction == "epsilon" else sigma * x_t + alpha * output
    torch.testing.assert_close(model.eps(x_t, 500.0, model.cond(labels)), expected, rtol=1e-5, atol=1e-5)


def test_an_interrupted_training_ends_with_the_same_bits_in_spite_of_dropout(tmp_path: Path) -> None:
    assert SMOKE.unet.dropout > 0
    data = cdm.TrainingSet.read(SMOKE)
    whole = train(start(SMOKE, data), data, SMOKE, 5)
    save_checkpoint(train(start(SMOKE, data), data, SMOKE, 3), tmp_path, "mark")
    torch.manual_seed(99)  # another process has another state
    resumed = start(SMOKE, data)
    load_newest(resumed, tmp_path, "mark")
    torch.rand(7)
    train(resumed, data, SMOKE, 5)
    assert resumed.recent_loss == whole.recent_loss
    for name, value in whole.average.items():
        assert torch.equal(value, resumed.average[name]), name


def test_workers_share_the_global_batch() -> None:
    data = cdm.TrainingSet.read(SMOKE)
    seen: list[dict[str, torch.Tensor]] = []

    class Watch(torch.nn.Module):
        def __init__(self, network: torch.nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, x_t: torch.Tensor, **keywords):
            seen.append({"x_t": x_t, "timesteps": keywords["timestep"], "classes": keywords["class_labels"]})
            return self.network(x_t, **keywords)

    for rank in range(2):
        trainer = start(SMOKE, data)
        next(cdm.train_steps(trainer, Watch(trainer.network), data, SMOKE, rank, 2))
    batch = cdm.draw_batch(data, SMOKE, 0)
    for name in ("timesteps", "classes"):
        joined = torch.stack([share[name] for share in seen], 1).flatten()
        assert torch.equal(joined, batch[name])


def test_what_may_continue_has_the_same_settings_pictures_and_class_names() -> None:
    data = cdm.TrainingSet(torch.zeros(1, 3, 2, 2, dtype=torch.uint8), torch.zeros(1, dtype=torch.long), ("cat",), "a")
    mark = cdm.fingerprint(SMOKE, data)
    assert cdm.fingerprint(dotted.override(SMOKE, {"num_workers": 2, "output": "x"}), data) == mark
    assert cdm.fingerprint(dotted.override(SMOKE, {"unet.dropout": 0.0}), data) != mark
    assert cdm.fingerprint(SMOKE, replace(data, sha256="b")) != mark
    assert cdm.fingerprint(SMOKE, replace(data, class_names=("dog",))) != mark


def test_folders_of_any_classes_keep_their_names(tmp_path: Path) -> None:
    trees.image_folder(tmp_path / "input", classes=("cat", "dog", "owl"))
    files = {"data.source": "image_folder", "data.path": str(tmp_path / "input"), "num_steps": 1}
    config = dotted.override(SMOKE, files)
    data = cdm.TrainingSet.read(config)
    assert data.images.shape == (9, 3, 16, 16)
    write_result(train(start(config, data), data, config, 1), config, data, tmp_path, "mark")
    model = models.build(ModelConfig(name="class_unet", weights=str(tmp_path / "model")))
    assert model.class_names == ("cat", "dog", "owl")
    (tmp_path / "model" / "class_names.json").write_text('["owl", "dog", "cat"]')  # as trainings wrote it before
    model = models.build(ModelConfig(name="class_unet", weights=str(tmp_path / "model")))
    assert (model.class_names, model.readings) == (("owl", "dog", "cat"), ("label",))


def test_the_full_preset_has_ddpms_size() -> None:
    with torch.device("meta"):
        network = class_unet.make_network(FULL.unet, FULL.image_size, 10)
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count == 35_746_307 + 10 * 512  # DDPM's CIFAR-10 network, and its class embedding
    assert FULL.unet == UnetSizes()
    assert network.config.down_block_types == ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D")
    assert network.config.up_block_types == ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label_dropout": 1.0}, r"label_dropout: 1\.0 is not valid; valid: 0 up to, not including, 1"),
        ({"conditional": False, "label_dropout": 0.1}, r"label_dropout: 0\.1 is not valid; valid: 0 \(conditional is"),
        ({"network": "unet"}, "network: 'unet' is not valid; valid: digits_dit, class_unet"),
        ({"image_size": 32}, r"data\.digits\.image_size: 16 is not valid; valid: image_size \(32\)"),
        ({"image_size": 18, "data.digits.image_size": 18}, "image_size: 18 is not valid; valid: a multiple of 4"),
        ({"unet.attention_sides": (5,)}, "unet.attention_sides: 5 is not valid; valid: 16, 8, 4"),
        ({"unet.norm_groups": 3}, r"unet\.norm_groups: 3 is not valid; valid: a divisor of unet\.channels \(8\)"),
        ({"unet.multipliers": ()}, r"unet\.multipliers: \(\) is not valid; valid: one or more whole numbers"),
        ({"unet.dropout": 1.0}, r"unet\.dropout: 1\.0 is not valid"),
        ({"num_workers": 3}, r"num_workers: 3 is not valid; valid: a divisor of batch_size \(8\)"),
        ({"prediction": "x"}, "prediction: 'x' is not valid; valid: epsilon, v_prediction"),
    ],
)
def test_wrong_settings_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dotted.override(SMOKE, change)


def test_pictures_that_cannot_be_used_are_named(cifar10: TrainCdmConfig, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.path: '/nowhere' is not a folder"):
        cdm.TrainingSet.read(dotted.override(cifar10, {"data.path": "/nowhere"}))
    trees.image_folder(tmp_path / "input")
    (tmp_path / "input" / "1" / "notes.txt").write_text("no picture")
    folder = {"data.source": "image_folder", "data.path": str(tmp_path / "input")}
    with pytest.raises(ValueError, match=r"data: '1/notes\.txt' is no usable picture: not_an_image"):
        cdm.TrainingSet.read(dotted.override(cifar10, folder))
