"""Teachers that are classifiers on disk: a timm model or a student trained here; frozen, pixels in [0, 1]."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from clarep_ray.data.class_list import ClassList, Match
from clarep_ray.models.class_names import read_classes
from clarep_ray.models.classifiers import folder_sha256
from clarep_ray.models.students import CONFIG, WEIGHTS, channels_first, load_student, read_architecture
from clarep_ray.models.timm_folder import load_timm


@dataclass(frozen=True)
class Reading:
    """What a teacher says of a batch: logits, the features they are made of, and the last map, channels first."""

    logits: Float[Tensor, " b c"]
    features: Float[Tensor, " b e"]
    maps: Float[Tensor, " b k h w"]


class Teacher(nn.Module):
    """A frozen classifier with its own normalisation and input side.

    Its feature is what enters the classifier: the class token of a DeiT-III, the averaged map of a ResNet.
    """

    mean: Tensor
    std: Tensor
    columns: Tensor
    """Which of the network's logits are read, in this order."""
    match: Match | None = None
    """How its labels became the training set's, where its logits are used."""

    def __init__(self, network: Any, mean: Any, std: Any, image_size: int, classes: ClassList) -> None:
        super().__init__()
        self.classes = classes
        self.network = network.eval().requires_grad_(False)
        self.num_features = int(network.num_features)
        self.image_size = image_size
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))
        self.register_buffer("columns", torch.arange(len(classes)))

    def choose_logits(self, found: Match) -> None:
        """Read the logits of a training set's classes, in its order; those of other classes are left out."""
        self.match, self.columns = found, torch.tensor(found.labels)

    def train(self, mode: bool = True) -> Teacher:
        """Stay in eval mode: a teacher is not trained."""
        return super().train(False)

    @torch.no_grad()
    def read(self, pixels: Float[Tensor, " b 3 h w"]) -> Reading:
        """Return what the teacher says of pixels in [0, 1], resized to its own side."""
        if pixels.shape[-1] != self.image_size:
            side = (self.image_size, self.image_size)
            pixels = F.interpolate(pixels, side, mode="bicubic", antialias=True).clamp(0, 1)
        maps: Tensor = self.network.forward_features((pixels - self.mean) / self.std)
        features: Tensor = self.network.forward_head(maps, pre_logits=True)
        logits: Tensor = self.network.get_classifier()(features)
        prefix = int(getattr(self.network, "num_prefix_tokens", 0))
        spatial = channels_first(maps, self.num_features, prefix)
        return Reading(logits[:, self.columns].float(), features.float(), spatial.float())


def check_teacher(folder: str | None) -> Path:
    """Return the teacher's folder; ValueError naming what is missing."""
    root = Path(folder or "")
    missing = [name for name in (CONFIG, WEIGHTS) if not folder or not (root / name).is_file()]
    if missing:
        raise ValueError(
            f"teacher.network: {folder!r} has no {missing[0]}; valid: a folder of a timm model as the Hugging Face hub "
            f"has it ({CONFIG}, {WEIGHTS}), or of a student trained here"
        )
    return root


def teacher_sha256(folder: str | None) -> str:
    """Return one sha256 over the teacher's files; ValueError where one is missing."""
    return folder_sha256(check_teacher(folder))


def load_teacher(folder: str | None) -> Teacher:
    """Return the frozen teacher of a folder, on the CPU; ValueError where there is none."""
    root = check_teacher(folder)
    if read_architecture(root) is not None:
        student = load_student(root)
        known = student.architecture
        return Teacher(student.network, known.mean, known.std, known.image_size, known.classes)
    from timm.data.config import resolve_data_config

    network: Any = load_timm(root, "teacher.network")
    found = resolve_data_config(model=network)
    classes = read_classes(root, int(network.num_classes), "teacher.network")
    return Teacher(network, found["mean"], found["std"], int(found["input_size"][-1]), classes)
