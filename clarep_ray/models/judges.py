"""Classifiers that judge which class of a diffusion model an image shows, each in the model's numbers."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from clarep_ray.data.class_list import UNKNOWN, ClassList, ClassMismatch, Match, match
from clarep_ray.data.records import shown
from clarep_ray.models.answers import answers_of
from clarep_ray.models.classifiers import classes_of, kind_of, load_classifier
from clarep_ray.models.timm_folder import WEIGHTS
from clarep_ray.models.weight_files import check_no_nan

FIELD, MODEL = "classifiers", "the diffusion model"


@runtime_checkable
class Classifier(Protocol):
    """Reads the class of images."""

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Return the label of each image (n, h, w, 3); NO_ANSWER where a logit is not finite."""
        ...


class Judge:
    """A classifier that sees images its own way (`View`), whose answers are the diffusion model's labels.

    Logits of classes that the model does not have do not compete: the question is which of the model's classes an
    image shows.
    """

    def __init__(self, name: str, classes: ClassList, device: torch.device | str) -> None:
        found = match_judge(name, classes)
        self._columns = torch.tensor([i for i, label in enumerate(found.labels) if label != UNKNOWN], device=device)
        self._labels = torch.tensor([label for label in found.labels if label != UNKNOWN])
        self._network, self._device = load_classifier(name, device, FIELD), device

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Return the model's label of each image (n, h, w, 3); NO_ANSWER where a logit is not finite."""
        seen = np.stack([self._network.view.of(Image.fromarray(image)) for image in images])
        pixels = torch.from_numpy(seen).permute(0, 3, 1, 2).float() / 255
        with torch.no_grad():
            answers = answers_of(self._network(pixels.to(self._device))[:, self._columns].float()).cpu()
        return torch.where(answers >= 0, self._labels[answers.clamp_min(0)], answers).numpy()


def load_judges(names: Sequence[str], classes: ClassList, device: torch.device | str = "cpu") -> list[Classifier]:
    """Return the judges of a model with these classes; raises as `check_judges`."""
    return [Judge(name, classes, device) for name in names]


def check_judges(names: Sequence[str], classes: ClassList, wanted: Collection[int] | None = None) -> list[str]:
    """Return, of each judge, one line on how its labels became the model's.

    `wanted` are the model's labels that will be judged, None for all. Raises ValueError for a folder that holds no
    classifier, for weights with a NaN, which read nothing, and where a judge does not know a wanted class: it would
    call every image of it wrong.
    """
    lines: list[str] = []
    for name in names:
        found = match_judge(name, classes)
        if kind_of(name, FIELD) != "shipped":
            check_no_nan(Path(name) / WEIGHTS, f"{FIELD}: {name!r}")
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
