"""Pretrained classifiers that judge which class a picture shows: the shipped one, or timm models on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clarep_ray.data.shards import sha256_file
from clarep_ray.data.spurious_digits import CLASS_NAMES
from clarep_ray.models import digit_classifier
from clarep_ray.models.answers import answers_of
from clarep_ray.models.timm_folder import CONFIG, WEIGHTS, check_timm_config, load_timm
from clarep_ray.models.weight_files import check_no_nan, stored_shapes

SHIPPED = "digits"


@runtime_checkable
class Classifier(Protocol):
    """Reads the class of pictures."""

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Return the label of each picture (n, h, w, 3); NO_ANSWER where a logit is not finite."""
        ...


class TimmClassifier:
    """A timm model with its own preprocessing, from a folder as the Hugging Face hub has it."""

    def __init__(self, folder: Path, device: torch.device | str) -> None:
        from timm.data.config import resolve_data_config
        from timm.data.transforms_factory import create_transform

        network: Any = load_timm(folder, "classifiers")
        self.device = device
        self._network = network.eval().requires_grad_(False).to(device)
        self._transform: Any = create_transform(**resolve_data_config(model=network), is_training=False)

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.int64]:
        from PIL import Image

        pixels: list[Tensor] = [self._transform(Image.fromarray(image)) for image in images]
        with torch.no_grad():
            logits: Tensor = self._network(torch.stack(pixels).to(self.device))
        return answers_of(logits.float()).cpu().numpy()


def load_classifiers(names: Sequence[str], device: torch.device | str = "cpu") -> list[Classifier]:
    """Return the classifiers of `classifiers`; ValueError for a missing folder."""
    return [
        digit_classifier.load("digit") if name == SHIPPED else TimmClassifier(_folder(name), device) for name in names
    ]


def absolute_classifiers(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names with folders as every process finds them."""
    return tuple(str(Path(name).absolute()) if Path(name).is_dir() else name for name in names)


def check_classifiers(names: Sequence[str], class_names: Sequence[str]) -> None:
    """Raise ValueError for a folder that is missing, or whose classes are not those of the diffusion model.

    So is a folder whose weights have a NaN: it would read nothing. Where a folder's config names its labels and these
    are the model's in another order, its numbers would mean other classes.
    """
    for name in names:
        known = list(CLASS_NAMES) if name == SHIPPED else _label_names(_folder(name))
        if len(known) != len(class_names):
            raise ValueError(
                f"classifiers: {name!r} knows {len(known)} classes; the diffusion model has {len(class_names)}"
            )
        if name != SHIPPED:
            check_no_nan(_folder(name) / WEIGHTS, f"classifiers: {name!r}")
        other = list(class_names) != known
        if other and (name == SHIPPED or set(class_names) == set(known)):
            raise ValueError(
                f"classifiers: {name!r} has the classes {', '.join(known[:3])}, ...; the diffusion model has "
                f"{', '.join(class_names[:3])}, ..."
            )


def _label_names(folder: Path) -> list[str]:
    """Return what the labels of a timm model stand for, numbers where its config does not say."""
    from timm.models._hub import load_model_config_from_path

    check_timm_config(folder, "classifiers", len(stored_shapes(folder / WEIGHTS)))
    try:
        pretrained, _, arguments = load_model_config_from_path(folder)
        count = int(arguments.get("num_classes") or pretrained.get("num_classes", 1000))
        return [str(name) for name in pretrained.get("label_names") or range(count)]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"classifiers: {str(folder / CONFIG)!r} is no config of a timm model: {error!r}") from None


def classifiers_sha256(names: Sequence[str]) -> str:
    """Return one sha256 over the classifiers' files; ValueError for a missing folder."""
    total = hashlib.sha256()
    for name in names:
        total.update(f"{name if name == SHIPPED else ''}\0".encode())
        if name != SHIPPED:
            for file in (CONFIG, WEIGHTS):
                total.update(sha256_file(_folder(name) / file).encode())
    return total.hexdigest()


def classifier_name(name: str) -> str:
    """Return what a classifier is called in tables."""
    return Path(name).name


def _folder(name: str) -> Path:
    folder = Path(name)
    for file in (CONFIG, WEIGHTS):
        if not (folder / file).is_file():
            raise ValueError(
                f"classifiers: {name!r} has no {file}; valid: {SHIPPED}, or a folder of a timm model with {CONFIG} and "
                f"{WEIGHTS}, as the Hugging Face hub has it"
            )
    return folder
