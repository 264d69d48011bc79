"""Everything a robustness evaluation depends on: classifier, benchmarks, attacks, trust checks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from clarep_ray.config.checks import require, require_seed
from clarep_ray.config.extract import DigitsConfig, DigitsSplit, EngineConfig
from clarep_ray.config.student import Interpolation
from clarep_ray.config.tracking import TrackingConfig
from clarep_ray.dotted import EXECUTION, check_types

AttackName = Literal["pgd", "cw", "apgd_dlr", "apgd_ce", "apgd_t", "fab_t", "square", "ensemble4", "autoattack"]
Implementation = Literal["corrected", "torchattacks"]
BenchmarkName = Literal[
    "spurious_digits",
    "image_folder",
    "cifar10",
    "cifar10_c",
    "imagenet",
    "imagenet_c",
    "imagenet_a",
    "imagenet_a_full1000",
    "imagenet_real",
    "backgrounds",
]
TORCHATTACKS_NAMES: tuple[str, ...] = ("pgd", "cw", "apgd_dlr", "apgd_ce", "square", "ensemble4")
"""Attacks that the paper took from torchattacks, or that are made of such."""


@dataclass(frozen=True, kw_only=True)
class PgdConfig:
    """Projected gradient descent in the L-inf ball (Madry et al. 2018)."""

    num_steps: int = 5
    """Gradient steps [paper Tables 5-7: 5]."""
    step_255: float | None = None
    """Step size in units of 1/255; give this or step_relative [paper: "0.5", unit lost]."""
    step_relative: float | None = 0.5
    """Step size as a share of eps; give this or step_255 [paper: "0.5", unit lost]."""
    num_restarts: int = 1
    """Random starts; a sample that has fallen starts no more [paper: 1]."""

    def __post_init__(self) -> None:
        check_types(self)
        require(self.num_steps >= 1, "attacks.pgd.num_steps", self.num_steps, "1 or more")
        require(self.num_restarts >= 1, "attacks.pgd.num_restarts", self.num_restarts, "1 or more")
        require(
            (self.step_255 is None) != (self.step_relative is None),
            "attacks.pgd.step_255",
            self.step_255,
            "a number where step_relative is None, else None",
        )
        for name in ("step_255", "step_relative"):
            value = getattr(self, name)
            require(value is None or value > 0, f"attacks.pgd.{name}", value, "None, or more than 0")

    def step(self, eps: float) -> float:
        """Return the step size on pixels in [0, 1] for an L-inf budget `eps` on the same scale."""
        return self.step_255 / 255 if self.step_255 is not None else (self.step_relative or 0.0) * eps


@dataclass(frozen=True, kw_only=True)
class CwConfig:
    """Carlini and Wagner's L2 attack (2017) with a fixed constant c, as in Tables 5-7."""

    num_steps: int = 5
    """Adam steps [paper Tables 5-7: 5; ImageNet100: 10]."""
    c: float = 0.1
    """Weight of the margin beside the squared L2 distance [paper Tables 5-7: 0.2 on CIFAR-10, else 0.1]."""
    kappa: float = 0.0
    """Confidence: the margin in logits from which a sample counts as fallen [paper Tables 5-7: 0]."""
    learning_rate: float = 0.01
    """Of Adam, in the space of the change of variables [torchattacks: 0.01; paper: not given]."""

    def __post_init__(self) -> None:
        check_types(self)
        require(self.num_steps >= 1, "attacks.cw.num_steps", self.num_steps, "1 or more")
        require(self.c > 0, "attacks.cw.c", self.c, "more than 0")
        require(self.kappa >= 0, "attacks.cw.kappa", self.kappa, "0 or more")
        require(self.learning_rate > 0, "attacks.cw.learning_rate", self.learning_rate, "more than 0")


@dataclass(frozen=True, kw_only=True)
class ApgdConfig:
    """Auto-PGD (Croce and Hein 2020) in the L-inf ball, of apgd_ce, apgd_dlr and apgd_t."""

    num_steps: int = 5
    """Iterations [paper Tables 5-7: 5]."""
    rho: float = 0.75
    """Share of increasing steps below which the step size is halved [paper Tables 5-7: 0.75]."""
    num_eot: int = 1
    """Gradients averaged per step, for randomised models [paper Tables 5-7: 1]."""
    num_restarts: int = 1
    """Random starts [paper: 1]."""
    num_targets: int = 9
    """apgd_t and fab_t: target classes, the likeliest wrong ones [Croce and Hein: 9]."""

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("num_steps", "num_eot", "num_restarts", "num_targets"):
            require(getattr(self, name) >= 1, f"attacks.apgd.{name}", getattr(self, name), "1 or more")
        require(0 < self.rho < 1, "attacks.apgd.rho", self.rho, "between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class SquareConfig:
    """Square attack (Andriushchenko et al. 2020) in the L-inf ball: black box, random search."""

    num_queries: int = 1000
    """Forward passes of a sample [paper Sec. K.3: 1000]."""
    p_init: float = 0.8
    """Share of the picture that the first squares cover [AutoAttack: 0.8; paper: not given]."""
    num_samples: int | None = None
    """As attacks.num_samples, for square alone; the smaller counts [paper Sec. K.3: 2000]."""

    def __post_init__(self) -> None:
        check_types(self)
        require(self.num_queries >= 2, "attacks.square.num_queries", self.num_queries, "2 or more")
        _require_count("attacks.square.num_samples", self.num_samples)
        require(0 < self.p_init <= 1, "attacks.square.p_init", self.p_init, "more than 0, at most 1")


@dataclass(frozen=True, kw_only=True)
class AttacksConfig:
    """Which attacks are run, and with which budgets."""

    names: tuple[AttackName, ...] = ("pgd", "cw", "apgd_dlr", "apgd_ce")
    """Attacks; ensemble4 is the per-sample worst of these four, autoattack the standard one of Croce and Hein."""
    implementation: Implementation = "corrected"
    """corrected is ours; torchattacks is the library as the paper used it, with its errors."""
    eps_255: float = 2.0
    """L-inf budget in units of 1/255, of every attack but cw [paper: 2 CIFAR-10, 0.33 ImageNet, 0.5 ImageNet100]."""
    pgd: PgdConfig = field(default_factory=PgdConfig)
    cw: CwConfig = field(default_factory=CwConfig)
    apgd: ApgdConfig = field(default_factory=ApgdConfig)
    square: SquareConfig = field(default_factory=SquareConfig)
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the attacks' random draws; tables give mean and standard deviation over them [paper App. J: 3]."""
    benchmarks: tuple[BenchmarkName, ...] = ()
    """Benchmarks that are attacked, every slice of them; empty attacks the first of benchmarks.names."""
    num_samples: int | None = None
    """Attack only so many pictures of each slice, drawn with `seed`; None attacks all [paper Sec. K.3: 2000]."""

    def __post_init__(self) -> None:
        check_types(self)
        require(self.eps_255 > 0, "attacks.eps_255", self.eps_255, "more than 0")
        require(bool(self.seeds), "attacks.seeds", self.seeds, "one seed or more")
        _require_count("attacks.num_samples", self.num_samples)
        _require_once("attacks.names", self.names)
        _require_once("attacks.seeds", self.seeds)
        if self.implementation == "torchattacks":
            for name in self.names:
                require(name in TORCHATTACKS_NAMES, "attacks.names", name, ", ".join(TORCHATTACKS_NAMES))

    def count_of(self, name: str) -> int | None:
        """Return how many pictures of a slice an attack is run on; None for all."""
        limits = (self.num_samples, self.square.num_samples if name == "square" else None)
        return min((limit for limit in limits if limit is not None), default=None)


@dataclass(frozen=True, kw_only=True)
class TrustConfig:
    """The gradient-masking suite: is the robust accuracy what it seems?"""

    enabled: bool = True
    """Run the suite before the attacks."""
    num_samples: int = 64
    """Pictures of the first benchmark that are looked at."""
    eps_255: float = 2.0
    """L-inf budget of the suite, in units of 1/255."""
    num_steps: int = 10
    """PGD steps of its ordinary attack; the long one takes five times as many."""
    num_restarts: int = 4
    """Random starts that are compared with a single one."""
    num_queries: int = 300
    """Queries of the black-box attack."""
    tolerance: float = 0.03
    """Change of robust accuracy that is not held against a model [0..1]."""
    refuse: bool = field(default=False, metadata=EXECUTION)
    """Stop where a check fails whose failure makes robust accuracies meaningless, instead of a warning."""

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("num_samples", "num_steps", "num_restarts"):
            require(getattr(self, name) >= 1, f"trust.{name}", getattr(self, name), "1 or more")
        require(self.num_queries >= 2, "trust.num_queries", self.num_queries, "2 or more")
        require(self.eps_255 > 0, "trust.eps_255", self.eps_255, "more than 0")
        require(0 <= self.tolerance < 1, "trust.tolerance", self.tolerance, "0 to 1")


@dataclass(frozen=True, kw_only=True)
class BenchmarksConfig:
    """The benchmarks and where they lie; a path is needed only for a benchmark that is named."""

    names: tuple[BenchmarkName, ...] = ("spurious_digits",)
    """Benchmarks. imagenet_a scores the 200 classes alone, as published; imagenet_a_full1000 all of them."""
    image_folder: str | None = field(default=None, metadata=EXECUTION)
    """Folder with a folder per class: names, WordNet ids or label numbers.

    The classifier must know these classes, in whatever order; where it knows more, the folders' logits alone compete.
    """
    cifar10: str | None = field(default=None, metadata=EXECUTION)
    """Folder cifar-10-batches-py, or the one it lies in."""
    cifar10_c: str | None = field(default=None, metadata=EXECUTION)
    """Folder CIFAR-10-C of CORRUPTION.npy and labels.npy."""
    imagenet: str | None = field(default=None, metadata=EXECUTION)
    """Validation folder of ImageNet with a folder per wnid; imagenet_real reads its pictures here too."""
    imagenet_c: str | None = field(default=None, metadata=EXECUTION)
    """Folder of CORRUPTION/SEVERITY/WNID/*.JPEG, below blur, digital, noise and weather or not."""
    imagenet_a: str | None = field(default=None, metadata=EXECUTION)
    """Folder imagenet-a of WNID/*.jpg."""
    imagenet_real: str | None = field(default=None, metadata=EXECUTION)
    """File real.json."""
    backgrounds: str | None = field(default=None, metadata=EXECUTION)
    """Folder bg_challenge of VARIANT/val/CLASS/*.JPEG."""
    digits: DigitsConfig = field(default_factory=DigitsConfig)
    """spurious_digits: size, correlation and seed; its split is each of digits_splits in turn."""
    digits_splits: tuple[DigitsSplit, ...] = (
        "test",
        "same_background",
        "random_background",
        "foreground_only",
        "conflict",
    )
    """spurious_digits: the variants, each a slice."""
    image_size: int | None = None
    """Side of the images [pixels]; None: the classifier's own (config.json of a timm model or of a student)."""
    resize: int | None = None
    """Shorter side before the centre crop of images not stored at their final size [pixels]; None: its own."""
    interpolation: Interpolation | None = None
    """Of that resize; None: the classifier's own."""
    partial: bool = False
    """Accept fewer pictures than a benchmark has; the figures are then those of a subset."""

    def __post_init__(self) -> None:
        check_types(self)
        require(bool(self.names), "benchmarks.names", self.names, "one benchmark or more")
        _require_once("benchmarks.names", self.names)
        _require_once("benchmarks.digits_splits", self.digits_splits)
        least = 8 if self.image_size is None else self.image_size
        require(least >= 8, "benchmarks.image_size", self.image_size, "None, or 8 or more")
        fits = self.resize is None or self.resize >= least
        require(fits, "benchmarks.resize", self.resize, f"None, or {least} (benchmarks.image_size) or more")
        for name in self.names:
            for path in {"spurious_digits": (), "imagenet_real": ("imagenet_real", "imagenet")}.get(
                name, (name.removesuffix("_full1000"),)
            ):
                require(
                    bool(getattr(self, path)), f"benchmarks.{path}", getattr(self, path), f"a path ({name} is named)"
                )


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig:
    """The classifier that is evaluated, or two of them; the normalisation is part of each."""

    weights: str = field(default="digits", metadata=EXECUTION)
    """digits (shipped), or a folder of a timm model or of a student, config.json and model.safetensors [by content]."""
    compared: str | None = field(default=None, metadata=EXECUTION)
    """A second classifier for a paired comparison, its labels in an order of its own [by content]."""

    def __post_init__(self) -> None:
        check_types(self)
        require(bool(self.weights), "classifier.weights", self.weights, "digits, or a folder")
        require(self.compared != "", "classifier.compared", self.compared, "None, digits, or a folder")

    @property
    def all_weights(self) -> tuple[str, ...]:
        """The classifier's weights, and those of the one it is compared with."""
        return (self.weights,) if self.compared is None else (self.weights, self.compared)


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Everything a robustness evaluation depends on."""

    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)
    benchmarks: BenchmarksConfig = field(default_factory=BenchmarksConfig)
    attacks: AttacksConfig = field(default_factory=AttacksConfig)
    trust: TrustConfig = field(default_factory=TrustConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    output: str = field(default="outputs/evaluate", metadata=EXECUTION)
    """Output folder. The same folder and the same fingerprint continue an interrupted run."""
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    seed: int = 0
    """Seed of which pictures are drawn where not all are attacked."""

    def __post_init__(self) -> None:
        check_types(self)
        require_seed(self.seed)
        require(self.engine.micro_batch is not None, "engine.micro_batch", None, "1 or more (extractions choose it)")
        require(bool(self.output), "output", self.output, "a folder")
        for name in self.attacks.benchmarks:
            valid = f"one of benchmarks.names ({', '.join(self.benchmarks.names)})"
            require(name in self.benchmarks.names, "attacks.benchmarks", name, valid)

    @property
    def attacked(self) -> tuple[BenchmarkName, ...]:
        """The benchmarks that are attacked."""
        return (self.attacks.benchmarks or self.benchmarks.names[:1]) if self.attacks.names else ()


def _require_count(name: str, count: int | None) -> None:
    require(count is None or count >= 1, name, count, "None, or 1 and more")


def _require_once(name: str, values: tuple[object, ...]) -> None:
    require(len(set(values)) == len(values), name, values, "each of them once")
