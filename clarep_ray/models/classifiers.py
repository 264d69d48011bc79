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
from clarep_ray.models import digit_classifier

SHIPPED = "digits"
CONFIG, WEIGHTS = "config.json", "model.safetensors"


@runtime_checkable
class Classifier(Protocol):
    """Reads the class of pictures."""

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Return the label of each picture (n, h, w, 3)."""
        ...


class TimmClassifier:
    """A timm model with its own preprocessing, from a folder as the Hugging Face hub has it."""

    def __init__(self, folder: Path, device: torch.device | str) -> None:
        from timm import create_model
        from timm.data.config import resolve_data_config
        from timm.data.transforms_factory import create_transform

        network: Any = create_model(f"local-dir:{folder}", pretrained=True)
        self.num_classes, self.device = int(network.num_classes), device
        self._network = network.eval().requires_grad_(False).to(device)
        self._transform: Any = create_transform(**resolve_data_config(model=network), is_training=False)

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.int64]:
        from PIL import Image

        pixels: list[Tensor] = [self._transform(Image.fromarray(image)) for image in images]
        with torch.no_grad():
            logits: Tensor = self._network(torch.stack(pixels).to(self.device))
        return logits.argmax(1).cpu().numpy()


def load_classifiers(names: Sequence[str], num_classes: int, device: torch.device | str = "cpu") -> list[Classifier]:
    """Return the classifiers of `classifiers`; ValueError for a missing folder or another number of classes."""
    found: list[Classifier] = []
    for name in names:
        if name == SHIPPED:
            found.append(digit_classifier.load("digit"))
            known = digit_classifier.NUM_CLASSES
        else:
            judge = TimmClassifier(_folder(name), device)
            found.append(judge)
            known = judge.num_classes
        if known != num_classes:
            raise ValueError(f"classifiers: {name!r} knows {known} classes; the diffusion model has {num_classes}")
    return found


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
