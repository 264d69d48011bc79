"""Class-conditional UNet in pixel space (diffusers' UNet2DModel), as trained on CIFAR-10; no unconditional branch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

from torch import Tensor

from clarep_ray.clarid.schedule import DiscreteSchedule, linear_schedule
from clarep_ray.config import ModelConfig
from clarep_ray.data.cifar10 import CIFAR10_NAMES
from clarep_ray.models.adapter import LabelledAdapter, timesteps
from clarep_ray.models.diffusers_folder import load_component
from clarep_ray.models.diffusers_schedule import Prediction, read_schedule


class ClassUnet(LabelledAdapter):
    """Timesteps 0..999; every sample has a class, so guidance must be off."""

    def __init__(self, network: Any, schedule: DiscreteSchedule, prediction: Prediction) -> None:
        size, channels = int(network.config.sample_size), int(network.config.in_channels)
        if network.config.num_class_embeds is None:
            raise ValueError("model.weights: the UNet has no class embedding (num_class_embeds); CLARID needs one")
        self.num_classes = int(network.config.num_class_embeds)
        super().__init__(
            network,
            schedule=schedule,
            prediction=prediction,
            class_names=CIFAR10_NAMES if self.num_classes == 10 else tuple(map(str, range(self.num_classes))),
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


def build(config: ModelConfig) -> ClassUnet:
    """Return the model of a diffusers folder with unet/ and scheduler/."""
    from diffusers.models.unets.unet_2d import UNet2DModel

    schedule, prediction = read_schedule(Path(config.weights) / "scheduler")
    return ClassUnet(load_component(UNet2DModel, config.weights, "unet", config.precision), schedule, prediction)


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
