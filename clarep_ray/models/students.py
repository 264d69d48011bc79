"""Students: any timm classifier, FAN-Tiny, a ResNet for 32-pixel pictures, a small network for the embedded digits.

The feature of a student is what enters its classifier: the last map, averaged over space (timm's `pre_logits`).
Pixels come in as [0, 1]; mean and standard deviation are applied inside, so that attacks and corruptions need to
know nothing about them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor, nn

from clarep_ray import dotted
from clarep_ray.config import Interpolation
from clarep_ray.data.class_list import ClassList
from clarep_ray.data.durable import new_folder
from clarep_ray.data.inside import write_inside
from clarep_ray.data.plain_json import plain_json
from clarep_ray.data.records import shown
from clarep_ray.data.untrusted import read_json_object
from clarep_ray.data.views import MAX_SIDE, View
from clarep_ray.models.weight_files import check_fits, load_tensors

CONFIG, WEIGHTS = "config.json", "model.safetensors"
FORMAT = "clarep_ray student 1"


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """All that is needed to build a student and to test it: its name here or in timm, classes, how test images are
    resized and cut, statistics of pixels.
    """

    name: str
    class_names: tuple[str, ...]
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    drop_path: float = 0.0
    named: bool = True
    """False where nothing named the classes of its training: `class_names` are numbers then."""
    resize: int | None = None
    """Shorter side before the centre crop; None, as in students saved before there was one: the input side."""
    interpolation: Interpolation = "bicubic"

    @property
    def classes(self) -> ClassList:
        """What its labels stand for."""
        return ClassList(self.class_names, self.named)

    @property
    def view(self) -> View:
        """How test images are made: by an evaluation as by the validation of its training."""
        resize = self.image_size if self.resize is None else self.resize
        return View(image_size=self.image_size, resize=resize, interpolation=self.interpolation)


class SmallCnn(nn.Module):
    """Three convolutions (16, 32, 64) without normalisation layers, for 16-pixel digits."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        widths = (3, 16, 32, 64)
        blocks: list[nn.Module] = []
        for i, stride in enumerate((1, 2, 2)):
            blocks += [nn.Conv2d(widths[i], widths[i + 1], 3, stride, padding=1), nn.ReLU()]
        self.body = nn.Sequential(*blocks)
        self.head = nn.Linear(widths[-1], num_classes)
        self.num_features = widths[-1]

    def forward_features(self, pixels: Tensor) -> Tensor:
        return self.body(pixels)

    def forward_head(self, maps: Tensor, pre_logits: bool = False) -> Tensor:
        features = maps.mean((2, 3))
        return features if pre_logits else self.head(features)

    def get_classifier(self) -> nn.Module:
        return self.head


def _small_cnn(architecture: Architecture) -> nn.Module:
    return SmallCnn(len(architecture.class_names))


def _resnet18_cifar(architecture: Architecture) -> nn.Module:
    """Return timm's ResNet-18 with a 3x3 stem of stride 1 and no max-pooling, as is usual for CIFAR-10."""
    network: Any = _create("resnet18", num_classes=len(architecture.class_names))
    network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    network.maxpool = nn.Identity()
    return network


def _fan_tiny(architecture: Architecture) -> nn.Module:
    from clarep_ray.models.fan import Fan

    return Fan(len(architecture.class_names), architecture.image_size, drop=architecture.drop_path)


OWN: dict[str, Callable[[Architecture], nn.Module]] = {
    "small_cnn": _small_cnn,
    "resnet18_cifar": _resnet18_cifar,
    "fan_tiny": _fan_tiny,
}


class Student(nn.Module):
    """A classifier that takes pixels in [0, 1] and shows the features its logits are made of."""

    mean: Tensor
    std: Tensor

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.network: Any = _make_network(architecture)
        self.num_features = int(self.network.num_features)
        self.register_buffer("mean", torch.tensor(architecture.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(architecture.std).view(1, 3, 1, 1), persistent=False)

    @property
    def view(self) -> View:
        """How test images are made for it."""
        return self.architecture.view

    def forward(self, pixels: Float[Tensor, " b 3 h w"]) -> Float[Tensor, " b c"]:
        """Return logits of pixels in [0, 1]."""
        return self.classify(self.pool(self.maps(pixels)))

    def maps(self, pixels: Float[Tensor, " b 3 h w"]) -> Tensor:
        """Return the last feature map or the last tokens, as the network lays them out."""
        return self.network.forward_features((pixels - self.mean) / self.std)

    def pool(self, maps: Tensor) -> Float[Tensor, " b d"]:
        """Return the features of the last map: what enters the classifier."""
        return self.network.forward_head(maps, pre_logits=True)

    def classify(self, features: Float[Tensor, " b d"]) -> Float[Tensor, " b c"]:
        """Return the logits of features."""
        return self.network.get_classifier()(features)

    def spatial(self, maps: Tensor) -> Float[Tensor, " b c h w"]:
        """Return a last map as channels first: Swin has them last, ViT has a row of tokens.

        Raises ValueError where tokens form no square.
        """
        return channels_first(maps, self.num_features, int(getattr(self.network, "num_prefix_tokens", 0)))


def channels_first(maps: Tensor, channels: int, prefix_tokens: int = 0) -> Tensor:
    """Return maps (b, c, h, w) of a network's own layout: (b, c, h, w), (b, h, w, c) or tokens (b, n, c)."""
    if maps.ndim == 3:
        tokens = maps[:, prefix_tokens:]
        side = round(tokens.shape[1] ** 0.5)
        if side * side != tokens.shape[1]:
            raise ValueError(f"tokens: {tokens.shape[1]} of them form no square map")
        return tokens.transpose(1, 2).unflatten(2, (side, side))
    return maps.permute(0, 3, 1, 2) if maps.shape[1] != channels and maps.shape[3] == channels else maps


def _make_network(architecture: Architecture) -> nn.Module:
    if architecture.name in OWN:
        return OWN[architecture.name](architecture)
    check_name(architecture.name)
    more: dict[str, Any] = {"drop_path_rate": architecture.drop_path} if architecture.drop_path else {}
    sized = {"img_size": architecture.image_size}
    try:  # transformers with a fixed grid must be told the side; others refuse the word
        network = _create(architecture.name, num_classes=len(architecture.class_names), **sized, **more)
    except TypeError:
        network = _create(architecture.name, num_classes=len(architecture.class_names), **more)
    return network


def _create(name: str, **options: Any) -> nn.Module:
    from timm import create_model

    return create_model(name, pretrained=False, **options)


def check_name(name: str) -> None:
    """Raise ValueError for a student that neither this module nor timm knows."""
    from timm import is_model, list_models

    if name in OWN or is_model(name):
        return
    close = list_models(f"*{name.partition('_')[0]}*")[:5]
    raise ValueError(f"student.name: {name!r} is unknown; valid: {', '.join(OWN)}, or a timm model, such as {close}")


def make_student(architecture: Architecture, seed: int = 0) -> Student:
    """Return a student with initial weights that follow from the seed; ValueError for an unknown name."""
    check_name(architecture.name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Student(architecture)


def save_student(student: Student, folder: Path) -> None:
    """Write `model.safetensors` and `config.json` into a folder that is on disk whole or not at all."""
    weights = {name: value.detach().cpu().contiguous() for name, value in student.network.state_dict().items()}
    record = {"format": FORMAT, **asdict(student.architecture)}
    folder = folder.absolute()
    with new_folder(folder.parent, folder.name) as work:
        save_file(weights, work / WEIGHTS)
        write_inside(work, CONFIG, plain_json(record))


def read_architecture(folder: str | Path) -> Architecture | None:
    """Return what a folder says of its student; None where it holds something else, ValueError where it is damaged."""
    path = Path(folder) / CONFIG
    record = read_json_object(path) if path.is_file() else {}
    if record.pop("format", None) != FORMAT:
        return None
    for name in (CONFIG, WEIGHTS):
        if (Path(folder) / name).is_symlink():  # what a hub's cache has, of other models
            raise ValueError(f"student: {str(Path(folder) / name)!r} is a link; valid: a folder of jobs/distill.py")
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in record.items()
    }
    try:
        made = Architecture(**values)
        dotted.check_types(made)
        made.classes  # noqa: B018  (raises where names are said to be numbers and are none)
        if not 0 < made.view.resize <= MAX_SIDE:
            raise ValueError(f"resize: {made.resize} is not valid; valid: at most {MAX_SIDE}")
    except (TypeError, ValueError) as error:
        raise ValueError(f"student: {str(path)!r} describes no student: {error}") from None
    if not 0 < made.image_size <= MAX_SIDE or not made.class_names or len(made.mean) != 3 or len(made.std) != 3:
        raise ValueError(f"student: {str(path)!r} has a side, classes or statistics that no student has")
    return made


def load_student(folder: str | Path) -> Student:
    """Return a saved student in eval mode, on the CPU; ValueError where the folder holds none."""
    architecture = read_architecture(folder)
    weights = Path(folder) / WEIGHTS
    if architecture is None or not weights.is_file():
        raise ValueError(
            f"student: {str(folder)!r} holds no student; valid: a folder of jobs/distill.py, such as last/"
        )
    tensors = load_tensors(weights)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    try:
        check_name(architecture.name)
    except ValueError as error:
        raise ValueError(f"student: {str(Path(folder) / CONFIG)!r}: {error}") from None
    check_fits(lambda: _make_network(architecture), shapes, f"student: {str(Path(folder) / CONFIG)!r}")
    student = Student(architecture)
    try:
        student.network.load_state_dict(tensors)
    except RuntimeError as error:  # of names and shapes, one a line
        raise ValueError(f"student: {str(weights)!r} fits not its config.json: {shown(str(error))}") from None
    return student.eval()


def imagenet_statistics() -> tuple[Sequence[float], Sequence[float]]:
    """Return mean and standard deviation of ImageNet's pixels in [0, 1]."""
    from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

    return IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
