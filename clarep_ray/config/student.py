"""A student and its training: network, optimiser, schedule, augmentation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from clarep_ray.config.checks import require
from clarep_ray.dotted import check_types

AugmentRecipe = Literal["none", "crop_flip", "resized_flip", "supcon", "jitter", "timm"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]


@dataclass(frozen=True, kw_only=True)
class StudentConfig:
    """The network that is trained."""

    name: str = "small_cnn"
    """small_cnn, resnet18_cifar, or any timm model [paper: ResNet-18, ResNet-50, Swin-Tiny, FAN-Tiny]."""
    image_size: int = 16
    """Side of its input [pixels]."""
    resize: int | None = None
    """Shorter side of a test image before its centre is cut out [pixels]; None: image_size, so that nothing is."""
    interpolation: Interpolation = "bicubic"
    """Of that resize. It is stored with the student, and an evaluation reads test images by it."""
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    """Mean of the pixels in [0, 1], taken off inside the network."""
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    """Standard deviation of the pixels in [0, 1]."""
    drop_path: float = 0.0
    """Stochastic depth of a transformer [0..1]."""

    def __post_init__(self) -> None:
        check_types(self)
        require(self.image_size >= 8, "student.image_size", self.image_size, "8 or more")
        valid = f"None, or student.image_size ({self.image_size}) or more"
        require(self.resize is None or self.resize >= self.image_size, "student.resize", self.resize, valid)
        for name in ("mean", "std"):
            require(len(getattr(self, name)) == 3, f"student.{name}", getattr(self, name), "three numbers")
        require(min(self.std) > 0, "student.std", self.std, "three numbers above 0")
        require(0 <= self.drop_path < 1, "student.drop_path", self.drop_path, "0 up to, not including, 1")


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The optimiser."""

    name: Literal["sgd", "adamw"] = "adamw"
    """SGD with momentum, or AdamW."""
    learning_rate: float = 3e-3
    """Peak rate at the configured global batch; nothing is scaled by the number of workers."""
    momentum: float = 0.9
    """sgd: momentum [paper: lost; 0.9 is usual]."""
    nesterov: bool = False
    """sgd: Nesterov's form."""
    weight_decay: float = 0.01
    """On every parameter."""
    clip_norm: float | None = None
    """Largest norm of a step's gradient; None clips nothing."""

    def __post_init__(self) -> None:
        check_types(self)
        require(self.learning_rate > 0, "optimizer.learning_rate", self.learning_rate, "more than 0")
        require(0 <= self.momentum < 1, "optimizer.momentum", self.momentum, "0 up to, not including, 1")
        require(self.weight_decay >= 0, "optimizer.weight_decay", self.weight_decay, "0 or more")
        require(self.clip_norm is None or self.clip_norm > 0, "optimizer.clip_norm", self.clip_norm, "None or above 0")


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """How long, and the learning rate on the way."""

    epochs: int = 15
    """Passes over the training images; of a two-stage method, of its first stage."""
    batch_size: int = 128
    """Global batch, split over the workers; an epoch leaves out what does not fill one [images]."""
    decay: Literal["step", "cosine", "constant"] = "cosine"
    """After the warm-up: by steps, half a cosine down to zero, or not at all."""
    milestones: tuple[int, ...] = ()
    """step: epochs before which the rate is multiplied by `factor`."""
    factor: float = 0.1
    """step: what the rate is multiplied by."""
    warmup_epochs: int = 0
    """Linear warm-up from zero [epochs; paper Sec. K.8: 5 for transformers]."""

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("epochs", "batch_size"):
            require(getattr(self, name) >= 1, f"schedule.{name}", getattr(self, name), "1 or more")
        require(self.warmup_epochs >= 0, "schedule.warmup_epochs", self.warmup_epochs, "0 or more")
        require(0 < self.factor <= 1, "schedule.factor", self.factor, "more than 0, at most 1")
        known = self.decay == "step" or not self.milestones
        require(known, "schedule.milestones", self.milestones, "nothing, where schedule.decay is not step")


@dataclass(frozen=True, kw_only=True)
class SecondStageConfig:
    """The second stage of supcon (a linear head on frozen features) and repfusion (fine-tuning): cross-entropy."""

    epochs: int = 10
    """Passes over the training images [SupCon: 100; RepFusion: 200]."""
    learning_rate: float = 0.1
    """Peak rate [SupCon: 5]."""
    weight_decay: float = 0.0
    """[SupCon: 0]."""
    milestones: tuple[int, ...] = ()
    """Epochs of this stage before which the rate is multiplied by `factor` [SupCon: 60, 75, 90]."""
    factor: float = 0.2
    """[SupCon: 0.2]."""
    recipe: AugmentRecipe | None = None
    """Augmentation of this stage [SupCon: resized_flip]; None: that of the first."""

    def __post_init__(self) -> None:
        check_types(self)
        require(self.epochs >= 1, "second_stage.epochs", self.epochs, "1 or more")
        require(self.learning_rate > 0, "second_stage.learning_rate", self.learning_rate, "more than 0")


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """What is done to pictures, the same to images and Canonical Samples; stored features stay as they are."""

    recipe: AugmentRecipe = "none"
    """none; crop_flip [paper App. J: CIFAR]; supcon [App. J: ImageNet]; jitter [Sec. K.2]; timm [Sec. K.8].

    resized_flip is supcon without its colours. All but the first two take their crops from the whole image.
    """
    source_size: int = 16
    """none, crop_flip: side to which images are resized and centre-cropped before [pixels]."""
    canonical: bool = True
    """Augment Canonical Samples too [paper: not said]."""
    mixup: float = 0.0
    """Alpha of Mixup on the images; 0 is off [timm: 0.8]."""
    cutmix: float = 0.0
    """Alpha of CutMix on the images; 0 is off [timm: 1.0]."""

    def __post_init__(self) -> None:
        check_types(self)
        require(self.source_size >= 8, "augment.source_size", self.source_size, "8 or more")
        for name in ("mixup", "cutmix"):
            require(getattr(self, name) >= 0, f"augment.{name}", getattr(self, name), "0 or more")

    @property
    def mixes(self) -> bool:
        """Whether images are mixed with each other."""
        return self.mixup > 0 or self.cutmix > 0
