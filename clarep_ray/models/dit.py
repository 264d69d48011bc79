"""DiT (Peebles and Xie 2023) from a diffusers `DiTPipeline` folder: class-conditional, in the latents of a VAE."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from clarep_ray.clarid.schedule import DiscreteSchedule, linear_schedule
from clarep_ray.config import ModelConfig
from clarep_ray.data.class_list import ClassList
from clarep_ray.data.records import shown
from clarep_ray.models.adapter import LabelledAdapter, timesteps
from clarep_ray.models.autoencoder import Autoencoder
from clarep_ray.models.class_names import read_classes
from clarep_ray.models.diffusers_folder import load_component, square_side
from clarep_ray.models.diffusers_schedule import Prediction, read_schedule

FREQ_SHIFT = "_downscale_freq_shift"
"""Key of transformer/config.json: s in the time embedding's frequencies 10000^(-i / (128 - s)), 0 or 1.

0 is what DiT was trained with and what `dit_checkpoint.py` writes; without the key it is diffusers' 1. diffusers
keeps keys that begin like this one, and says nothing of them.
"""


class Dit(LabelledAdapter):
    """Timesteps 0..999, the label after the last class is the unconditional one, variance channels are dropped."""

    def __init__(
        self,
        network: Any,
        autoencoder: Autoencoder,
        schedule: DiscreteSchedule,
        prediction: Prediction,
        classes: ClassList | None = None,
    ) -> None:
        size, channels = square_side(network.config.sample_size, "transformer"), int(network.config.in_channels)
        self.num_classes = int(network.config.num_embeds_ada_norm)
        super().__init__(
            network,
            schedule=schedule,
            prediction=prediction,
            classes=classes or ClassList.by_convention(self.num_classes),
            latent_shape=(channels, size, size),
            feature_layers=[f"transformer_blocks.{i}" for i in range(len(network.transformer_blocks))],
            autoencoder=autoencoder,
        )

    def forward(self, x_t: Tensor, t: float, cond: Tensor) -> Tensor:
        return self.network(x_t, timestep=timesteps(x_t, t), class_labels=cond).sample


def build(config: ModelConfig) -> Dit:
    """Return the model of a diffusers folder with transformer/, vae/ and scheduler/.

    A folder that was published in diffusers' layout is evaluated as diffusers does, with frequencies of the time
    embedding that are not quite those of its training (see `dit_checkpoint.py`); `"_downscale_freq_shift": 0` in its
    transformer/config.json asks for those. Raises ValueError naming what is missing or wrong.
    """
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel

    schedule, prediction = read_schedule(Path(config.weights) / "scheduler")
    network: Any = load_component(DiTTransformer2DModel, config.weights, "transformer", config.precision)
    _set_frequencies(network, config.weights)
    vae = load_component(AutoencoderKL, config.weights, "vae", "float32")
    classes = read_classes(Path(config.weights), network.config.num_embeds_ada_norm)
    try:
        return Dit(network, Autoencoder(vae), schedule, prediction, classes)
    except (TypeError, ValueError) as error:  # a size that is no number
        raise ValueError(f"model.weights: {config.weights!r}: {shown(str(error))}") from None


def _set_frequencies(network: Any, weights: str) -> None:
    """Give every block the time embedding that the folder asks for."""
    shift = network.config.get(FREQ_SHIFT, 1)
    if shift not in (0, 1):
        raise ValueError(f"model.weights: {FREQ_SHIFT} of {weights!r} is {shift!r}; valid: 0, 1")
    for block in network.transformer_blocks:
        block.norm1.emb.time_proj.downscale_freq_shift = shift


def build_tiny() -> Dit:
    """Return a small random model: four latent channels, a learned variance, pictures of 32 pixels."""
    from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel

    network = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=8,
        num_layers=3,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=1000,
    )
    return Dit(network, Autoencoder(tiny_vae()), linear_schedule(), "epsilon")


def tiny_vae() -> nn.Module:
    """Return a small random VAE: four latent channels, four pixels per latent along a side."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    blocks: dict[str, Any] = {
        "block_out_channels": (8, 16, 16),
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
    }
    return AutoencoderKL(**blocks, latent_channels=4, norm_num_groups=8, sample_size=32)
