"""UNets in pixel space (diffusers' UNet2DModel): of classes, with a null label too, or of neither.

Without a class embedding a UNet is no model for CLARID, and a teacher that cannot know the label (Sec. K.6).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from clarep_ray.clarid.schedule import DiscreteSchedule, linear_schedule
from clarep_ray.config import ModelConfig, UnetSizes
from clarep_ray.data.class_list import ClassList
from clarep_ray.data.inside import write_inside
from clarep_ray.data.plain_json import plain_json
from clarep_ray.data.records import shown
from clarep_ray.data.untrusted import read_json
from clarep_ray.models.adapter import LabelledAdapter, timesteps
from clarep_ray.models.autoencoder import GreyImages
from clarep_ray.models.cdm_labels import CdmLabels
from clarep_ray.models.class_names import NAMES, read_classes
from clarep_ray.models.diffusers_folder import load_component, square_side
from clarep_ray.models.diffusers_schedule import Prediction, read_schedule, write_linear_schedule

SETTINGS = {
    "center_input_sample": (False,),  # pixels of 0 to 1
    "time_embedding_type": ("positional",),  # the others divide by the time, or know no table of it
    "class_embed_type": (None, "timestep"),
}
"""Settings of a UNet2DModel that are carried out."""


class ClassUnet(LabelledAdapter):
    """Pixels in [-1, 1], grey for networks of one channel, are the latents; timesteps 0..999.

    With a null branch the last label is the unconditional one. Raises ValueError for networks that are not called with
    labels alone.
    """

    def __init__(
        self,
        network: Any,
        schedule: DiscreteSchedule,
        prediction: Prediction,
        classes: ClassList | None = None,
        null_branch: bool = False,
    ) -> None:
        size, channels = square_side(network.config.sample_size, "unet"), int(network.config.in_channels)
        if channels not in (1, 3):
            raise ValueError(f"in_channels is {channels}; valid: 3, or 1 for grey images")
        embeds = network.config.num_class_embeds
        if embeds is None and network.class_embedding is not None:
            kind = shown(str(network.config.class_embed_type))
            raise ValueError(f"class_embed_type is {kind!r}; valid: an embedding of labels (num_class_embeds)")
        self.num_classes = 0 if embeds is None else int(embeds) - null_branch
        self.null_branch = null_branch or embeds is None
        super().__init__(
            network,
            schedule=schedule,
            prediction=prediction,
            classes=classes or ClassList.by_convention(self.num_classes),
            latent_shape=(channels, size, size),
            feature_layers=unet_layers(network),
            autoencoder=GreyImages() if channels == 1 else None,
        )

    def forward(self, x_t: Tensor, t: float, cond: Tensor) -> Tensor:
        return self.network(x_t, timesteps(x_t, t), class_labels=cond if self.num_classes else None).sample


def unet_layers(network: Any) -> list[str]:
    """Return the blocks of a diffusers UNet in the order of its forward pass."""
    down = [f"down_blocks.{i}" for i in range(len(network.down_blocks))]
    return [*down, "mid_block", *(f"up_blocks.{i}" for i in range(len(network.up_blocks)))]


def build(config: ModelConfig) -> ClassUnet:
    """Return the model of a diffusers folder with unet/ and scheduler/, or with the files of both at its root.

    `class_names.json`, which a training here writes, says what the labels stand for, and, as an object (CdmLabels),
    whether there is one more, the unconditional one. Without names labels are numbers. Raises ValueError naming what is
    missing or wrong.
    """
    from diffusers.models.unets.unet_2d import UNet2DModel

    folder = Path(config.weights)
    flat = (folder / "scheduler_config.json").is_file() and not (folder / "unet").is_dir()  # as google/ddpm-cifar10-32
    schedule, prediction = read_schedule(folder if flat else folder / "scheduler")
    network: Any = load_component(UNet2DModel, config.weights, "" if flat else "unet", config.precision, SETTINGS)
    null_branch, embeds = _null_branch(folder / NAMES), network.config.num_class_embeds
    classes = read_classes(folder, embeds - null_branch if isinstance(embeds, int) else 0)
    try:
        return ClassUnet(network, schedule, prediction, classes, null_branch)
    except (TypeError, ValueError) as error:  # a size that is no number
        raise ValueError(f"model.weights: {config.weights!r}: {shown(str(error))}") from None


def _null_branch(path: Path) -> bool:
    """Return whether a training here says that it dropped labels; others' names say nothing of it."""
    if not path.is_file():
        return False
    try:
        found = read_json(path)
        return isinstance(found, dict) and "label_dropout" in found and CdmLabels.parse(found).null_branch
    except (ValueError, TypeError, OSError) as error:
        raise ValueError(f"model.weights: {str(path)!r} names no classes: {shown(str(error))}") from None


def make_network(sizes: UnetSizes, image_size: int, num_embeddings: int | None) -> nn.Module:
    """Return DDPM's UNet (Ho et al. 2020, App. B), freshly initialised, labels, if any, embedded beside the time.

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
        num_class_embeds=num_embeddings,
    )


def save(network: Any, prediction: Prediction, labels: CdmLabels, folder: Path) -> None:
    """Write unet/, scheduler/ and class_names.json as `build` reads them; betas are DDPM's 1000 linear ones."""
    network.save_pretrained(folder / "unet")
    write_linear_schedule(folder / "scheduler", prediction)
    write_inside(folder, NAMES, plain_json(labels.stored()))


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
