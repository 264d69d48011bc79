"""Classifiers on disk: the shipped one, timm models, students trained here; and those that judge images.

Each numbers its classes in an order of its own, which `classes_of` tells.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from clarep_ray.data.class_list import ClassList
from clarep_ray.data.shards import sha256_file
from clarep_ray.data.spurious_digits import CLASS_NAMES
from clarep_ray.data.views import View
from clarep_ray.models import digit_classifier
from clarep_ray.models.class_names import FILES, read_classes
from clarep_ray.models.students import Student, load_student, read_architecture
from clarep_ray.models.timm_folder import CONFIG, WEIGHTS, check_timm_config, load_timm, timm_view
from clarep_ray.models.weight_files import stored_shapes

SHIPPED = "digits"
Kind = Literal["shipped", "timm", "student"]


class NormalisedClassifier(nn.Module):
    """A network behind (images - mean) / std, for images in [0, 1] made by `view`; mean and std are per channel."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float], view: View) -> None:
        super().__init__()
        self.network, self.view = network, view
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(list(values), dtype=torch.float32)[:, None, None], persistent=False)

    def forward(self, images: Float[Tensor, " b c h w"]) -> Float[Tensor, " b classes"]:
        return self.network((images - self.mean) / self.std)


Evaluated = NormalisedClassifier | Student


def kind_of(name: str, field: str = "classifiers") -> Kind:
    """Return what kind of classifier a name or a folder is; ValueError for a folder that lacks a file, or is none."""
    if name == SHIPPED:
        return "shipped"
    for file in (CONFIG, WEIGHTS):
        if not (Path(name) / file).is_file():
            raise ValueError(
                f"{field}: {name!r} has no {file}; valid: {SHIPPED}, or a folder of a timm model, as the Hugging Face "
                f"hub has it, or of a student trained here, with {CONFIG} and {WEIGHTS}"
            )
    try:
        return "timm" if read_architecture(name) is None else "student"
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{field}: {name!r} has no readable {CONFIG}: {error}") from None


def classes_of(name: str, field: str = "classifiers") -> ClassList:
    """Return what the labels of a classifier stand for, without reading weights; raises as `kind_of`."""
    return _CLASSES[kind_of(name, field)](name, field)


def load_classifier(name: str, device: torch.device | str = "cpu", field: str = "classifier.weights") -> Evaluated:
    """Return a classifier of images in [0, 1], frozen, in eval mode; raises as `kind_of`, or where weights are none."""
    return _LOADERS[kind_of(name, field)](name, field).eval().requires_grad_(False).to(device)


def absolute_classifiers(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names with folders as every process finds them."""
    return tuple(str(Path(name).absolute()) if Path(name).is_dir() else name for name in names)


def classifiers_sha256(names: Sequence[str], field: str = "classifiers") -> str:
    """Return one sha256 over the classifiers' files; ValueError for a missing folder."""
    total = hashlib.sha256()
    for name in names:
        total.update(f"{name if kind_of(name, field) == 'shipped' else ''}\0".encode())
        if name != SHIPPED:
            total.update(folder_sha256(Path(name)).encode())
    return total.hexdigest()


def folder_sha256(folder: Path) -> str:
    """Return one sha256 over a classifier's config, weights and whatever names its classes."""
    names = [name for name in FILES if name != CONFIG and (folder / name).is_file()]
    return hashlib.sha256(
        "".join(sha256_file(folder / name) for name in (CONFIG, WEIGHTS, *names)).encode()
    ).hexdigest()


def classifier_name(name: str) -> str:
    """Return what a classifier is called in tables."""
    return Path(name).name


def _shipped(name: str, field: str) -> NormalisedClassifier:
    grey, view = (0.5, 0.5, 0.5), View(image_size=digit_classifier.SIDE, resize=digit_classifier.SIDE)
    return NormalisedClassifier(digit_classifier.load("digit"), grey, grey, view)


def _timm(name: str, field: str) -> NormalisedClassifier:
    from timm.data.config import resolve_data_config

    network: Any = load_timm(Path(name), field)
    data = resolve_data_config(model=network)
    return NormalisedClassifier(network, data["mean"], data["std"], timm_view(network, Path(name), field))


def _timm_classes(name: str, field: str) -> ClassList:
    from timm.models._hub import load_model_config_from_path

    folder = Path(name)
    check_timm_config(folder, field, len(stored_shapes(folder / WEIGHTS)))
    try:
        pretrained, _, arguments = load_model_config_from_path(folder)
        count = int(arguments.get("num_classes") or pretrained.get("num_classes", 1000))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{field}: {str(folder / CONFIG)!r} is no config of a timm model: {error!r}") from None
    return read_classes(folder, count, field)


def _student_classes(name: str, field: str) -> ClassList:
    known = read_architecture(name)
    assert known is not None, "its kind says that it is a student"
    return known.classes


_LOADERS: dict[Kind, Callable[[str, str], Evaluated]] = {
    "shipped": _shipped,
    "timm": _timm,
    "student": lambda name, field: load_student(name),
}
_CLASSES: dict[Kind, Callable[[str, str], ClassList]] = {
    "shipped": lambda name, field: ClassList(CLASS_NAMES),
    "timm": _timm_classes,
    "student": _student_classes,
}
