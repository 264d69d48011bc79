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
    settings = {"model_max_length": 256, "pad_token": "!", "tokenizer_class": "CLIPTokenizer"}
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


def test_class_unet_loads_its_folder(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tiny: Any = models.build_tiny("class_unet")
    tiny.network.save_pretrained(tmp_path / "unet")
    write_scheduler(tmp_path / "scheduler", DIT_SCHEDULER)
    model = models.build(ModelConfig(name="class_unet", weights=str(tmp_path)))
    x_t, labels = torch.randn(2, *model.latent_shape), torch.tensor([0, 9])
    torch.testing.assert_close(model.eps(x_t, 500.0, model.cond(labels)), tiny.eps(x_t, 500.0, tiny.cond(labels)))
    assert not model.classes.named  # ten classes are not CIFAR-10's unless something says so
    assert "accelerate" not in capfd.readouterr().err


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


def test_prompts_are_honoured_or_refused_by_every_family(tmp_path: Path) -> None:
    (tmp_path / "prompts.json").write_text(json.dumps({"cat": "a cat", "dog": "two dogs"}))
    path = str(tmp_path / "prompts.json")
    for name in models.MODELS:
        changes: dict[str, Any] = {"prompts": path}, {"prompt_template": "a sketch of {}"}
        for change in changes:
            config = ModelConfig(name=name, weights="tiny", **change)
            if name != "stable_diffusion":
                with pytest.raises(ValueError, match=rf"model\.prompt.*: '.*' has no effect on {name}; valid: "):
                    models.build(config)
            else:
                expected = {"a cat", "two dogs"} if "prompts" in change else {"a sketch of tench, Tinca tinca"}
                model = models.build(config)
                assert expected <= set(model.prompt_texts)
    model = models.build(ModelConfig(name="stable_diffusion", weights="tiny", prompts=path))
    assert (model.class_names, model.prompts_per_class) == (("cat", "dog"), 1)
    first, second = model.cond(torch.tensor([0, 1]))
    assert not torch.equal(first, second)


def test_a_prompt_that_would_be_cut_or_says_nothing_is_refused(sd_folder: Path, tmp_path: Path) -> None:
    for texts, message in (
        ({"cat": "a " * 300, "dog": "a dog"}, r"model\.prompts: 'a a .* has 302 tokens; valid: at most 256"),
        ({"cat": "  ", "dog": "a dog"}, r"has no text for class 'cat'"),
        ({"": "a cat", "dog": "a dog"}, r"has no text for class ''"),
    ):
        (tmp_path / "prompts.json").write_text(json.dumps(texts))
        for weights in (str(sd_folder), "tiny"):
            with pytest.raises(ValueError, match=message):
                models.build(
                    ModelConfig(name="stable_diffusion", weights=weights, prompts=str(tmp_path / "prompts.json"))
                )
    with pytest.raises(
        ValueError, match=r"model\.prompt_template: 'a \{\}' is not valid; .*no effect with model\.prompts"
    ):
        ModelConfig(prompt_template="a {}", prompts="p.json")
    from clarep_ray.models.stable_diffusion import read_prompts

    odd = read_prompts(ModelConfig(name="stable_diffusion", prompt_template="{x} {} {0} }"))
    assert odd["n01440764"] == ("{x} tench, Tinca tinca {0} }",)


def change_config(folder: Path, part: str, **change: Any) -> None:
    path = folder / part / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("vae", {"shift_factor": 0.1, "latents_mean": [0.0] * 4, "latents_std": [1.0] * 4}, "contradict one another"),
        ("vae", {"latents_mean": [0.0] * 4}, "contradict one another"),
        ("vae", {"latents_mean": [0.0] * 3, "latents_std": [1.0] * 3}, "latents_mean is no list of 4 numbers"),
        ("vae", {"scaling_factor": 0}, r"scaling_factor / latents_std is not valid; valid: more than 0"),
        ("vae", {"scaling_factor": "0.18"}, r"scaling_factor is '0\.18'; valid: a number"),
        ("vae", {"_class_name": "AutoencoderTiny"}, "is of the class 'AutoencoderTiny'; valid: AutoencoderKL"),
        (
            "transformer",
            {"_class_name": "SiTTransformer2DModel"},
            "is of the class 'SiTTransformer2DModel'; valid: DiT",
        ),
        (
            "transformer",
            {"_class_name": "Transformer2DModel", "norm_type": "ada_norm_single"},
            "is of the class 'Transformer2DModel'",
        ),
    ],
)
def test_settings_of_a_dit_folder_are_carried_out_or_refused(
    part: str, change: dict[str, Any], message: str, dit_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(dit_folder, tmp_path / "dit")
    change_config(tmp_path / "dit", part, **change)
    with pytest.raises(ValueError, match=message):
        models.build(ModelConfig(name="dit", weights=str(tmp_path / "dit")))


def test_a_dit_of_the_class_before_it_is_read(
    dit_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(dit_folder, tmp_path / "dit")
    change_config(tmp_path / "dit", "transformer", _class_name="Transformer2DModel", norm_type="ada_norm_zero")
    found = models.build(ModelConfig(name="dit", weights=str(tmp_path / "dit")))
    expected = models.build(ModelConfig(name="dit", weights=str(dit_folder)))
    x_t, cond = torch.randn(1, *found.latent_shape), found.cond(torch.tensor([1]))
    assert torch.equal(found.eps(x_t, 500.0, cond), expected.eps(x_t, 500.0, cond))
    assert "accelerate" not in capfd.readouterr().err


@pytest.mark.parametrize(
    "change",
    [
        {"scaling_factor": 0.3},
        {"scaling_factor": 1.5, "shift_factor": 0.1},
        {"scaling_factor": 0.9, "latents_mean": [0.1, -0.2, 0.3, 0.0], "latents_std": [0.5, 1.0, 2.0, 4.0]},
    ],
)
def test_latents_are_scaled_as_the_folder_says(change: dict[str, Any], dit_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(dit_folder, tmp_path / "dit")
    change_config(tmp_path / "dit", "vae", **change)
    model: Any = models.build(ModelConfig(name="dit", weights=str(tmp_path / "dit")))
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    raw = model.autoencoder.vae.encode(pixels).latent_dist.mean
    mean = torch.tensor(change.get("latents_mean", change.get("shift_factor", 0.0))).reshape(-1, 1, 1)
    std = torch.tensor(change.get("latents_std", 1.0)).reshape(-1, 1, 1)
    found = model.encode(pixels)
    torch.testing.assert_close(found, (raw - mean) * change["scaling_factor"] / std)
    torch.testing.assert_close(model.decode(found), model.autoencoder.vae.decode(raw).sample, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("unet", {"addition_embed_type": "text_time"}, r"describes no network|addition_embed_type is 'text_time'"),
        ("unet", {"time_cond_proj_dim": 8}, "time_cond_proj_dim is 8; valid: None"),
        ("unet", {"sample_size": [8, 16]}, r"sample_size is .8, 16.; valid: one side"),
        ("unet", {"sample_size": None}, "sample_size is None; valid: one side"),
        ("unet", {"center_input_sample": True}, "center_input_sample is True; valid: False"),
        ("unet", {"_class_name": "UNet2DModel"}, "is of the class 'UNet2DModel'; valid: UNet2DConditionModel"),
        ("text_encoder", {"use_attention_mask": True}, "use_attention_mask is True"),
        ("text_encoder", {"architectures": ["T5EncoderModel"]}, "is of the class 'T5EncoderModel'; valid: CLIPTextM"),
    ],
)
def test_settings_of_a_text_conditional_folder_are_carried_out_or_refused(
    part: str, change: dict[str, Any], message: str, sd_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(sd_folder, tmp_path / "sd")
    change_config(tmp_path / "sd", part, **change)
    with pytest.raises(ValueError, match=message):
        models.build(ModelConfig(name="stable_diffusion", weights=str(tmp_path / "sd")))


def test_networks_that_take_more_than_the_latents_are_refused(sd_folder: Path, tmp_path: Path) -> None:
    from diffusers import UNet2DConditionModel, UNet2DModel

    shutil.copytree(sd_folder, tmp_path / "sd")
    config = json.loads((sd_folder / "unet" / "config.json").read_text())
    made: Any = UNet2DConditionModel.from_config(config | {"in_channels": 9})
    made.save_pretrained(tmp_path / "sd" / "unet")
    with pytest.raises(ValueError, match="takes 9 channels, its autoencoder makes 4"):
        models.build(ModelConfig(name="stable_diffusion", weights=str(tmp_path / "sd")))
    tiny: Any = models.build_tiny("class_unet")
    grey: Any = UNet2DModel.from_config(tiny.network.config, in_channels=2, out_channels=2)
    grey.save_pretrained(tmp_path / "grey" / "unet")
    write_scheduler(tmp_path / "grey" / "scheduler", DIT_SCHEDULER)
    with pytest.raises(ValueError, match="in_channels is 2; valid: 3, or 1 for grey images"):
        models.build(ModelConfig(name="class_unet", weights=str(tmp_path / "grey")))
    for name, value in (
        ("time_embedding_type", "fourier"),
        ("class_embed_type", "identity"),
        ("center_input_sample", 1),
    ):
        change_config(tmp_path / "grey", "unet", **{name: value})
        with pytest.raises(ValueError, match=name):
            models.build(ModelConfig(name="class_unet", weights=str(tmp_path / "grey")))
        change_config(tmp_path / "grey", "unet", **{name: tiny.network.config[name]})


def test_the_setting_that_is_named_is_the_users(tmp_path: Path) -> None:
    for change in ({"weights": str(tmp_path)}, {"weights": "tiny", "prompt_template": "a {}"}, {"name": "gan"}):
        with pytest.raises(ValueError, match=r"^teacher\.diffusion\.(weights|prompt_template|name): "):
            models.build(ModelConfig(**{"name": "dit", **change}), "teacher.diffusion")
    with pytest.raises(ValueError, match=r"^teacher\.diffusion\.weights: "):
        models.weights_sha256(ModelConfig(name="dit", weights=str(tmp_path)), "teacher.diffusion")


def test_a_teacher_has_as_many_times_as_its_model() -> None:
    from clarep_ray.cadistill.diffusion_teacher import DiffusionTeacher
    from clarep_ray.config import FeatureConfig, TeacherConfig

    teacher = TeacherConfig(reading=FeatureConfig(layer="mid_block"), num_times=1000)
    one = models.build_tiny("stable_diffusion")
    with pytest.raises(ValueError, match=r"teacher\.num_times: num_steps: 1000 with the model's steps_offset 1"):
        DiffusionTeacher(one, teacher)
