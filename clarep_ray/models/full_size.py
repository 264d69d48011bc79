"""Released sizes with random weights: what an extraction costs before any weights are on disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from clarep_ray import models
from clarep_ray.clarid.schedule import linear_schedule, scaled_linear_schedule
from clarep_ray.config import BenchmarkedModel, ModelConfig, UnetSizes
from clarep_ray.models import class_unet
from clarep_ray.models.adapter import Adapter, NetworkAdapter
from clarep_ray.models.autoencoder import Autoencoder
from clarep_ray.models.class_unet import ClassUnet
from clarep_ray.models.diffusers_schedule import Prediction
from clarep_ray.models.dit import Dit
from clarep_ray.models.stable_diffusion import StableDiffusion
from clarep_ray.seeding import torch_generator

TOKENS, TEXT_CHANNELS = 77, 1024


def dit_xl(depth: int | None = None) -> Dit:
    """Return DiT-XL/2 at 256 pixels; `depth` keeps only so many of its 28 blocks."""
    return Dit(dit_xl_network(depth or 28), Autoencoder(_vae()), linear_schedule(), "epsilon")


def dit_xl_network(depth: int) -> nn.Module:
    """Return the network alone."""
    from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel

    return DiTTransformer2DModel(
        num_attention_heads=16,
        attention_head_dim=72,
        in_channels=4,
        out_channels=8,
        num_layers=depth,
        sample_size=32,
        patch_size=2,
        num_embeds_ada_norm=1000,
    )


def sd21(depth: int | None = None) -> StableDiffusion:
    """Return Stable Diffusion 2.1 at 768 pixels under random prompts; `depth` is the UNet's layers per block, of 2."""
    return _stable_diffusion(sd21_network(depth or 2), "v_prediction")


def sd21_base(depth: int | None = None) -> StableDiffusion:
    """Return Stable Diffusion 2.1-base: the same at 512 pixels."""
    return _stable_diffusion(sd21_network(depth or 2, side=64), "epsilon")


def _stable_diffusion(network: nn.Module, prediction: Prediction) -> StableDiffusion:
    schedule = scaled_linear_schedule(steps_offset=1)
    prompts: Any = _RandomPrompts()
    names = {str(label): (str(label),) for label in range(1000)}
    return StableDiffusion(network, Autoencoder(_vae()), prompts, schedule, prediction, names)


def sd21_network(depth: int, side: int = 96) -> nn.Module:
    """Return the network alone; `side` is that of its latents."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    blocks: dict[str, Any] = {
        "block_out_channels": (320, 640, 1280, 1280),
        "attention_head_dim": (5, 10, 20, 20),
    }
    return UNet2DConditionModel(
        **blocks,
        sample_size=side,
        cross_attention_dim=TEXT_CHANNELS,
        layers_per_block=depth,
        use_linear_projection=True,
    )


def cifar10_unet(depth: int | None = None) -> ClassUnet:
    """Return the UNet that `train_cdm --preset cifar10_unet` trains; `depth` is its layers per block, of 2."""
    sizes = UnetSizes() if depth is None else replace(UnetSizes(), layers_per_block=depth)
    return ClassUnet(class_unet.make_network(sizes, 32, 10), linear_schedule(), "epsilon")


def jacobian_layer(model: Adapter) -> str:
    """Return the layer of the paper's Jacobian (App. E): a UNet's middle block, else the last block."""
    return "mid_block" if "mid_block" in model.feature_layers else model.feature_layers[-1]


FULL_SIZE: dict[str, Callable[[int | None], NetworkAdapter]] = {
    "dit_xl": dit_xl,
    "sd21": sd21,
    "sd21_base": sd21_base,
    "cifar10_unet": cifar10_unet,
}


def benchmarked(name: BenchmarkedModel, depth: int | None) -> Adapter:
    """Return the shipped model for `digits`, or a released size with random weights, the same on every call."""
    torch.manual_seed(0)
    return models.build(ModelConfig()) if name == "digits" else FULL_SIZE[name](depth)


class _RandomPrompts:
    """Embeddings in place of a text encoder's, whose share of an extraction is one pass per class."""

    def __init__(self) -> None:
        self.device: torch.device | str = "cpu"

    def __call__(self, prompts: Sequence[str]) -> Tensor:
        draws = [torch_generator(0, prompt, "prompt") for prompt in prompts]
        return torch.stack([torch.randn(TOKENS, TEXT_CHANNELS, generator=draw) for draw in draws]).to(self.device)

    def to(self, device: torch.device | str) -> None:
        self.device = device


def _vae() -> nn.Module:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    blocks: dict[str, Any] = {
        "block_out_channels": (128, 256, 512, 512),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
    }
    return AutoencoderKL(**blocks, layers_per_block=2, latent_channels=4, sample_size=256)
