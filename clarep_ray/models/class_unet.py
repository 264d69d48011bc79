"""Class-conditional UNet in pixel space (diffusers' UNet2DModel), as trained on CIFAR-10; no unconditional branch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from torch import Tensor, nn

from clarep_ray.clarid.schedule import DiscreteSchedule, linear_schedule
from clarep_ray.config import ModelConfig, UnetSizes
from clarep_ray.data.cifar10 import CIFAR10_NAMES
from clarep_ray.data.records import shown
from clarep_ray.data.untrusted import read_json
from clarep_ray.models.adapter import LabelledAdapter, timesteps
from clarep_ray.models.diffusers_folder import load_component, square_side
from clarep_ray.models.diffusers_schedule import Prediction, read_schedule, write_linear_schedule

NAMES = "class_names.json"
"""Beside unet/ and scheduler/ in a folder trained here: what the labels stand for."""


SETTINGS = {
    "center_input_sample": (False,),  # pixels of 0 to 1
    "time_embedding_type": ("positional",),  # the others divide by the time, or know no table of it
    "class_embed_type": (None, "timestep"),
}
"""Settings of a UNet2DModel that are carried out."""


class ClassUnet(LabelledAdapter):
    """Timesteps 0..999; every sample has a class, so guidance must be off."""

    def __init__(
        self,
        network: Any,
        schedule: DiscreteSchedule,
        prediction: Prediction,
        class_names: Sequence[str] | None = None,
    ) -> None:
        size, channels = square_side(network.config.sample_size, "unet"), int(network.config.in_channels)
        if network.config.num_class_embeds is None:
            raise ValueError("model.weights: the UNet has no class embedding (num_class_embeds); CLARID needs one")
        self.num_classes = int(network.config.num_class_embeds)
        super().__init__(
            network,
            schedule=schedule,
            prediction=prediction,
            class_names=class_names or default_names(self.num_classes),
            latent_shape=(channels, size, size),
            feature_layers=unet_layers(network),
        )

    def null_cond(self, num: int) -> NoReturn:
        raise ValueError(
            "decoding.guidance_scale or output.extras: class_unet has no unconditional branch; valid: guidance 1 and "
            "no `unconditional` projection"
        )

    def forward(self, x_t: Tensor, t: float, cond: Tensor) -> Tensor:
        return self.network(x_t, timesteps(x_t, t), class_labels=cond).sample


def unet_layers(network: Any) -> list[str]:
    """Return the blocks of a diffusers UNet in the order of its forward pass."""
    down = [f"down_blocks.{i}" for i in range(len(network.down_blocks))]
    return [*down, "mid_block", *(f"up_blocks.{i}" for i in range(len(network.up_blocks)))]


def default_names(num_classes: int) -> tuple[str, ...]:
    """Return CIFAR-10's names for ten classes, else numbers."""
    return CIFAR10_NAMES if num_classes == 10 else tuple(map(str, range(num_classes)))


def build(config: ModelConfig) -> ClassUnet:
    """Return the model of a diffusers folder with unet/ and scheduler/.

    `class_names.json`, which a training here writes, says what the labels stand for; without it ten classes are
    CIFAR-10's. Raises ValueError naming what is missing or wrong.
    """
    from diffusers.models.unets.unet_2d import UNet2DModel

    folder = Path(config.weights)
    schedule, prediction = read_schedule(folder / "scheduler")
    network: Any = load_component(UNet2DModel, config.weights, "unet", config.precision, SETTINGS)
    names = _names(folder / NAMES, network.config.num_class_embeds)
    try:
        return ClassUnet(network, schedule, prediction, names)
    except (TypeError, ValueError) as error:  # a size that is no number
        raise ValueError(f"model.weights: {config.weights!r}: {shown(str(error))}") from None


def _names(path: Path, num_classes: int | None) -> list[str] | None:
    if not path.is_file():
        return None
    try:
        names = [str(name) for name in read_json(path)]
    except (ValueError, TypeError, OSError):
        raise ValueError(f"model.weights: {str(path)!r} is not a JSON list") from None
    if len(names) != num_classes:
        raise ValueError(f"model.weights: {str(path)!r} names {len(names)} classes; valid: {num_classes}")
    return names


def make_network(sizes: UnetSizes, image_size: int, num_classes: int) -> nn.Module:
    """Return DDPM's UNet (Ho et al. 2020, App. B) with a class embedding added to the time's, freshly initialised.

    What `sizes` does not say is as in diffusers' conversion of DDPM's CIFAR-10 checkpoint: one attention head, its
    frequencies of the time embedding, its padding. With the default sizes, 32 pixels and ten classes: 35.75 million
    parameters.
    """
    from diffusers.models.unets.unet_2d import UNet2DModel

    sides = [image_size // 2**level for level in range(len(sizes.multipliers))]
    attends = ["Attn" if side in sizes.attention_sides else "" for side in sides]
    return UNet2DModel(
        sample_size=image_size,
        block_out_channels=tuple(sizes.channels * factor for factor in sizes.multipliers),
        down_block_types=tuple(f"{attention}DownBlock2D" for attention in attends),
        up_block_types=tuple(f"{attention}UpBlock2D" for attention in reversed(attends)),
        layers_per_block=sizes.layers_per_block,
        dropout=sizes.dropout,
        norm_num_groups=sizes.norm_groups,
        norm_eps=1e-6,
        attention_head_dim=None,
        freq_shift=1,
        flip_sin_to_cos=False,
        downsample_padding=0,
        num_class_embeds=num_classes,
    )


def save(network: Any, prediction: Prediction, class_names: Sequence[str], folder: Path) -> None:
    """Write unet/, scheduler/ and class_names.json as `build` reads them; betas are DDPM's 1000 linear ones."""
    network.save_pretrained(folder / "unet")
    write_linear_schedule(folder / "scheduler", prediction)
    (folder / NAMES).write_text(json.dumps(list(class_names), ensure_ascii=False) + "\n")


def build_tiny() -> ClassUnet:
    """Return a small random model of 16 x 16 pictures in ten classes."""
    from diffusers.models.unets.unet_2d import UNet2DModel

    network = UNet2DModel(
        sample_size=16,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=8,
        attention_head_dim=8,
        num_class_embeds=10,
    )
    return ClassUnet(network, linear_schedule(), "epsilon")
