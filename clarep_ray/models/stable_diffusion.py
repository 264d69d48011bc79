"""Stable Diffusion 2 from a diffusers folder: text-conditional, in the latents of a VAE, one prompt per class."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clarep_ray.clarid.schedule import DiscreteSchedule, scaled_linear_schedule
from clarep_ray.config import ModelConfig
from clarep_ray.data.class_list import ClassList, imagenet_wnids
from clarep_ray.data.records import shown
from clarep_ray.data.untrusted import read_json
from clarep_ray.models.adapter import NetworkAdapter, checked_labels, timesteps
from clarep_ray.models.autoencoder import Autoencoder
from clarep_ray.models.class_unet import unet_layers
from clarep_ray.models.diffusers_folder import load_component, square_side
from clarep_ray.models.diffusers_schedule import Prediction, read_schedule
from clarep_ray.models.tokenizer_files import load_tokenizer

MIRROR = (
    "the repository of Stable Diffusion 2.1 is gone; valid: a folder of a mirror with unet/, vae/, text_encoder/, "
    "tokenizer/ and scheduler/, weights in safetensors"
)

MAX_POSITIONS = 4096
"""Tokens of a prompt; attention takes memory by the square of them. CLIP's text models have 77, long ones 248."""
TINY_TOKENS = 256
SETTINGS = {
    "center_input_sample": (False,),
    "time_embedding_type": ("positional",),
    "encoder_hid_dim_type": (None,),
    "class_embed_type": (None,),
    "num_class_embeds": (None,),
    "addition_embed_type": (None,),
    "time_cond_proj_dim": (None,),  # a consistency model's guidance
}
"""Settings of a UNet2DConditionModel that are carried out: it is told the time and a text, nothing else."""
TEXT_SETTINGS = {"use_attention_mask": (None, False)}


class Prompts:
    """Prompt -> embedding, each computed once."""

    def __init__(self, tokenizer: Any, encoder: Any) -> None:
        self.tokenizer, self.encoder = tokenizer, encoder.eval().requires_grad_(False)
        self._known: dict[str, Tensor] = {}
        longest, positions = tokenizer.model_max_length, encoder.config.max_position_embeddings
        if type(longest) is not int or not 0 < longest <= positions:  # without tokenizer_config.json it has no end
            raise ValueError(
                f"model.weights: tokenizer/ has model_max_length {shown(repr(longest))}; valid: 1 to {positions}, "
                "which text_encoder/ reads"
            )
        if positions > MAX_POSITIONS:
            raise ValueError(
                f"model.weights: text_encoder/ has max_position_embeddings {positions}; valid: at most {MAX_POSITIONS}"
            )

    def __call__(self, prompts: Sequence[str]) -> Tensor:
        """Return embeddings (b, tokens, channels)."""
        for prompt in set(prompts) - self._known.keys():
            tokens = self.tokenizer(
                [prompt],
                padding="max_length",
                max_length=self.tokenizer.model_max_length,
                truncation=True,
                return_tensors="pt",
            )
            with torch.no_grad():
                self._known[prompt] = self.encoder(tokens.input_ids.to(self.encoder.device))[0]
        return torch.cat([self._known[prompt] for prompt in prompts])

    def check(self, prompts: Sequence[str]) -> None:
        """Raise ValueError naming a prompt of which the encoder would not read the end."""
        lengths = [len(tokens) for tokens in self.tokenizer(list(prompts)).input_ids]
        longest = max(range(len(lengths)), key=lengths.__getitem__)
        if lengths[longest] > self.tokenizer.model_max_length:
            raise ValueError(
                f"model.prompts: {shown(prompts[longest])!r} has {lengths[longest]} tokens; valid: at most "
                f"{self.tokenizer.model_max_length}, the rest would not be read"
            )

    def to(self, device: torch.device | str) -> None:
        self.encoder.to(device)
        self._known.clear()


class StableDiffusion(NetworkAdapter):
    """Timesteps 0..999; the empty prompt is the unconditional condition.

    A label stands for its class's first prompt; `label + n * classes` for the one numbered n.
    """

    def __init__(
        self,
        network: Any,
        autoencoder: Autoencoder,
        prompts: Prompts,
        schedule: DiscreteSchedule,
        prediction: Prediction,
        prompts_of_class: dict[str, tuple[str, ...]],
    ) -> None:
        size, channels = square_side(network.config.sample_size, "unet"), int(network.config.in_channels)
        self.prompts = prompts
        super().__init__(
            network,
            schedule=schedule,
            prediction=prediction,
            classes=ClassList.of_names(tuple(prompts_of_class)),
            prompt_texts=[text for texts in zip(*prompts_of_class.values(), strict=True) for text in texts],
            latent_shape=(channels, size, size),
            feature_layers=unet_layers(network),
            autoencoder=autoencoder,
        )

    def to(self, device: torch.device | str) -> NetworkAdapter:
        self.prompts.to(device)
        return super().to(device)

    def cond(self, labels: Tensor) -> Tensor:
        known = checked_labels(labels, len(self.prompt_texts)).tolist()
        return self.prompts([self.prompt_texts[number] for number in known])

    def null_cond(self, num: int) -> Tensor:
        return self.prompts([""] * num)

    def forward(self, x_t: Tensor, t: float, cond: Tensor) -> Tensor:
        return self.network(x_t, timesteps(x_t, t), encoder_hidden_states=cond.to(self.dtype)).sample


def build(config: ModelConfig) -> StableDiffusion:
    """Return the model of a diffusers folder; prompts by `model.prompts` or from ImageNet's class names."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers import CLIPTextModel

    folder = Path(config.weights)
    if not folder.is_dir():
        raise ValueError(f"model.weights: {config.weights!r} is not a folder; {MIRROR}")
    if not (folder / "tokenizer" / "vocab.json").is_file():
        raise ValueError(f"model.weights: {config.weights!r} has no tokenizer/vocab.json; {MIRROR}")
    schedule, prediction = read_schedule(folder / "scheduler")
    network = load_component(UNet2DConditionModel, config.weights, "unet", config.precision, SETTINGS)
    vae = load_component(AutoencoderKL, config.weights, "vae", "float32")
    encoder = load_component(CLIPTextModel, config.weights, "text_encoder", "float32", TEXT_SETTINGS)
    tokenizer = load_tokenizer(folder / "tokenizer")
    prompts_of_class, prompts = read_prompts(config), Prompts(tokenizer, encoder)
    prompts.check([text for texts in prompts_of_class.values() for text in texts])
    return StableDiffusion(network, Autoencoder(vae), prompts, schedule, prediction, prompts_of_class)


def read_prompts(config: ModelConfig) -> dict[str, tuple[str, ...]]:
    """Return {class name: prompts} of the file `model.prompts`, or `model.prompt_template` over ImageNet's names.

    Raises ValueError for a file that is no JSON object of texts or lists of texts, for a text without a letter, which
    is the unconditional condition, and where classes have different numbers of prompts.
    """
    if config.prompts is not None:
        return _read_prompt_file(config.prompts)
    from timm.data.imagenet_info import ImageNetInfo

    info = ImageNetInfo()
    described = {name: info.label_name_to_description(name) for name in imagenet_wnids()}
    return {name: (config.prompt_template.replace("{}", text),) for name, text in described.items()}


def _read_prompt_file(path: str) -> dict[str, tuple[str, ...]]:
    try:
        given = read_json(Path(path))
    except (OSError, ValueError) as error:
        raise ValueError(f"model.prompts: {path!r} cannot be read: {error}") from None
    if not isinstance(given, dict) or not given or not all(map(_are_prompts, given.values())):
        raise ValueError(
            f'model.prompts: {path!r} is not a JSON object {{"class name": "prompt" or ["prompt", ...], ...}}'
        )
    prompts = {name: (value,) if isinstance(value, str) else tuple(value) for name, value in given.items()}
    first = next(iter(prompts))
    blank = [name for name, texts in prompts.items() if not name.strip() or not all(text.strip() for text in texts)]
    if blank:
        raise ValueError(
            f"model.prompts: {path!r} has no text for class {shown(blank[0])!r}, or a class without a name"
        )
    odd = [name for name, texts in prompts.items() if len(texts) != len(prompts[first])]
    if odd:
        raise ValueError(
            f"model.prompts: {path!r} has {len(prompts[odd[0]])} prompts for {shown(odd[0])!r} and "
            f"{len(prompts[first])} for {shown(first)!r}; valid: the same number for every class"
        )
    return prompts


def _are_prompts(value: object) -> bool:
    texts = value if isinstance(value, list) else [value]
    return bool(texts) and all(isinstance(text, str) for text in texts)


def build_tiny(config: ModelConfig | None = None) -> StableDiffusion:
    """Return a small random model: v-prediction, images of 32 pixels, a token a letter, the prompts of a config."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    from clarep_ray.models.dit import tiny_vae

    network = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=8,
        attention_head_dim=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16,
    )
    letters = [chr(code) for code in range(33, 127)]
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=TINY_TOKENS)
    encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(vocabulary),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=TINY_TOKENS,
            bos_token_id=len(vocabulary) - 2,
            eos_token_id=len(vocabulary) - 1,
        )
    )
    first = scaled_linear_schedule().alphas_cumprod[0].item()
    schedule = scaled_linear_schedule(steps_offset=1, clean_alpha_squared=first)
    prompts_of_class, prompts = read_prompts(config or ModelConfig()), Prompts(tokenizer, encoder)
    prompts.check([text for texts in prompts_of_class.values() for text in texts])
    made = StableDiffusion(network, Autoencoder(tiny_vae()), prompts, schedule, "v_prediction", prompts_of_class)
    if config is None or config.prompts is None:  # random weights know no class by the names in a template
        made.classes = dataclasses.replace(made.classes, assumed=True)
    return made
