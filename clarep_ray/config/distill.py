"""Training of students: CaDistill and what it is compared with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from clarep_ray.config.checks import require, require_seed
from clarep_ray.config.extract import DataConfig, DigitsConfig, FeatureConfig, ModelConfig
from clarep_ray.config.health import HealthConfig
from clarep_ray.config.student import AugmentConfig, OptimizerConfig, ScheduleConfig, SecondStageConfig, StudentConfig
from clarep_ray.config.tracking import TrackingConfig
from clarep_ray.dotted import EXECUTION, check_types

DistillMethod = Literal[
    "vanilla",
    "cadistill",
    "cadistill_ce",
    "dmdistill",
    "cfgdistill",
    "supcon",
    "repfusion",
    "diffaug",
    "class_token",
    "fitnet",
    "at",
    "rkd",
    "kd",
    "dkd",
]
METHODS_WITH_CLAREPS = ("cadistill", "cadistill_ce", "cfgdistill")
PARTS = (
    *("ce", "align", "separate", "cka", "canonical_ce", "denoised_ce"),
    *("kd", "dkd", "fitnet", "at", "rkd", "supcon", "policy", "teacher_head"),
)
"""Terms a loss can consist of; each has its weight in LossConfig."""
TeacherSource = Literal["features", "network", "diffusion"]


@dataclass(frozen=True, kw_only=True)
class ClarepsConfig:
    """The CLAReps: a finished extraction of jobs/extract.py."""

    path: str = field(default="outputs/extract", metadata=EXECUTION)
    """Its folder, fingerprinted by content."""
    pictures: str = "canonical"
    """Which of its pictures and features: canonical, or an extra of it, such as reconstruction or random@1."""
    pairing: Literal["random", "same_image", "nearest"] = "random"
    """The CLARep of an image: any of its class [paper Sec. 4], its own, or the nearest of its class."""
    fraction: float = 1.0
    """Share of every class's CLAReps that is used, at least one (Sec. K.7.1)."""
    seed: int = 0
    """Seed of `fraction`; a larger share holds the smaller ones."""

    def __post_init__(self) -> None:
        check_types(self)
        require(0 < self.fraction <= 1, "clareps.fraction", self.fraction, "more than 0, at most 1")


@dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    """Who teaches in the methods without CLAReps; not used by the others."""

    source: TeacherSource = "features"
    """Stored features of every image, a classifier on disk, or a diffusion model that is read during training."""
    features: str | None = field(default=None, metadata=EXECUTION)
    """features: folder of an extraction with a feature of every training image, fingerprinted by content."""
    pictures: str = "canonical"
    """features: whose; canonical in an output of features alone, original in one of CLAReps."""
    network: str | None = field(default=None, metadata=EXECUTION)
    """network: folder of a timm model or of a student, fingerprinted by content.

    kd and dkd read the logits of the data's classes, found by name.
    """
    diffusion: ModelConfig = field(default_factory=ModelConfig)
    """diffusion: the model, fingerprinted by content."""
    reading: FeatureConfig = field(default_factory=FeatureConfig)
    """diffusion: layer and timestep of its features (Sec. 4; repfusion chooses the timestep)."""
    num_times: int = 20
    """repfusion, diffaug: how many timesteps there are to choose from [RepFusion, DiffAug: 1000]."""

    def __post_init__(self) -> None:
        check_types(self)
        require(self.num_times >= 2, "teacher.num_times", self.num_times, "2 or more")


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights and settings of the terms; a term that a method does not have ignores its weight (Eq. 6)."""

    weight_ce: float = 1.0
    """Cross-entropy on the images; 0 leaves a distillation term alone."""
    weight_align: float = 0.1
    """L_align (Eq. 3) [paper: lost]."""
    weight_separate: float = 0.1
    """L_sep (Eq. 4) [paper: lost]."""
    weight_cka: float = 0.1
    """L_cka (Eq. 5), and of one-to-one features in dmdistill and class_token [paper: lost]."""
    weight_canonical_ce: float = 1.0
    """cadistill_ce: cross-entropy on the Canonical Samples (Sec. K.7.5) [paper: lost]."""
    weight_denoised_ce: float = 1.0
    """diffaug: cross-entropy on the denoised images."""
    weight_kd: float = 0.9
    """kd: of softened logits [Tian et al.: 0.9, with a weight_ce of 0.1]."""
    weight_dkd: float = 1.0
    """dkd: both parts together."""
    weight_fitnet: float = 1.0
    """fitnet, repfusion: squared difference of features."""
    weight_at: float = 1000.0
    """at: squared difference of attention maps [Tian et al.: 1000]."""
    weight_rkd: float = 1.0
    """rkd: distances (25) and angles (50) together [Park et al.]."""
    weight_supcon: float = 1.0
    """supcon: the contrastive term of the first stage, which the official code scales by temperature / 0.07."""
    weight_policy: float = 1.0
    """repfusion: REINFORCE on the choice of a timestep."""
    weight_teacher_head: float = 1.0
    """repfusion: cross-entropy of the teacher's head, which the policy is rewarded by."""
    temperature: float = 0.1
    """Of the contrastive terms [paper: as SupCon, which has 0.1]."""
    kd_temperature: float = 4.0
    """kd, dkd: of the logits [Tian et al., Zhao et al.: 4]."""
    dkd_target: float = 1.0
    """dkd: weight of target against rest, alpha [Zhao et al.: 1]."""
    dkd_others: float = 8.0
    """dkd: weight of the classes among the rest, beta [Zhao et al.: 8 on CIFAR-100]."""
    label_smoothing: float = 0.0
    """Of the cross-entropy on images [0..1]."""
    cka: Literal["biased", "debiased"] = "biased"
    """Estimator of CKA; debiased is the choice where the global batch is smaller than the features are wide."""

    def __post_init__(self) -> None:
        check_types(self)
        for part in PARTS:
            value = getattr(self, f"weight_{part}")
            require(value >= 0, f"loss.weight_{part}", value, "0 or more")
        for name in ("temperature", "kd_temperature"):
            value = getattr(self, name)
            require(0.001 <= value <= 1000, f"loss.{name}", value, "0.001 to 1000")
        require(0 <= self.label_smoothing < 1, "loss.label_smoothing", self.label_smoothing, "0 up to 1")


def _train_digits() -> DataConfig:
    return DataConfig(digits=DigitsConfig(split="train", count=3000, seed=1))


def _val_digits() -> DataConfig:
    return DataConfig(digits=DigitsConfig(split="test", count=500, seed=2))


@dataclass(frozen=True, kw_only=True)
class DistillConfig:
    """Training of one student by one method (Ray Train)."""

    method: DistillMethod = "cadistill"
    """CaDistill (Sec. 4) or a baseline [clarep_ray/cadistill/methods.py]."""
    data: DataConfig = field(default_factory=_train_digits)
    """Training images."""
    val: DataConfig = field(default_factory=_val_digits)
    """Images that accuracy is measured on after each epoch; the best student is chosen on them."""
    clareps: ClarepsConfig = field(default_factory=ClarepsConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    health: HealthConfig = field(default_factory=HealthConfig)
    student: StudentConfig = field(default_factory=StudentConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    second_stage: SecondStageConfig = field(default_factory=SecondStageConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    amp: bool = False
    """Forward pass in bfloat16; weights, losses and the optimiser stay in float32."""
    channels_last: bool = False
    """Memory layout of convolutions: faster on GPUs, other rounding."""
    compile: bool = False
    """torch.compile of the student: faster after minutes of compilation, other rounding."""
    seed: int = 0
    """Seed of initial weights, order, partners, augmentation and dropout."""
    checkpoint_every: int = field(default=200, metadata=EXECUTION)
    """Steps between checkpoints; one more after each epoch."""
    loader_threads: int = field(default=1, metadata=EXECUTION)
    """Threads per worker that prepare coming batches; the batches are the same for any number."""
    num_workers: int = field(default=1, metadata=EXECUTION)
    """Ray Train workers; the global batch is the same for any number, batch normalisation is per worker."""
    use_gpu: bool = field(default=False, metadata=EXECUTION)
    """One GPU per worker."""
    output: str = field(default="outputs/distill", metadata=EXECUTION)
    """Output folder; the same folder and fingerprint continue an interrupted training."""
    take_over: bool = field(default=False, metadata=EXECUTION)
    """Take the output from a process that still works on it; that one ends with 8 within ten seconds."""
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def __post_init__(self) -> None:
        check_types(self)
        require_seed(self.seed)
        for name in ("checkpoint_every", "loader_threads", "num_workers"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        # Every worker needs as many images as the others; mixing pairs each with one of the same worker.
        share = self.num_workers * (2 if self.augment.mixes else 1)
        valid = f"a multiple of {share} (num_workers, twice where images are mixed)"
        size = self.schedule.batch_size
        require(size % share == 0, "schedule.batch_size", size, valid)
        if self.method in METHODS_WITH_CLAREPS:
            path, job = self.clareps.path, "uv run jobs/extract.py"
            require(bool(path), "clareps.path", path, f"the output folder of a finished {job}")
        self._check_sizes()
        self._check_teacher()

    def _check_sizes(self) -> None:
        for name in ("data", "val"):
            data: DataConfig = getattr(self, name)
            side, wanted = data.digits.image_size, self.augment.source_size
            fits = data.source != "spurious_digits" or side == wanted
            require(fits, f"{name}.digits.image_size", side, f"augment.source_size ({wanted})")
        known = self.method != "supcon" or not self.augment.mixes
        require(known, "augment.mixup", self.augment.mixup, "0, as augment.cutmix, where method is supcon")

    def _check_teacher(self) -> None:
        valid = TEACHERS.get(self.method, get_args(TeacherSource))
        source = self.teacher.source
        require(source in valid, "teacher.source", source, f"{', '.join(valid)} (method is {self.method})")
        # Its batches are split by timestep, and each of their sizes would be compiled anew.
        require(not self.teacher.diffusion.compile, "teacher.diffusion.compile", True, "False")
        if self.method in TEACHERS and source == "features":
            folder = self.teacher.features
            require(bool(folder), "teacher.features", folder, "folder of an extraction of every training image")


TEACHERS: dict[str, tuple[TeacherSource, ...]] = {
    "dmdistill": ("features", "diffusion"),
    "fitnet": ("features", "network", "diffusion"),
    "rkd": ("features", "network", "diffusion"),
    "at": ("network", "diffusion"),
    "class_token": ("network",),
    "kd": ("network",),
    "dkd": ("network",),
    "repfusion": ("diffusion",),
    "diffaug": ("diffusion",),
}
"""Which teachers a method can have; methods that are not named have none."""
