"""Classifiers that judge which class of a diffusion model an image shows, each in the model's numbers."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from clarep_ray.data.class_list import UNKNOWN, ClassList, ClassMismatch, Match, match
from clarep_ray.data.records import shown
from clarep_ray.models.answers import answers_of
from clarep_ray.models.classifiers import classes_of, kind_of, load_classifier
from clarep_ray.models.students import Student
from clarep_ray.models.timm_folder import load_timm

FIELD, MODEL = "classifiers", "the diffusion model"


@runtime_checkable
class Classifier(Protocol):
    """Reads the class of images."""

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Return the label of each image (n, h, w, 3); NO_ANSWER where a logit is not finite."""
        ...


class Judge:
    """A classifier with its own preprocessing whose answers are the diffusion model's labels.

    Logits of classes that the model does not have do not compete: the question is which of the model's classes an
    image shows.
    """

    def __init__(self, name: str, classes: ClassList, device: torch.device | str) -> None:
        found = match_judge(name, classes)
        self._columns = torch.tensor([i for i, label in enumerate(found.labels) if label != UNKNOWN], device=device)
        self._labels = torch.tensor([label for label in found.labels if label != UNKNOWN])
        self._read = _reader(name, device)

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Return the model's label of each image (n, h, w, 3); NO_ANSWER where a logit is not finite."""
        with torch.no_grad():
            answers = answers_of(self._read(images)[:, self._columns].float()).cpu()
        return torch.where(answers >= 0, self._labels[answers.clamp_min(0)], answers).numpy()


def load_judges(names: Sequence[str], classes: ClassList, device: torch.device | str = "cpu") -> list[Classifier]:
    """Return the judges of a model with these classes; raises as `check_judges`."""
    return [Judge(name, classes, device) for name in names]


def check_judges(names: Sequence[str], classes: ClassList, wanted: Collection[int] | None = None) -> list[str]:
    """Return, of each judge, one line on how its labels became the model's; reads no weights.

    `wanted` are the model's labels that will be judged, None for all. Raises ValueError for a folder that holds no
    classifier, and where a judge does not know a wanted class: it would call every image of it wrong.
    """
    lines: list[str] = []
    for name in names:
        found = match_judge(name, classes)
        needed = range(len(classes)) if wanted is None else sorted(wanted)
        lacking = sorted(set(needed) - set(found.labels))
        if lacking:
            raise ClassMismatch(
                f"{FIELD}: {name!r} lacks {len(lacking)} of the classes that it would judge, first: "
                f"{shown(classes.names[lacking[0]])!r}; it has {found.theirs}; {MODEL} has {classes}"
            )
        lines.append(f"{Path(name).name}: {found.describe()}{competing(found)}")
    return lines


def match_judge(name: str, classes: ClassList) -> Match:
    """Return which label of the model's each label of a judge is; raises as `check_judges`."""
    return match(classes_of(name, FIELD), classes, f"{FIELD}: {name!r}", MODEL)


def competing(found: Match) -> str:
    """Return what a report adds where some of a classifier's logits do not compete; else nothing."""
    total = len(found.labels)
    return f"; {total - len(found.missing)} of its {total} logits compete" if found.missing else ""


def _reader(name: str, device: torch.device | str) -> Any:
    """Return what makes logits (n, classes) of images (n, h, w, 3) in uint8, prepared as the classifier wants them."""
    if kind_of(name, FIELD) == "timm":
        return _TimmReader(Path(name), device)
    network = load_classifier(name, device, FIELD)
    side = network.architecture.image_size if isinstance(network, Student) else None

    def read(images: NDArray[np.uint8]) -> Float[Tensor, " n classes"]:
        return network(_fitted(images, side).to(device))

    return read


class _TimmReader:
    def __init__(self, folder: Path, device: torch.device | str) -> None:
        from timm.data.config import resolve_data_config
        from timm.data.transforms_factory import create_transform

        network: Any = load_timm(folder, FIELD)
        self.device = device
        self._network = network.eval().requires_grad_(False).to(device)
        self._transform: Any = create_transform(**resolve_data_config(model=network), is_training=False)

    def __call__(self, images: NDArray[np.uint8]) -> Float[Tensor, " n classes"]:
        from PIL import Image

        pixels: list[Tensor] = [self._transform(Image.fromarray(image)) for image in images]
        return self._network(torch.stack(pixels).to(self.device))


def _fitted(images: NDArray[np.uint8], side: int | None) -> Float[Tensor, " n 3 h w"]:
    """Return images as pixels in [0, 1], resized to the side that a student was trained on."""
    pixels = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 255
    if side is None or pixels.shape[-2:] == (side, side):
        return pixels
    return F.interpolate(pixels, (side, side), mode="bicubic", antialias=True).clamp(0, 1)
