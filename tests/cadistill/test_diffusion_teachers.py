"""Every family of diffusion models as a teacher, in every method that takes one; what cannot teach is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from clarep_ray.cadistill.diffusion_teacher import DiffusionTeacher
from clarep_ray.cadistill.inputs import open_teacher
from clarep_ray.cadistill.methods import OWN_READING
from clarep_ray.cadistill.training import train_step
from clarep_ray.clarid.schedule import linear_schedule
from clarep_ray.config import TEACHERS, ModelConfig, UnetSizes
from clarep_ray.data.class_list import ClassList
from clarep_ray.models import MODELS, build_tiny
from clarep_ray.models.adapter import Adapter
from clarep_ray.models.class_unet import ClassUnet, make_network
from tests.cadistill.small import small_config, start

READING = [method for method, sources in TEACHERS.items() if "diffusion" in sources]
WITHOUT_NULL = ("class_unet", "edm")


def without_classes() -> ClassUnet:
    """Return a small unconditional UNet: `null_cond` is all it can be asked."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = make_network(UnetSizes(channels=8, multipliers=(1, 2), attention_sides=(8,), norm_groups=4), 16, None)
    return ClassUnet(network, linear_schedule(), "epsilon")


@pytest.fixture(scope="module")
def models() -> dict[str, Adapter]:
    return {name: build_tiny(name) for name in MODELS}


def opened(
    monkeypatch: pytest.MonkeyPatch, model: Adapter, files: Path, method: str, **changes: Any
) -> tuple[Any, DiffusionTeacher]:
    """Return a training of ten classes whose teacher is a given model."""
    monkeypatch.setattr("clarep_ray.cadistill.inputs.build", lambda config, field: model)
    layer = model.feature_layers[len(model.feature_layers) // 2]
    settings = {"teacher__source": "diffusion", "teacher__reading__layer": layer, **changes}
    config = small_config(files, method, schedule__batch_size=4, **settings)
    teacher = open_teacher(config, model.classes if len(model.classes) else ClassList.of_count(10))
    assert isinstance(teacher, DiffusionTeacher)
    return config, teacher


@pytest.mark.parametrize("method", READING)
@pytest.mark.parametrize("family", MODELS)
def test_every_family_teaches_or_is_refused_in_one_line(
    family: str, method: str, models: dict[str, Adapter], files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = models[family]
    if method in OWN_READING and family in WITHOUT_NULL:
        with pytest.raises(ValueError, match=r"^teacher\.diffusion: .* must be told a class") as refused:
            opened(monkeypatch, model, files, method)
        assert "\n" not in str(refused.value)
        return
    _, teacher = opened(monkeypatch, model, files, method)
    pixels, eps = torch.rand(2, 3, 16, 16), torch.randn(2, *model.latent_shape)
    chosen = torch.tensor([0, 2])
    if method == "repfusion":
        assert teacher.null_features(pixels, chosen).shape == (2, teacher.width(labelled=False))
    elif method == "diffaug":
        denoised = teacher.denoised(pixels, chosen, eps)
        assert denoised.shape == pixels.shape
        assert 0 <= denoised.min() <= denoised.max() <= 1
    else:
        reading = teacher.read(pixels, torch.tensor([1, 5]), eps)
        assert reading.features.shape == (2, teacher.width(labelled=True))
        assert reading.features.isfinite().all()
        torch.testing.assert_close(reading.maps.mean((2, 3)), reading.features)
        latents = teacher.latents(pixels)
        alpha, sigma = (float(s) for s in model.schedule.alpha_sigma(torch.tensor([teacher.feature_t]).double()))
        x_t = alpha * latents + sigma * eps
        stored = model.layer_means(x_t, teacher.feature_t, model.cond(torch.tensor([1, 5])), [teacher.layer])
        torch.testing.assert_close(reading.features, stored[teacher.layer], rtol=1e-4, atol=1e-4)


def test_the_maps_of_a_uvit_are_its_patches_alone(models: dict[str, Adapter]) -> None:
    model = models["uvit"]
    tokens = torch.arange(18.0).view(1, 18, 1).repeat(2, 1, 3)  # the time's and the label's token, then 4 x 4 patches
    maps = model.spatial(tokens)
    assert maps.shape == (2, 3, 4, 4)
    assert maps[0, 0].flatten().tolist() == list(range(2, 18))
    with pytest.raises(ValueError, match="17 tokens form no square map"):
        model.spatial(torch.zeros(1, 19, 3))


@pytest.mark.parametrize("method", ["repfusion", "diffaug"])
@pytest.mark.parametrize("family", ["unconditional", "uvit"])
def test_a_training_takes_steps_with_it(
    family: str, method: str, models: dict[str, Adapter], files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = without_classes() if family == "unconditional" else models[family]
    config, _ = opened(monkeypatch, model, files, method)
    trainer, inputs, teacher = start(config)
    before = trainer.learner.student.network.head.weight.clone()
    train_step(trainer, trainer.learner, inputs.inputs.batch(config, 0), teacher)
    assert trainer.sums["loss"].isfinite()
    assert method == "repfusion" or not torch.equal(before, trainer.learner.student.network.head.weight)


@pytest.mark.parametrize("method", [method for method in READING if method not in OWN_READING])
def test_a_model_without_classes_cannot_teach_where_images_are_read_with_labels(
    method: str, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=rf"it has no classes, and {method} reads it with labels"):
        opened(monkeypatch, without_classes(), files, method)


def test_prompts_are_honoured_or_refused(
    files: Path, tmp_path: Path, models: dict[str, Adapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = tmp_path / "prompts.json"
    prompts.write_text(json.dumps({"a": "a cat"}))
    with pytest.raises(ValueError, match=r"teacher\.diffusion\.prompts: .* is not read by diffaug; valid: None"):
        opened(monkeypatch, models["stable_diffusion"], files, "diffaug", teacher__diffusion__prompts=str(prompts))
    several = build_tiny("stable_diffusion")
    monkeypatch.setattr(type(several), "prompts_per_class", property(lambda self: 3))
    with pytest.raises(ValueError, match=r"teacher\.diffusion\.prompts: 3 prompts for each class"):
        opened(monkeypatch, several, files, "fitnet")


def test_a_time_beyond_the_schedule_is_refused(
    files: Path, models: dict[str, Adapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=r"teacher\.reading\.feature_t: 5000.* is not valid; valid: 0 to 999"):
        opened(monkeypatch, models["dit"], files, "dmdistill", teacher__reading__feature_t=5000.0)
    assert ModelConfig().name in MODELS
