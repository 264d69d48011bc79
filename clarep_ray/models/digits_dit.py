"""The embedded class-conditional DiT in pixel space (diffusers' DiTTransformer2DModel), v-prediction."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clarep_ray import dotted
from clarep_ray.clarid.schedule import linear_schedule
from clarep_ray.config import ModelConfig
from clarep_ray.data.class_list import ClassList
from clarep_ray.data.records import shown
from clarep_ray.data.spurious_digits import CLASS_NAMES, NUM_CLASSES
from clarep_ray.models.adapter import LabelledAdapter, timesteps
from clarep_ray.models.weight_files import check_fits, load_tensors, read_sizes

SHIPPED = Path(__file__).parent / "weights"
SHIPPED_NAMES = ("rho90", "rho10")


@dataclass(frozen=True, kw_only=True)
class DigitsDitArchitecture:
    """Sizes of the network, as stored in config.json beside the weights."""

    image_size: int
    patch_size: int
    hidden_size: int
    num_blocks: int
    num_heads: int


def make_network(architecture: DigitsDitArchitecture) -> nn.Module:
    """Return the network with diffusers' default initialisation.

    diffusers gives every block its own label embedding with its own dropout in train mode, so that the
    all-blocks-unconditional state would almost never be trained; it is switched off, and training replaces
    labels itself.
    """
    from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel

    network = DiTTransformer2DModel(
        num_attention_heads=architecture.num_heads,
        attention_head_dim=architecture.hidden_size // architecture.num_heads,
        in_channels=3,
        out_channels=3,
        num_layers=architecture.num_blocks,
        sample_size=architecture.image_size,
        patch_size=architecture.patch_size,
        num_embeds_ada_norm=NUM_CLASSES,
    )
    blocks: Any = network.transformer_blocks
    for block in blocks:
        block.norm1.emb.class_embedder.dropout_prob = 0.0
    return network


class DigitsDit(LabelledAdapter):
    """Pixels in [-1, 1] are the latents, timesteps 0..999, label 10 is the unconditional one."""

    num_classes = NUM_CLASSES

    def __init__(self, network: nn.Module, architecture: DigitsDitArchitecture) -> None:
        super().__init__(
            network,
            schedule=linear_schedule(),
            prediction="v_prediction",
            classes=ClassList(CLASS_NAMES),
            latent_shape=(3, architecture.image_size, architecture.image_size),
            feature_layers=[f"transformer_blocks.{i}" for i in range(architecture.num_blocks)],
        )

    def forward(self, x_t: Tensor, t: float, cond: Tensor) -> Tensor:
        return self.network(x_t, timestep=timesteps(x_t, t), class_labels=cond).sample


def weights_folder(weights: str) -> Path:
    """Return the folder of a shipped name or a path; ValueError naming what is missing."""
    folder = SHIPPED / weights if weights in SHIPPED_NAMES else Path(weights)
    missing = [name for name in ("config.json", "model.safetensors") if not (folder / name).is_file()]
    if missing:
        valid = f"{', '.join(SHIPPED_NAMES)}, or a folder with config.json and model.safetensors"
        raise ValueError(f"model.weights: {weights!r} has no {missing[0]}; valid: {valid}")
    return folder


def build(config: ModelConfig) -> DigitsDit:
    """Return the model of a shipped name or a folder with config.json and model.safetensors."""
    folder = weights_folder(config.weights)
    stored = load_tensors(folder / "model.safetensors")
    architecture = _read_architecture(folder / "config.json", stored)
    network = make_network(architecture)
    try:
        load_parameters(network, stored)
    except ValueError as error:
        raise ValueError(f"model.weights: {str(folder)!r}: {error}") from None
    model = DigitsDit(network, architecture)
    model.set_precision(getattr(torch, config.precision))
    return model


def _read_architecture(path: Path, stored: Mapping[str, Tensor]) -> DigitsDitArchitecture:
    """Return the sizes of a config.json; ValueError where they are no sizes, or not those of the stored tensors."""
    where = f"model.weights: {str(path)!r}"
    sizes = read_sizes(path, len(stored))
    try:
        architecture = DigitsDitArchitecture(**sizes)
        dotted.check_types(architecture)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where} describes no network: {shown(str(error))}") from None
    shapes = {name: tuple(tensor.shape) for name, tensor in stored.items()}
    check_fits(lambda: make_network(architecture), shapes, where)
    return architecture


def load_parameters(network: nn.Module, stored: Mapping[str, Tensor]) -> None:
    """Copy the stored parameters into the network; ValueError naming a missing or an unexpected one."""
    parameters = dict(network.named_parameters())
    shapes = {name: parameter.shape for name, parameter in parameters.items()}
    wrong = sorted(
        name for name in shapes.keys() | stored.keys() if name not in stored or shapes.get(name) != stored[name].shape
    )
    if wrong:
        raise ValueError(f"parameter {shown(wrong[0])!r} is missing, unexpected or of another shape")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(stored[name])


def build_tiny() -> DigitsDit:
    """Return a small randomly initialised model: the same code path without weights on disk."""
    architecture = DigitsDitArchitecture(image_size=8, patch_size=2, hidden_size=16, num_blocks=2, num_heads=2)
    return DigitsDit(make_network(architecture), architecture)


def save(network: nn.Module, architecture: DigitsDitArchitecture, folder: Path, dtype: torch.dtype) -> None:
    """Write config.json and model.safetensors in `dtype`."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(asdict(architecture), indent=2) + "\n")
    parameters = {name: tensor.detach().to(dtype).contiguous() for name, tensor in network.named_parameters()}
    save_file(parameters, folder / "model.safetensors")
