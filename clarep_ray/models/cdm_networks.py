"""The networks that can be trained here: how each is made, and how its folder is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from clarep_ray import dotted
from clarep_ray.config import TrainCdmConfig
from clarep_ray.data.durable import new_folder
from clarep_ray.data.inside import read_record_inside, write_inside
from clarep_ray.data.plain_json import plain_json
from clarep_ray.data.untrusted import Fields
from clarep_ray.models import class_unet, digits_dit
from clarep_ray.models.cdm_labels import CdmLabels
from clarep_ray.models.cdm_training import CdmTrainer, TrainingSet

RESULT, MODEL = "result.json", "model"
RESULT_FIELDS: Fields = {
    "fingerprint": str,
    "data_sha256": str,
    "steps": int,
    "loss": float,
    "num_images": int,
    "class_names": list,
    "model": str,
    "config": dict,
}
"""What the record of a finished training says, and of which type."""


@dataclass(frozen=True)
class Trainable:
    """A family of networks, called as network(x_t, timestep=..., class_labels=..., return_dict=False).

    `make` takes the config and the labels, `save` the network too, and the folder that `model.weights` can later name.
    """

    make: Callable[[TrainCdmConfig, CdmLabels], nn.Module]
    save: Callable[[nn.Module, TrainCdmConfig, CdmLabels, Path], None]


def _make_dit(config: TrainCdmConfig, labels: CdmLabels) -> nn.Module:
    return digits_dit.make_network(_dit_architecture(config), len(labels.class_names))


def _save_dit(network: nn.Module, config: TrainCdmConfig, labels: CdmLabels, folder: Path) -> None:
    digits_dit.save(network, _dit_architecture(config), folder, torch.float16, labels, config.prediction)


def _dit_architecture(config: TrainCdmConfig) -> digits_dit.DigitsDitArchitecture:
    return digits_dit.DigitsDitArchitecture(image_size=config.image_size, **dotted.flatten(config.dit))


def _make_unet(config: TrainCdmConfig, labels: CdmLabels) -> nn.Module:
    return class_unet.make_network(config.unet, config.image_size, labels.num_embeddings)


def _save_unet(network: nn.Module, config: TrainCdmConfig, labels: CdmLabels, folder: Path) -> None:
    class_unet.save(network, config.prediction, labels, folder)


TRAINABLE: dict[str, Trainable] = {
    "digits_dit": Trainable(_make_dit, _save_dit),
    "class_unet": Trainable(_make_unet, _save_unet),
}


def make_network(config: TrainCdmConfig, class_names: Sequence[str]) -> nn.Module:
    """Return the network a config asks for; its initial weights follow from the config's seed."""
    torch.manual_seed(config.seed)
    return TRAINABLE[config.network].make(config, _labels(config, class_names))


def _labels(config: TrainCdmConfig, class_names: Sequence[str]) -> CdmLabels:
    return CdmLabels(class_names=tuple(class_names) if config.conditional else (), label_dropout=config.label_dropout)


def write_result(
    trainer: CdmTrainer, config: TrainCdmConfig, data: TrainingSet, output: Path, fingerprint: str
) -> dict[str, Any]:
    """Write `model/` with the weight average and, last, `result.json`; return what that says."""
    digits_dit.load_parameters(trainer.network, trainer.average)
    with new_folder(output, MODEL) as folder:
        TRAINABLE[config.network].save(trainer.network, config, _labels(config, data.class_names), folder)
    record = {"data_sha256": data.sha256, "fingerprint": fingerprint}
    record |= {"steps": trainer.step, "loss": trainer.recent_loss}
    record |= {"num_images": len(data.images), "class_names": list(data.class_names)}
    record |= {"model": str(output / MODEL), "config": dotted.flatten(config)}
    write_inside(output, RESULT, plain_json(record))
    return record


def read_result(output: Path) -> dict[str, Any]:
    """Return what a finished training wrote last; empty where there is none, ValueError where it is something else."""
    return read_record_inside(output, RESULT, RESULT_FIELDS)
