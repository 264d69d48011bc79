"""A small class-conditional DiT in pixel space (diffusers' DiTTransformer2DModel): the embedded ones, and one's own.

A folder holds config.json (sizes, class names, label dropout), model.safetensors and scheduler/. The shipped ones have
sizes alone: they are of the embedded digits, were trained with label dropout, and predict v under DDPM's linear betas.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clarep_ray import dotted
from clarep_ray.clarid.schedule import DiscreteSchedule, linear_schedule
from clarep_ray.config import ModelConfig
from clarep_ray.data.class_list import ClassList
from clarep_ray.data.durable import make_folder
from clarep_ray.data.inside import write_inside
from clarep_ray.data.plain_json import plain_json
from clarep_ray.data.records import shown
from clarep_ray.data.spurious_digits import CLASS_NAMES
from clarep_ray.models.adapter import LabelledAdapter, timesteps
from clarep_ray.models.cdm_labels import CdmLabels
from clarep_ray.models.diffusers_schedule import Prediction, read_schedule, write_linear_schedule
from clarep_ray.models.weight_files import check_fits, load_tensors, read_sizes, write_tensors

SHIPPED = Path(__file__).parent / "weights"
SHIPPED_NAMES = ("rho90", "rho10")
SHIPPED_LABELS = CdmLabels(class_names=CLASS_NAMES, label_dropout=0.1)


@dataclass(frozen=True, kw_only=True)
class DigitsDitArchitecture:
    """Sizes of the network, as stored in config.json beside the weights."""

    image_size: int
    patch_size: int
    hidden_size: int
    num_blocks: int
    num_heads: int


def make_network(architecture: DigitsDitArchitecture, num_classes: int = len(CLASS_NAMES)) -> nn.Module:
    """Return the network with diffusers' default initialisation; it embeds one label more than there are classes.

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
        num_embeds_ada_norm=num_classes,
    )
    blocks: Any = network.transformer_blocks
    for block in blocks:
        block.norm1.emb.class_embedder.dropout_prob = 0.0
    return network


class DigitsDit(LabelledAdapter):
    """Pixels in [-1, 1] are the latents, timesteps 0..999, the label after the last class is the unconditional one."""

    def __init__(
        self,
        network: nn.Module,
        architecture: DigitsDitArchitecture,
        labels: CdmLabels = SHIPPED_LABELS,
        schedule: DiscreteSchedule | None = None,
        prediction: Prediction = "v_prediction",
    ) -> None:
        self.num_classes, self.null_branch = len(labels.class_names), labels.null_branch
        super().__init__(
            network,
            schedule=schedule or linear_schedule(),
            prediction=prediction,
            classes=ClassList(CLASS_NAMES) if labels is SHIPPED_LABELS else ClassList.of_names(labels.class_names),
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
    """Return the model of a shipped name or a folder; ValueError naming what is missing or wrong."""
    folder = weights_folder(config.weights)
    stored = load_tensors(folder / "model.safetensors")
    architecture, labels = _read_config(folder / "config.json", stored)
    schedule, prediction = None, "v_prediction"
    if labels is not None:
        schedule, prediction = read_schedule(folder / "scheduler")
    labels = labels or SHIPPED_LABELS
    network = make_network(architecture, len(labels.class_names))
    try:
        load_parameters(network, stored)
    except ValueError as error:
        raise ValueError(f"model.weights: {str(folder)!r}: {error}") from None
    model = DigitsDit(network, architecture, labels, schedule, prediction)
    model.set_precision(getattr(torch, config.precision))
    return model


def _read_config(path: Path, stored: Mapping[str, Tensor]) -> tuple[DigitsDitArchitecture, CdmLabels | None]:
    """Return the sizes of a config.json, and its classes unless it has sizes alone, as the shipped ones.

    Raises ValueError where they are none, or not those of the stored tensors.
    """
    where = f"model.weights: {str(path)!r}"
    found = read_sizes(path, len(stored))
    try:
        sizes = {item.name: found.pop(item.name) for item in fields(DigitsDitArchitecture) if item.name in found}
        architecture = DigitsDitArchitecture(**sizes)
        dotted.check_types(architecture)
        labels = CdmLabels.parse(found) if found else None
        if labels is not None and not labels.class_names:
            raise ValueError("class_names: [] is not valid; valid: one or more")
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where} describes no network: {shown(str(error))}") from None
    num_classes = len((labels or SHIPPED_LABELS).class_names)
    shapes = {name: tuple(tensor.shape) for name, tensor in stored.items()}
    check_fits(lambda: make_network(architecture, num_classes), shapes, where)
    return architecture, labels


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


def save(
    network: nn.Module,
    architecture: DigitsDitArchitecture,
    folder: Path,
    dtype: torch.dtype,
    labels: CdmLabels = SHIPPED_LABELS,
    prediction: Prediction = "v_prediction",
) -> None:
    """Write config.json, model.safetensors in `dtype`, and scheduler/ with DDPM's 1000 linear betas."""
    make_folder(folder)
    write_inside(folder, "config.json", plain_json(asdict(architecture) | labels.stored()))
    write_linear_schedule(folder / "scheduler", prediction)
    parameters = {name: tensor.detach().to(dtype) for name, tensor in network.named_parameters()}
    write_tensors(folder, "model.safetensors", parameters)
