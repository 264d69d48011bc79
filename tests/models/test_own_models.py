"""A diffusion model of one's own: any classes and names, with an unconditional branch, without one, without classes."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from clarep_ray import dotted, models
from clarep_ray.cadistill.inputs import open_teacher
from clarep_ray.cluster.settings import check_settings
from clarep_ray.config import DistillConfig, ExtractConfig, ModelConfig, TrainCdmConfig
from clarep_ray.data.class_list import ClassList
from clarep_ray.models import cdm_training as cdm
from clarep_ray.models.cdm_networks import make_network, write_result
from clarep_ray.models.digits_dit import DigitsDit, load_parameters
from clarep_ray.presets import TRAIN_CDM

STRANGE = ("0", "T-shirt", "ankle boot")
TINY: dict[str, Any] = {
    "image_size": 8,
    "batch_size": 8,
    "num_steps": 4,
    "dit.hidden_size": 16,
    "dit.num_blocks": 2,
    "dit.num_heads": 2,
    "unet.channels": 8,
    "unet.multipliers": (1, 2),
    "unet.layers_per_block": 1,
    "unet.attention_sides": (4,),
    "unet.norm_groups": 4,
    "data.source": "image_folder",
}
DIT = {"network": "digits_dit", "label_dropout": 0.1}
UNET_GUIDED = {"network": "class_unet", "label_dropout": 0.2}
UNET = {"network": "class_unet", "label_dropout": 0.0}
UNCONDITIONAL = UNET | {"conditional": False}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return 24 images of three classes: grey and colour, of unequal sides."""
    root, rng = tmp_path_factory.mktemp("own"), np.random.default_rng(0)
    for number, name in enumerate(STRANGE):
        (root / name).mkdir()
        for index in range(8):
            sides = (9 + index, 12) if index % 2 else (12, 9, 3)
            pixels = rng.integers(0, 80, sides) + 80 * number
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{index}.png")
    return root


def own_config(root: Path, **changes: Any) -> TrainCdmConfig:
    return dotted.override(TRAIN_CDM["own_dit"]().config, TINY | {"data.path": str(root)} | changes)


def trained(config: TrainCdmConfig, output: Path) -> tuple[cdm.CdmTrainer, cdm.TrainingSet]:
    data = cdm.TrainingSet.read(config)
    trainer = cdm.CdmTrainer.start(make_network(config, data.class_names), config)
    for _ in cdm.train_steps(trainer, trainer.network, data, config):
        pass
    write_result(trainer, config, data, output, "mark")
    return trainer, data


def read_back(config: TrainCdmConfig, output: Path) -> Any:
    return models.build(ModelConfig(name=config.network, weights=str(output / "model")))


@pytest.mark.parametrize("changes", [DIT, DIT | {"prediction": "epsilon"}, UNET_GUIDED, UNET], ids=str)
def test_a_folder_holds_its_classes_and_how_it_was_trained(images: Path, tmp_path: Path, changes: Any) -> None:
    config = own_config(images, **changes)
    trainer, data = trained(config, tmp_path)
    assert data.class_names == STRANGE
    model = read_back(config, tmp_path)
    assert (model.class_names, model.prediction, model.image_size) == (STRANGE, config.prediction, 8)
    assert model.readings == (("label", "null") if config.label_dropout else ("label",))
    trainer.network.eval()
    load_parameters(trainer.network, trainer.average)
    x_t, labels, times = torch.randn(3, 3, 8, 8), torch.tensor([0, 1, 2]), torch.tensor([400, 400, 400])
    for cond, number in [(model.cond(labels), labels)] + (
        [(model.null_cond(3), torch.tensor([3, 3, 3]))] if config.label_dropout else []
    ):
        with torch.no_grad():
            expected = trainer.network(x_t, timestep=times, class_labels=number, return_dict=False)[0]
        torch.testing.assert_close(model.forward(x_t, 400.0, cond).detach(), expected, rtol=1e-2, atol=1e-2)  # float16


def test_only_a_model_that_saw_no_labels_too_is_guided(images: Path, tmp_path: Path) -> None:
    settings = {"spectrum.layer": "transformer_blocks.1", "features.layer": "transformer_blocks.0"}
    guided: ExtractConfig = dotted.override(ExtractConfig(), settings | {"decoding.guidance_scale": 3.0})
    config = own_config(images, **DIT)
    trained(config, tmp_path / "with")
    check_settings(read_back(config, tmp_path / "with"), guided)
    config = own_config(images, **DIT | {"label_dropout": 0.0})
    trained(config, tmp_path / "without")
    model = read_back(config, tmp_path / "without")
    with pytest.raises(
        ValueError, match=r"no unconditional branch \(it was trained without label dropout\); valid: gu"
    ):
        check_settings(model, guided)
    check_settings(model, dotted.override(guided, {"decoding.guidance_scale": 1.0}))


def test_a_model_without_classes_teaches_and_is_no_model_for_clarid(images: Path, tmp_path: Path) -> None:
    config = own_config(images, **UNCONDITIONAL)
    assert "classes" not in cdm.draw_batch(cdm.TrainingSet.read(config), config, 0)
    trainer, _ = trained(config, tmp_path)
    model = read_back(config, tmp_path)
    assert (model.class_names, model.readings) == ((), ("null",))
    x_t = torch.randn(2, 3, 8, 8)
    load_parameters(trainer.network, trainer.average)
    with torch.no_grad():
        expected = trainer.network.eval()(x_t, torch.tensor([400, 400])).sample
    torch.testing.assert_close(model.forward(x_t, 400.0, model.null_cond(2)), expected)
    with pytest.raises(ValueError, match=r"model\.weights: this model has no classes; CLARID needs"):
        model.cond(torch.tensor([0]))
    settings = {"spectrum.layer": "mid_block", "features.layer": "mid_block", "decoding.guidance_scale": 1.0}
    with pytest.raises(ValueError, match=r"model\.weights: this model has no classes"):
        check_settings(model, dotted.override(ExtractConfig(), settings))
    teacher = {"teacher.source": "diffusion", "teacher.reading.layer": "mid_block"}
    teacher |= {"teacher.diffusion.name": "class_unet", "teacher.diffusion.weights": str(tmp_path / "model")}
    repfusion: DistillConfig = dotted.override(DistillConfig(), teacher | {"method": "repfusion"})
    found: Any = open_teacher(repfusion, ClassList(("any", "classes")))
    chosen = torch.tensor([0, 3])
    assert found.null_features(torch.rand(2, 3, 8, 8), chosen).shape == (2, found.width(labelled=False))
    with pytest.raises(ValueError, match=r"teacher\.diffusion: it has no classes, and fitnet reads it with labels"):
        open_teacher(dotted.override(repfusion, {"method": "fitnet"}), ClassList(("any", "classes")))


def test_a_model_knows_the_classes_it_saw_and_no_others(images: Path) -> None:
    """Selected classes alone, numbered anew; one that nothing was selected of would be a label never trained."""
    data = cdm.TrainingSet.read(own_config(images, **{"data.classes": ("ankle boot", "0")}))
    assert (data.class_names, data.left_out) == (("0", "ankle boot"), ("T-shirt",))
    assert data.labels.tolist() == [0] * 8 + [1] * 8
    assert float(data.images[8:].float().mean()) > 150 > float(data.images[:8].float().mean())
    assert "no images of 1 classes, which are left out: T-shirt" in data.summary()
    one = cdm.TrainingSet.read(own_config(images, **{"data.classes": ("T-shirt",)}))
    assert one.labels.tolist() == [0] * 8
    assert "one class alone: its label tells the network nothing" in one.summary()
    assert "fewer than 20 images, which a network learns by heart: T-shirt" in one.summary()
    digits = {
        "data.source": "spurious_digits",
        "data.path": None,
        "data.digits.image_size": 8,
        "data.digits.count": 200,
    }
    with pytest.raises(ValueError, match=r"data: no image has the label 0, and classes that are numbers cannot"):
        cdm.TrainingSet.read(own_config(images, **digits, **{"data.classes": ("3", "7")}))
    first = cdm.TrainingSet.read(own_config(images, **digits, **{"data.classes": ("0", "1")}))
    assert first.class_names == ("0", "1")


def test_classes_in_another_order_are_another_training(images: Path) -> None:
    config = own_config(images)
    data = cdm.TrainingSet.read(config)
    other = cdm.TrainingSet(data.images, data.labels, data.class_names[::-1], data.sha256)
    assert cdm.fingerprint(config, other) != cdm.fingerprint(config, data)
    assert cdm.fingerprint(dotted.override(config, UNET), data) != cdm.fingerprint(
        dotted.override(config, UNCONDITIONAL), data
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dit.patch_size": 3}, r"dit\.patch_size: 3 is not valid; valid: a divisor of image_size \(8\)"),
        ({"dit.hidden_size": 18}, r"dit\.hidden_size: 18 is not valid; valid: a multiple of 4"),
        ({"label_dropout": 1.0}, r"label_dropout: 1\.0 is not valid; valid: 0 up to, not including, 1"),
        ({"conditional": False}, r"label_dropout: 0\.1 is not valid; valid: 0 \(conditional is False"),
        (
            {"conditional": False, "label_dropout": 0.0},
            r"conditional: False is not valid; valid: True \(network is dig",
        ),
        (UNET | {"image_size": 9}, r"image_size: 9 is not valid; valid: a multiple of 2"),
    ],
)
def test_settings_that_cannot_be_are_refused(images: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        own_config(images, **changes)


def test_folders_without_images_are_refused(tmp_path: Path) -> None:
    for root in (tmp_path / "none", tmp_path / "classes"):
        (root / "cat" if root.name == "classes" else root).mkdir(parents=True)
        with pytest.raises(ValueError, match=r"^data"):
            cdm.TrainingSet.read(own_config(root))


@pytest.fixture(scope="module")
def folders(images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made: dict[str, Path] = {}
    for name, changes in {"digits_dit": DIT, "class_unet": UNET_GUIDED, "without": UNCONDITIONAL}.items():
        output = tmp_path_factory.mktemp("out")
        trained(own_config(images, **changes, num_steps=1), output)
        made[name] = output / "model"
    return made


def changed(folder: Path, to: Path, name: str, changes: dict[str, Any] | list[str] | None) -> str:
    """Return a copy of a folder whose JSON file is changed, replaced by a list, or gone."""
    shutil.copytree(folder, to)
    if changes is None:
        (to / name).unlink()
    elif isinstance(changes, list):
        (to / name).write_text(json.dumps(changes))
    else:
        stored = json.loads((to / name).read_text()) | changes
        (to / name).write_text(json.dumps({key: value for key, value in stored.items() if value is not None}))
    return str(to)


NAMES, CONFIG, SCHEDULER = "class_names.json", "config.json", "scheduler/scheduler_config.json"


@pytest.mark.parametrize(
    ("family", "name", "changes", "message"),
    [
        ("digits_dit", CONFIG, {"class_names": ["a", "b"]}, "missing, unexpected or of another shape"),
        ("digits_dit", CONFIG, {"class_names": ["a", "a", "b"]}, "class_names: 'a' is no name, or comes twice"),
        ("digits_dit", CONFIG, {"class_names": []}, r"class_names: \[\] is not valid"),
        ("digits_dit", CONFIG, {"class_names": None}, "describes no network: .*missing.*'class_names'"),
        ("digits_dit", CONFIG, {"label_dropout": 1.5}, r"label_dropout: 1\.5 is not valid"),
        ("digits_dit", CONFIG, {"pixel_range": [0, 1]}, r"pixel_range: \[0\.0, 1\.0\] is not valid; valid: \[-1, 1\]"),
        ("digits_dit", CONFIG, {"width": 3}, "describes no network: .*unexpected.*'width'"),
        ("digits_dit", SCHEDULER, None, "scheduler_config.json' is missing"),
        ("class_unet", NAMES, {"label_dropout": 0.0}, "names 3 classes; valid: 4, as many"),
        ("class_unet", NAMES, ["a", "b", "c"], "names 3 classes; valid: 4, as many"),
        ("class_unet", NAMES, {"class_names": ["a", "b"]}, "names 2 classes; valid: 3, as many"),
        ("class_unet", NAMES, {"pixel_range": [0, 255]}, r"names no classes: pixel_range"),
        ("without", NAMES, ["a"], "names 1 classes; valid: 0, as many"),
    ],
)
def test_a_folder_that_contradicts_itself_is_refused(
    folders: dict[str, Path], tmp_path: Path, family: str, name: str, changes: Any, message: str
) -> None:
    weights = changed(folders[family], tmp_path / "model", name, changes)
    with pytest.raises(ValueError, match=message) as refused:
        models.build(ModelConfig(name=family.replace("without", "class_unet"), weights=weights))
    assert len(str(refused.value)) < 500


def test_without_names_labels_are_numbers_and_none_is_the_unconditional_one(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    """Ten classes are not CIFAR-10's, and the last of several labels is a class, unless a file says so."""
    model = models.build(
        ModelConfig(name="class_unet", weights=changed(folders["class_unet"], tmp_path / "m", NAMES, None))
    )
    assert (model.class_names, model.readings) == (("0", "1", "2", "3"), ("label",))
    assert models.build_tiny("class_unet").class_names == tuple("0123456789")


def test_a_unet_whose_files_lie_at_the_root_is_read(folders: dict[str, Path], tmp_path: Path) -> None:
    """As google/ddpm-cifar10-32 has them, the public unconditional model of CIFAR-10."""
    flat = tmp_path / "flat"
    shutil.copytree(folders["without"] / "unet", flat)
    shutil.copy(folders["without"] / SCHEDULER, flat)
    found, nested = (
        models.build(ModelConfig(name="class_unet", weights=str(path))) for path in (flat, folders["without"])
    )
    x_t = torch.randn(1, 3, 8, 8)
    assert torch.equal(found.eps(x_t, 300.0, found.null_cond(1)), nested.eps(x_t, 300.0, nested.null_cond(1)))


def test_a_network_of_grey_images_reads_grey_and_others_are_refused() -> None:
    from diffusers.models.unets.unet_2d import UNet2DModel

    from clarep_ray.clarid.schedule import linear_schedule
    from clarep_ray.models.class_unet import ClassUnet

    def unet(channels: int, **changes: Any) -> ClassUnet:
        sizes: Any = {"block_out_channels": (8, 8), "norm_num_groups": 4, "sample_size": 4, "num_class_embeds": 2}
        sizes |= {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2} | changes
        network = UNet2DModel(in_channels=channels, out_channels=channels, attention_head_dim=8, **sizes)
        return ClassUnet(network, linear_schedule(), "epsilon")

    model = unet(1)
    pixels = torch.tensor([1.0, 0.0, -1.0]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    grey = model.encode(pixels)
    torch.testing.assert_close(grey, torch.full((1, 1, 4, 4), 0.299 - 0.114))
    assert torch.equal(model.decode(grey), grey.expand(1, 3, 4, 4))
    torch.testing.assert_close(model.encode(model.decode(grey)), grey)
    with pytest.raises(ValueError, match="in_channels is 4; valid: 3, or 1 for grey images"):
        unet(4)
    with pytest.raises(ValueError, match=r"class_embed_type is 'timestep'; valid: an embedding of labels"):
        unet(3, num_class_embeds=None, class_embed_type="timestep")


def test_the_shipped_models_say_what_they_said_before_folders_named_their_classes() -> None:
    """Recorded on 50699c0: `eps` of both at a seeded latent, with labels and without."""
    x_t = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    for name, (labelled, null) in SHIPPED.items():
        model = models.build(ModelConfig(weights=name))
        assert isinstance(model, DigitsDit)
        assert model.class_names == tuple("0123456789")
        sums = [
            model.eps(x_t, 600.0, cond).double().abs().sum().item()
            for cond in (model.cond(torch.tensor([3, 8])), model.null_cond(2))
        ]
        assert sums == pytest.approx([labelled, null], rel=1e-6)


SHIPPED = {"rho90": (1266.460713306442, 1262.929225102067), "rho10": (1263.9986944999546, 1261.3884341083467)}
