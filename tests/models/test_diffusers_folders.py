"""Folders in diffusers' true layout: loaded as they are, and equal to diffusers' own pipelines."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from clarep_ray import models
from clarep_ray.clarid.sampling import decode, guided_eps
from clarep_ray.config import ModelConfig
from clarep_ray.models.diffusers_schedule import read_schedule
from clarep_ray.models.dit import Dit
from clarep_ray.models.stable_diffusion import StableDiffusion

SCHEDULER = {"_class_name": "DDIMScheduler", "num_train_timesteps": 1000, "clip_sample": False}
DIT_SCHEDULER = SCHEDULER | {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02, "set_alpha_to_one": True}
SD_SCHEDULER = SCHEDULER | {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "prediction_type": "v_prediction",
}


def write_scheduler(folder: Path, config: dict[str, Any]) -> None:
    folder.mkdir(parents=True)
    (folder / "scheduler_config.json").write_text(json.dumps(config))


@pytest.fixture(scope="module")
def dit_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dit")
    tiny: Any = models.build_tiny("dit")
    tiny.network.save_pretrained(folder / "transformer")
    tiny.autoencoder.vae.save_pretrained(folder / "vae")
    write_scheduler(folder / "scheduler", DIT_SCHEDULER)
    return folder


@pytest.fixture(scope="module")
def sd_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stable_diffusion(tmp_path_factory.mktemp("sd"))


def write_stable_diffusion(folder: Path) -> Path:
    """Write the small random model as a diffusers folder."""
    tiny: Any = models.build_tiny("stable_diffusion")
    tiny.network.save_pretrained(folder / "unet")
    tiny.autoencoder.vae.save_pretrained(folder / "vae")
    tiny.prompts.encoder.save_pretrained(folder / "text_encoder")
    vocabulary = tiny.prompts.tokenizer.get_vocab()
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    settings = {"model_max_length": 16, "pad_token": "!", "tokenizer_class": "CLIPTokenizer"}
    (folder / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(settings))
    write_scheduler(folder / "scheduler", SD_SCHEDULER)
    return folder


@pytest.mark.parametrize("guidance_scale", [1.0, 4.0])
def test_dit_equals_diffusers_own_pipeline(dit_folder: Path, guidance_scale: float) -> None:
    from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel

    pipeline = DiTPipeline(
        DiTTransformer2DModel.from_pretrained(dit_folder / "transformer", low_cpu_mem_usage=False),
        AutoencoderKL.from_pretrained(dit_folder / "vae", low_cpu_mem_usage=False),
        DDIMScheduler.from_pretrained(dit_folder / "scheduler"),
    )
    pipeline.set_progress_bar_config(disable=True)
    labels = [3, 999]
    expected = pipeline(
        labels, guidance_scale, torch.Generator().manual_seed(0), num_inference_steps=20, output_type="pt"
    ).images
    model = models.build(ModelConfig(name="dit", weights=str(dit_folder)))
    assert isinstance(model, Dit)
    x_t = torch.randn(2, *model.latent_shape, generator=torch.Generator().manual_seed(0))
    denoise = guided_eps(model, model.cond(torch.tensor(labels)), model.null_cond(2), guidance_scale)
    pixels = model.decode(decode(denoise, x_t, model, model.schedule.times(20)))
    torch.testing.assert_close((pixels / 2 + 0.5).clamp(0, 1), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("prediction", ["v_prediction", "epsilon"])
def test_stable_diffusion_equals_diffusers_own_pipeline(sd_folder: Path, tmp_path: Path, prediction: str) -> None:
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    folder = tmp_path / "sd"
    shutil.copytree(sd_folder, folder)
    config = SD_SCHEDULER | {"prediction_type": prediction}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(folder / "vae", low_cpu_mem_usage=False),
        text_encoder=CLIPTextModel.from_pretrained(folder / "text_encoder"),
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        unet=UNet2DConditionModel.from_pretrained(folder / "unet", low_cpu_mem_usage=False),
        scheduler=DDIMScheduler.from_pretrained(folder / "scheduler"),
        safety_checker=None,  # type: ignore[arg-type]
        feature_extractor=None,  # type: ignore[arg-type]
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    (tmp_path / "prompts.json").write_text(json.dumps({"cat": "a photo of a cat", "dog": "two dogs, oil on canvas"}))
    model = models.build(
        ModelConfig(name="stable_diffusion", weights=str(folder), prompts=str(tmp_path / "prompts.json"))
    )
    assert isinstance(model, StableDiffusion)
    assert model.class_names == ("cat", "dog")
    x_t = torch.randn(2, *model.latent_shape, generator=torch.Generator().manual_seed(0))
    expected = pipeline(
        ["two dogs, oil on canvas", "a photo of a cat"],
        height=model.latent_shape[1] * pipeline.vae_scale_factor,
        width=model.latent_shape[2] * pipeline.vae_scale_factor,
        latents=x_t.clone(),
        guidance_scale=5.0,
        num_inference_steps=20,
        output_type="latent",
    ).images
    denoise = guided_eps(model, model.cond(torch.tensor([1, 0])), model.null_cond(2), 5.0)
    found = decode(denoise, x_t, model, model.schedule.times(20))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_class_unet_loads_its_folder(tmp_path: Path) -> None:
    tiny: Any = models.build_tiny("class_unet")
    tiny.network.save_pretrained(tmp_path / "unet")
    write_scheduler(tmp_path / "scheduler", DIT_SCHEDULER)
    model = models.build(ModelConfig(name="class_unet", weights=str(tmp_path)))
    x_t, labels = torch.randn(2, *model.latent_shape), torch.tensor([0, 9])
    torch.testing.assert_close(model.eps(x_t, 500.0, model.cond(labels)), tiny.eps(x_t, 500.0, tiny.cond(labels)))
    assert model.class_names[9] == "9"  # ten classes are not CIFAR-10's unless something says so


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_networks_give_float32_eps_close_to_the_full_one(dit_folder: Path, precision: str) -> None:
    full = models.build(ModelConfig(name="dit", weights=str(dit_folder)))
    half = models.build(ModelConfig(name="dit", weights=str(dit_folder), precision=precision))  # type: ignore[arg-type]
    x_t, cond = torch.randn(2, *full.latent_shape), full.cond(torch.tensor([1, 2]))
    eps = half.eps(x_t, 500.0, cond)
    assert eps.dtype == torch.float32
    expected = full.eps(x_t, 500.0, cond)
    assert (eps - expected).norm() <= 0.03 * expected.norm()
    assert not torch.equal(eps, expected)


@pytest.mark.parametrize("name", ["dit", "stable_diffusion", "class_unet"])
def test_what_is_missing_is_named(name: str, dit_folder: Path, sd_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model\.weights: .*nowhere"):
        models.build(ModelConfig(name=name, weights=str(tmp_path / "nowhere")))


def test_weights_that_are_no_safetensors_are_refused(dit_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(dit_folder, tmp_path / "dit")
    weights = tmp_path / "dit" / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(ValueError, match=r"has no \.safetensors weights; convert"):
        models.build(ModelConfig(name="dit", weights=str(tmp_path / "dit")))
    shutil.rmtree(tmp_path / "dit" / "vae")
    weights.with_suffix(".bin").rename(weights)
    with pytest.raises(ValueError, match=r"has no vae/config\.json"):
        models.build(ModelConfig(name="dit", weights=str(tmp_path / "dit")))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prediction_type": "flow"}, "prediction_type is 'flow'; supported: epsilon, v_prediction, sample"),
        ({"beta_schedule": "cosine"}, "beta_schedule is 'cosine'; supported: linear, scaled_linear"),
        ({"timestep_spacing": "trailing"}, "timestep_spacing is 'trailing'; supported: leading"),
        ({"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr is True; supported: False"),
    ],
)
def test_schedules_that_are_not_carried_out_are_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    write_scheduler(tmp_path / "scheduler", SD_SCHEDULER | change)
    with pytest.raises(ValueError, match=message):
        read_schedule(tmp_path / "scheduler")


def test_schedules_equal_diffusers_own(tmp_path: Path) -> None:
    from diffusers import DDIMScheduler

    write_scheduler(tmp_path / "scheduler", SD_SCHEDULER)
    schedule, prediction = read_schedule(tmp_path / "scheduler")
    theirs = DDIMScheduler.from_pretrained(tmp_path / "scheduler")
    theirs.set_timesteps(50)
    assert prediction == "v_prediction"
    assert schedule.times(50)[1:].tolist() == theirs.timesteps.flip(0).tolist()
    torch.testing.assert_close(schedule.alphas_cumprod.float(), theirs.alphas_cumprod, rtol=2e-6, atol=0)
    assert schedule.clean_alpha_squared == pytest.approx(float(theirs.final_alpha_cumprod), rel=1e-6)


def test_prompts_come_from_the_template_or_a_file(tmp_path: Path) -> None:
    from clarep_ray.models.stable_diffusion import read_prompts

    prompts = read_prompts(ModelConfig(name="stable_diffusion", prompt_template="a sketch of {}"))
    assert prompts["n01440764"] == ("a sketch of tench, Tinca tinca",)
    assert list(prompts)[1] == "n01443537"
    (tmp_path / "bad.json").write_text('["cat"]')
    with pytest.raises(ValueError, match="is not a JSON object"):
        read_prompts(ModelConfig(name="stable_diffusion", prompts=str(tmp_path / "bad.json")))
    with pytest.raises(ValueError, match=r"model\.prompt_template: 'a cat' is not valid"):
        ModelConfig(prompt_template="a cat")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"cat": ["a cat", "cats"], "dog": "a dog"},
            r"has 1 prompts for 'dog' and 2 for 'cat'; valid: the same number",
        ),
        ({"cat": []}, "is not a JSON object"),
        ({"cat": ["a cat", 3]}, "is not a JSON object"),
        ({}, "is not a JSON object"),
    ],
)
def test_prompt_files_of_another_shape_are_refused(content: dict[str, Any], message: str, tmp_path: Path) -> None:
    from clarep_ray.models.stable_diffusion import read_prompts

    (tmp_path / "bad.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        read_prompts(ModelConfig(name="stable_diffusion", prompts=str(tmp_path / "bad.json")))


def test_condition_numbers_go_through_all_classes_with_one_prompt_after_the_other(
    sd_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "prompts.json").write_text(json.dumps({"cat": ["a cat", "cats"], "dog": ["a dog", "dogs"]}))
    model = models.build(
        ModelConfig(name="stable_diffusion", weights=str(sd_folder), prompts=str(tmp_path / "prompts.json"))
    )
    assert isinstance(model, StableDiffusion)
    assert (model.class_names, model.prompts_per_class) == (("cat", "dog"), 2)
    assert model.prompt_texts == ("a cat", "a dog", "cats", "dogs")
    torch.testing.assert_close(model.cond(torch.tensor([2, 1])), model.prompts(["cats", "a dog"]), rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"4 is outside 0\.\.3"):
        model.cond(torch.tensor([4]))
    assert all(models.build_tiny(name).prompts_per_class == 1 for name in models.MODELS)
