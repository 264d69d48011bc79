"""What a calibration tries, and by which rules it chooses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from clarep_ray.config.checks import require, require_seed
from clarep_ray.config.extract import (
    DataConfig,
    DecodingConfig,
    ElbowConfig,
    EngineConfig,
    ExtractConfig,
    FeatureConfig,
    InversionConfig,
    ModelConfig,
    OutputConfig,
    SpectrumConfig,
)
from clarep_ray.config.health import HealthConfig
from clarep_ray.config.tracking import TrackingConfig
from clarep_ray.dotted import EXECUTION, check_types

CalibrationPart = Literal["saturation", "features", "window", "interaction"]
CALIBRATION_PARTS: tuple[CalibrationPart, ...] = get_args(CalibrationPart)


@dataclass(frozen=True, kw_only=True)
class SaturationConfig:
    """Two-stage sampling: without the class from noise down to t_e, with it from there (Sec. 3.2.1, App. H.1)."""

    num_steps: int = 50
    """Steps of the whole sampling grid [paper App. H.1: 50]."""
    images_per_class: int = 5
    """Samples of each class [images; paper App. H.1: 5]."""
    num_classes: int | None = None
    """Use only so many classes, drawn with `seed`; None uses all."""
    num_times: int = 10
    """Candidates for t_e, evenly spread over the grid."""
    times: tuple[float, ...] = ()
    """Candidates for t_e in the model's own time unit, instead of `num_times`."""
    guidance_scale: float = 1.0
    """Classifier-free guidance of the second stage, 1 = off."""
    level: float = 0.95
    """t_e is the first candidate from which on the accuracy has risen by this share of its whole rise [0..1]."""

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("num_steps", "images_per_class"):
            require(getattr(self, name) >= 1, f"saturation.{name}", getattr(self, name), "1 or more")
        require(self.num_times >= 3, "saturation.num_times", self.num_times, "3 or more")
        require(not self.times or len(self.times) >= 3, "saturation.times", self.times, "empty, or 3 times and more")
        require(
            self.num_classes is None or self.num_classes >= 2, "saturation.num_classes", self.num_classes, "2 or more"
        )
        require(0 < self.level < 1, "saturation.level", self.level, "between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class DrawsConfig:
    """Class draws: every NMI is the mean over so many random sets of classes, with its standard deviation."""

    count: int = 5
    """Sets of classes."""
    classes: int = 20
    """Classes of a set, drawn from those of the input [paper Sec. 3.2.1: 20, one set]."""

    def __post_init__(self) -> None:
        check_types(self)
        require(self.count >= 1, "draws.count", self.count, "1 or more")
        require(self.classes >= 2, "draws.classes", self.classes, "2 or more")


@dataclass(frozen=True, kw_only=True)
class FeatureMapConfig:
    """NMI of every feature layer at every timestep, on the original images (App. G.1)."""

    layers: tuple[str, ...] = ()
    """Feature layers; empty takes all of the model's."""
    num_times: int = 8
    """Feature timesteps, evenly spread over the inversion's grid."""
    times: tuple[float, ...] = ()
    """Feature timesteps in the model's own time unit, instead of `num_times`."""

    def __post_init__(self) -> None:
        check_types(self)
        require(self.num_times >= 2, "feature_map.num_times", self.num_times, "2 or more")


@dataclass(frozen=True, kw_only=True)
class WindowConfig:
    """Windows M and fixed k, all from one SVD of each sample at t_e (App. H.2)."""

    windows: tuple[int, ...] = (5, 10, 20, 50)
    """Windows M of the adaptive k."""
    fixed: tuple[int, ...] = (1, 2, 5, 10, 20)
    """Fixed k to compare with."""
    max_class_loss: float = 0.05
    """A window may cost so much of the classifiers' accuracy on the originals [0..1]."""

    def __post_init__(self) -> None:
        check_types(self)
        require(
            bool(self.windows) and min(self.windows) >= 3, "window.windows", self.windows, "one or more, each 3 or more"
        )
        require(all(k >= 1 for k in self.fixed), "window.fixed", self.fixed, "1 and more each")
        widest = max(self.windows)
        require(
            all(k <= widest for k in self.fixed), "window.fixed", self.fixed, f"at most the widest window, {widest}"
        )
        require(0 <= self.max_class_loss <= 1, "window.max_class_loss", self.max_class_loss, "0 to 1")


@dataclass(frozen=True, kw_only=True)
class InteractionConfig:
    """Jacobian layer, t_e and k together: adaptive k and one fixed k in every cell."""

    layers: tuple[str, ...] = ()
    """Jacobian layers; empty takes spectrum.layer alone."""
    times: tuple[float, ...] = ()
    """Projection timesteps; empty takes t_e and those a fifth of the grid below and above."""
    fixed: int = 5
    """The fixed k."""

    def __post_init__(self) -> None:
        check_types(self)
        require(self.fixed >= 1, "interaction.fixed", self.fixed, "1 or more")


@dataclass(frozen=True, kw_only=True)
class CalibrateConfig:
    """Everything a calibration depends on; the groups of an extraction mean what they mean there."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    inversion: InversionConfig = field(default_factory=InversionConfig)
    spectrum: SpectrumConfig = field(default_factory=SpectrumConfig)
    elbow: ElbowConfig = field(default_factory=ElbowConfig)
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    features: FeatureConfig = field(default_factory=FeatureConfig)
    health: HealthConfig = field(default_factory=HealthConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    parts: tuple[CalibrationPart, ...] = CALIBRATION_PARTS
    """What is calibrated: saturation (t_e), features (layer and timestep), window (M), interaction (report only)."""
    classifiers: tuple[str, ...] = ("digits",)
    """Judges of class accuracy: `digits` (shipped) or folders of timm models or of students.

    Their labels become the model's by name; logits of classes that the model does not have do not compete.
    """
    projected_per_class: int | None = None
    """Use at most this many images of each class for window and interaction; None uses all [images]."""
    saturation: SaturationConfig = field(default_factory=SaturationConfig)
    draws: DrawsConfig = field(default_factory=DrawsConfig)
    feature_map: FeatureMapConfig = field(default_factory=FeatureMapConfig)
    window: WindowConfig = field(default_factory=WindowConfig)
    interaction: InteractionConfig = field(default_factory=InteractionConfig)
    output: str = field(default="outputs/calibrate", metadata=EXECUTION)
    """Output folder. The same folder and the same fingerprint continue an interrupted calibration."""
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    seed: int = 0
    """Run seed, also of the class draws."""

    def __post_init__(self) -> None:
        check_types(self)
        require_seed(self.seed)
        require(self.engine.micro_batch is not None, "engine.micro_batch", None, "1 or more (extractions choose it)")
        require(bool(self.parts), "parts", self.parts, f"one or more of {', '.join(CALIBRATION_PARTS)}")
        require(
            self.projected_per_class is None or self.projected_per_class >= 1,
            "projected_per_class",
            self.projected_per_class,
            "None, or 1 and more",
        )
        require(bool(self.output), "output", self.output, "a folder")
        require(
            bool(self.classifiers) or "saturation" not in self.parts,
            "classifiers",
            self.classifiers,
            "one or more where parts has saturation",
        )
        require(
            self.interaction.fixed <= self.spectrum.num_directions,
            "interaction.fixed",
            self.interaction.fixed,
            f"at most spectrum.num_directions ({self.spectrum.num_directions})",
        )

    def extract_config(self) -> ExtractConfig:
        """Return the extraction whose settings are calibrated."""
        return ExtractConfig(
            model=self.model,
            data=self.data,
            inversion=self.inversion,
            spectrum=self.spectrum,
            elbow=self.elbow,
            decoding=self.decoding,
            features=self.features,
            health=self.health,
            engine=self.engine,
            output=OutputConfig(path=self.output),
            tracking=self.tracking,
            seed=self.seed,
        )
