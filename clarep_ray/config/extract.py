"""Everything an extraction depends on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from clarep_ray.config.checks import require, require_seed
from clarep_ray.config.engine import EngineConfig
from clarep_ray.config.gate import GateConfig
from clarep_ray.config.health import HealthConfig
from clarep_ray.config.output import OutputConfig
from clarep_ray.config.projection import ProjectionMode, parse_extra
from clarep_ray.config.tracking import TrackingConfig
from clarep_ray.dotted import EXECUTION, check_types

PROMPT_TEMPLATE = "a photo of {}"
TOLERANCES = {"block_lanczos": 5e-3, "subspace_iteration": 1e-3}
ElbowRule = Literal["kneed", "chord", "fixed"]
Precision = Literal["float32", "bfloat16", "float16"]
PathSolver = Literal["ddim", "heun", "dpmpp_2m"]
Solver = Literal["block_lanczos", "subspace_iteration"]
Source = Literal["spurious_digits", "image_folder", "flat_folder", "webdataset", "parquet", "cifar10", "noise"]
DigitsSplit = Literal["train", "test", "same_background", "random_background", "foreground_only", "conflict"]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The conditional diffusion model."""

    name: str = "digits_dit"
    """Registered model [clarep_ray/models/__init__.py]."""
    weights: str = field(default="rho90", metadata=EXECUTION)
    """Folder of weights, a shipped name (digits_dit: rho90, rho10), or tiny: small and random [by content]."""
    weights_sha256: str | None = field(default=None, metadata=EXECUTION)
    """Refuse other weights than those of this hash: `weights` of a plan (--dry-run), `weights_sha256` of a run.json."""
    allow_download: bool = field(default=False, metadata=EXECUTION)
    """Let model.weights be a Hugging Face Hub id, ORG/NAME, fetched once by the driver; no network otherwise."""
    precision: Precision = "float32"
    """Of the network; latents, eps and the orthogonalisation of singular vectors stay in float32."""
    compile: bool = False
    """torch.compile for inversion and decoding: faster after half a minute of g++ in every actor; other rounding."""
    prompt_template: str = PROMPT_TEMPLATE
    """stable_diffusion: prompt of a class, its WordNet name in place of {} [paper Sec. H.1]."""
    prompts: str | None = field(default=None, metadata=EXECUTION)
    """stable_diffusion: JSON file {class: prompt} instead of ImageNet's classes; fingerprinted by content.

    A class is called as in the data, or by a synonym: a WordNet id or a name of ImageNet's.

    A list of prompts in place of one extracts every image once with each [paper App. F.1].
    """

    def __post_init__(self) -> None:
        check_types(self)
        require("{}" in self.prompt_template, "model.prompt_template", self.prompt_template, "a text with {} in it")
        require(
            self.prompts is None or self.prompt_template == PROMPT_TEMPLATE,
            "model.prompt_template",
            self.prompt_template,
            f"{PROMPT_TEMPLATE!r}, which has no effect with model.prompts",
        )
        known = self.weights_sha256
        digits = known is None or (len(known) == 64 and set(known) <= set("0123456789abcdef"))
        require(digits, "model.weights_sha256", known, "None, or 64 hexadecimal digits in lower case")


@dataclass(frozen=True, kw_only=True)
class DigitsConfig:
    """The embedded data set, used where data.source is spurious_digits."""

    split: DigitsSplit = "test"
    """Which pictures: in-distribution train or test, or a background control."""
    count: int = 240
    """Number of pictures."""
    correlation: float = 0.9
    """Probability that the background kind is the class's own [0..1]."""
    image_size: int = 16
    """Side of a picture; the shipped models take 16 [pixels]."""
    seed: int = 0
    """Seed of the pictures; the shipped models were trained on seed 1."""

    def __post_init__(self) -> None:
        check_types(self)
        require(self.count >= 1, "data.digits.count", self.count, "1 or more")
        require(self.image_size >= 8, "data.digits.image_size", self.image_size, "8 or more")
        require(0 <= self.correlation <= 1, "data.digits.correlation", self.correlation, "0 to 1")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The input images and which of them are used."""

    source: Source = "spurious_digits"
    """Embedded set, folder per class, one folder and a CSV, WebDataset, Parquet, CIFAR-10's batches, or no image."""
    path: str | None = field(default=None, metadata=EXECUTION)
    """Root folder of the input, fingerprinted by content; webdataset and parquet also take one file, a pattern
    (train-{000..127}.tar, "*.parquet") or @FILE, one path a line."""
    digits: DigitsConfig = field(default_factory=DigitsConfig)
    labels_file: str | None = field(default=None, metadata=EXECUTION)
    """flat_folder: CSV of name and class (Kaggle's LOC_val_solution.csv), or ImageNet's devkit; by content."""
    image_column: str = "image"
    """Parquet column with encoded images: binary, or a struct with a `bytes` field (Hugging Face layout)."""
    label_column: str = "label"
    """Parquet column with label numbers, or with class names as text."""
    split: Literal["train", "val", "test"] | None = None
    """Which part of an input that has parts: folders train/CLASS/IMAGE, or tars and Parquet files whose names say one.

    None takes the only one; of CIFAR-10, train.
    """
    classes: tuple[str, ...] = ()
    """Keep only these class names, or label numbers where no class is called so; also @FILE, one a line.

    imagenet20 [paper Sec. 3.2.1] names twenty label numbers. The plan puts the lines in place of a file: these are what
    is fingerprinted. The paper's ImageNet100 is not published; pass a list.
    """
    per_class: int | None = None
    """Keep at most this many images of each class, drawn with `seed`; noise: draw so many [images]."""
    fraction: float = 1.0
    """Keep this share of each class, drawn with `seed` (the paper uses 0.1: Sec. 4) [0..1]."""
    limit: int | None = None
    """Keep only the first so many images after the other selections [images]."""
    seed: int = 0
    """Seed of `per_class` and `fraction`."""

    def __post_init__(self) -> None:
        check_types(self)
        require(0 < self.fraction <= 1, "data.fraction", self.fraction, "more than 0, at most 1")
        require(self.limit is None or self.limit >= 1, "data.limit", self.limit, "None, or 1 and more")
        require(self.per_class is None or self.per_class >= 1, "data.per_class", self.per_class, "None, or 1 and more")
        if self.source == "flat_folder":
            require(
                bool(self.labels_file),
                "data.labels_file",
                self.labels_file,
                "a CSV file of name and class, or a devkit",
            )
        if self.source == "noise":
            require(self.per_class is not None, "data.per_class", self.per_class, "1 and more (data.source is noise)")
        needs_path = self.source not in ("spurious_digits", "noise")
        require(bool(self.path) or not needs_path, "data.path", self.path, f"a folder (data.source is {self.source})")


@dataclass(frozen=True, kw_only=True)
class InversionConfig:
    """Inversion up to the projection timestep (Sec. 3.2); decoding uses the same grid and solver."""

    num_steps: int = 100
    """Steps of the whole sampling grid, of which those up to project_t are taken; with spacing log_snr the steps up to
    project_t [paper Sec. 3.4: 100]."""
    project_t: float = 800.0
    """Projection timestep t_e, on the grid, in the model's own time unit [paper: lost]."""
    spacing: Literal["model", "log_snr"] = "model"
    """Of the grid: the model family's own [paper], or log_snr: num_steps up to project_t, near to even in
    log(alpha / sigma), which errs less for as many steps; output.what samples keeps the family's."""
    solver: PathSolver = "ddim"
    """Of inversion and decoding: ddim; of second order heun, at twice the evaluations, and dpmpp_2m, DPM-Solver++(2M),
    at the same [paper: ddim; Karras: heun]. Where decoding ends is the model folder's: its scheduler says it."""
    num_refinements: int = 0
    """Fixed-point iterations per inversion step; 0 is plain DDIM inversion [paper: 0]."""

    def __post_init__(self) -> None:
        check_types(self)
        require(1 <= self.num_steps <= 10_000, "inversion.num_steps", self.num_steps, "1 to 10000")
        require(self.num_refinements >= 0, "inversion.num_refinements", self.num_refinements, "0 or more")
        require(
            self.solver == "ddim" or self.num_refinements == 0,
            "inversion.num_refinements",
            self.num_refinements,
            "0 where inversion.solver is not ddim",
        )


@dataclass(frozen=True, kw_only=True)
class SpectrumConfig:
    """The leading singular triplets of the feature Jacobian at x_{t_e} (Eq. 1)."""

    layer: str = "transformer_blocks.3"
    """Jacobian layer l, a module path of the model [paper App. E: last block of DiT, mid block of UNets]."""
    num_directions: int = 50
    """Window M: how many singular values the elbow looks at [paper: lost; Park et al.: 50]."""
    solver: Solver = "block_lanczos"
    """block_lanczos is ours; subspace_iteration is Park et al. (2023) as published, for comparison."""
    block_size: int = 4
    """block_lanczos: vectors per sample in one network call."""
    tolerance: float | None = None
    """Stop: largest relative residual of a wanted triplet [None: 0.005]; for subspace_iteration, movement of an entry
    of V after 12 iterations or more [None: 0.001, as published]."""
    max_products: int = 600
    """block_lanczos: give up after so many products with J^T J per sample; the sample is kept and flagged [vectors]."""

    def __post_init__(self) -> None:
        check_types(self)
        require(self.num_directions >= 1, "spectrum.num_directions", self.num_directions, "1 or more")
        require(self.block_size >= 1, "spectrum.block_size", self.block_size, "1 or more")
        given = self.tolerance
        require(given is None or 0 < given < 1, "spectrum.tolerance", given, "None, or between 0 and 1")
        require(
            self.max_products >= self.num_directions,
            "spectrum.max_products",
            self.max_products,
            f"spectrum.num_directions ({self.num_directions}) or more",
        )

    @property
    def stops_at(self) -> float:
        """The tolerance, where none is given the solver's own."""
        return TOLERANCES[self.solver] if self.tolerance is None else self.tolerance


@dataclass(frozen=True, kw_only=True)
class ElbowConfig:
    """How k, the number of removed directions, follows from the spectrum (Sec. 3.2.1)."""

    rule: ElbowRule = "kneed"
    """kneed (chord rule where it finds none), chord (farthest from the chord), or fixed."""
    num_removed: int = 1
    """k where the rule is fixed."""
    share: float = 1.0
    """Share of the rule's k that is removed, at least one direction [paper: all]."""
    ambiguous_margin: float = 2e-3
    """Flag a sample whose elbow decision is closer than this [share of EVR_1]."""

    def __post_init__(self) -> None:
        check_types(self)
        require(self.num_removed >= 1, "elbow.num_removed", self.num_removed, "1 or more")
        require(0 < self.share <= 1, "elbow.share", self.share, "more than 0, at most 1")
        require(self.ambiguous_margin >= 0, "elbow.ambiguous_margin", self.ambiguous_margin, "0 or more")


@dataclass(frozen=True, kw_only=True)
class ProjectionConfig:
    """What is done to the latent at t_e (Eq. 2), and the controls that change nothing else."""

    mode: ProjectionMode = "clarid"
    """clarid is Eq. 2; the others are controls (README, "Controls"). A run of nothing but none takes no SVD."""

    def __post_init__(self) -> None:
        check_types(self)


@dataclass(frozen=True, kw_only=True)
class DecodingConfig:
    """Decoding from t_e to the Canonical Sample (Sec. 3.4)."""

    guidance_scale: float = 3.0
    """Classifier-free guidance w after the projection, 1 = off [paper Sec. K.7.6: 3 on ImageNet]."""
    guided_channels: int | None = None
    """Guide only the first so many latent channels; DiT's reference code guides 3 of 4. None guides all [channels]."""

    def __post_init__(self) -> None:
        check_types(self)
        require(
            self.guided_channels is None or self.guided_channels >= 1,
            "decoding.guided_channels",
            self.guided_channels,
            "None, or 1 and more",
        )
        require(self.guidance_scale >= 0, "decoding.guidance_scale", self.guidance_scale, "0 or more")


@dataclass(frozen=True, kw_only=True)
class FeatureConfig:
    """Canonical Features: the spatial mean of a layer's output at t_f (Sec. 4)."""

    layer: str = "transformer_blocks.2"
    """Feature layer l_f, a module path of the model [paper: lost for DiT, up_blocks.1 for SD]."""
    feature_t: float = 50.0
    """Feature timestep t_f, in the model's own time unit [paper: lost]."""

    def __post_init__(self) -> None:
        check_types(self)


@dataclass(frozen=True, kw_only=True)
class ExtractConfig:
    """Everything an extraction depends on."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    inversion: InversionConfig = field(default_factory=InversionConfig)
    spectrum: SpectrumConfig = field(default_factory=SpectrumConfig)
    elbow: ElbowConfig = field(default_factory=ElbowConfig)
    projection: ProjectionConfig = field(default_factory=ProjectionConfig)
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    features: FeatureConfig = field(default_factory=FeatureConfig)
    gate: GateConfig = field(default_factory=GateConfig)
    health: HealthConfig = field(default_factory=HealthConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    output: OutputConfig = field(default_factory=OutputConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    seed: int = 0
    """Run seed: the random streams of every sample follow from it and the sample's key."""

    def __post_init__(self) -> None:
        check_types(self)
        require_seed(self.seed)
        require(
            self.elbow.rule != "fixed" or self.elbow.num_removed <= self.spectrum.num_directions,
            "elbow.num_removed",
            self.elbow.num_removed,
            f"at most spectrum.num_directions ({self.spectrum.num_directions})",
        )
        require(
            (self.output.what == "samples") == (self.data.source == "noise"),
            "data.source",
            self.data.source,
            "noise where output.what is samples, and only there",
        )

        if self.gate.enabled:
            self._check_gate()

    def _check_gate(self) -> None:
        """Refuse a gate where there is nothing to judge, or where its remedies would mix what must stay apart."""
        off = "off where {}"
        what, modes = self.output.what, self._projections()
        require(what == "canonical", "gate.enabled", True, off.format(f"output.what is {what}"))
        require(
            "other_image" not in modes, "gate.enabled", True, off.format("a control takes another image's directions")
        )
        kept = self.output.keep_spectrum and self.gate.num_earlier > 0
        require(not kept, "gate.num_earlier", self.gate.num_earlier, "0 where output.keep_spectrum: one t_e for all")

    def _projections(self) -> set[str]:
        extras = (parse_extra(name) for name in self.output.extras)
        return {self.projection.mode} | {extra.mode for extra in extras if extra}

    @property
    def needs_spectrum(self) -> bool:
        """Whether anything uses singular vectors: a projection, a control of it, or the side-car."""
        kept = self.output.keep_spectrum or self.output.from_spectrum is not None
        return self.output.what == "canonical" and (self._projections() != {"none"} or kept)
