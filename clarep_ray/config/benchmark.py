"""What the benchmarks measure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from clarep_ray.config.checks import require
from clarep_ray.config.distill import DistillMethod
from clarep_ray.config.evaluate import TORCHATTACKS_NAMES, AttackName
from clarep_ray.config.extract import PathSolver
from clarep_ray.dotted import check_types

BenchmarkedModel = Literal["digits", "cifar10_unet", "dit_xl", "sd21", "sd21_base"]
"""The shipped model, or a released size with random weights [clarep_ray/models/full_size.py]."""
SOLVER_NAMES = (
    "block Lanczos (ours)",
    "subspace iteration, as published",
    "subspace iteration, 10 iterations",
    "randomised SVD, 1 power iteration",
    "randomised SVD, 3 power iterations",
    "randomised SVD, 7 power iterations",
    "LOBPCG (SciPy)",
    "restarted Lanczos (ARPACK)",
)
"""Ours, and its peers in `analysis/svd_peers.py`."""


@dataclass(frozen=True, kw_only=True)
class SvdBenchmarkConfig:
    """Solver against the published subspace iteration on the shipped model."""

    weights: str = "rho90"
    """Shipped model or weights folder."""
    num_samples: int = 12
    """Samples of one batch; figures are means and worst cases over them."""
    windows: tuple[int, ...] = (20, 50)
    """Windows M."""
    project_t: float = 600.0
    """Projection timestep."""
    seed: int = 3
    """Seed of the pictures."""
    num_repeats: int = 5
    """Turns of ours for the spread of its time; the published iteration, a hundred times as long, has one."""

    def __post_init__(self) -> None:
        check_types(self)
        require(self.num_samples >= 1, "num_samples", self.num_samples, "1 or more")
        require(all(count >= 3 for count in self.windows), "windows", self.windows, "3 and more each")
        require(self.num_repeats >= 1, "num_repeats", self.num_repeats, "1 or more")


@dataclass(frozen=True, kw_only=True)
class PeersBenchmarkConfig:
    """Our solver beside its peers, one sample at a time; ours comes first."""

    model: BenchmarkedModel = "digits"
    """The shipped model, or a released size with random weights."""
    depth: int | None = None
    """Keep only so many blocks or layers per block of a released size; None keeps all."""
    solvers: tuple[str, ...] = SOLVER_NAMES
    """Which."""
    num_samples: int = 6
    """Samples, one after the other; figures are means and worst cases over them."""
    windows: tuple[int, ...] = (16, 32, 50)
    """Windows M."""
    project_t: float = 600.0
    """Projection timestep; the nearest of the grid is taken."""
    num_steps: int = 50
    """Steps of the sampling grid that the latents are inverted on."""
    seed: int = 3
    """Seed of the pictures or latents."""

    def __post_init__(self) -> None:
        check_types(self)
        require(self.num_samples >= 1, "num_samples", self.num_samples, "1 or more")
        require(all(count >= 3 for count in self.windows), "windows", self.windows, "3 and more each")
        require(self.depth is None or self.model != "digits", "depth", self.depth, "None for the shipped model")
        require(self.solvers[:1] == SOLVER_NAMES[:1], "solvers", self.solvers, f"{SOLVER_NAMES[0]!r} first")
        for name in self.solvers:
            require(name in SOLVER_NAMES, "solvers", name, ", ".join(SOLVER_NAMES))


@dataclass(frozen=True, kw_only=True)
class EngineBenchmarkConfig:
    """Pipeline against the same actor called in a plain loop."""

    preset: str = "digits"
    """Extraction preset."""
    num_images: int = 144
    """Images of each of the two runs."""
    num_repeats: int = 3
    """Turns of both runs; figures are the middle ones."""

    def __post_init__(self) -> None:
        check_types(self)
        require(self.num_images >= 48, "num_images", self.num_images, "48 or more: two units at least")
        require(self.num_repeats >= 1, "num_repeats", self.num_repeats, "1 or more")


@dataclass(frozen=True, kw_only=True)
class SizeBenchmarkConfig:
    """One extraction batch at a released model's size, with random weights; on a GPU where there is one."""

    model: Literal["dit_xl", "sd21", "sd21_base"] = "dit_xl"
    """DiT-XL/2 at 256 pixels, Stable Diffusion 2.1 at 768 or 2.1-base at 512."""
    depth: int | None = None
    """Keep only so many blocks (dit_xl: of 28) or layers per block (Stable Diffusion: of 2); None keeps all."""
    precisions: tuple[Literal["float32", "tf32", "bfloat16", "float16"], ...] = ("float32", "tf32", "bfloat16")
    """Of the network; tf32 is float32 with tensor cores."""
    compile: bool = False
    """torch.compile for inversion and decoding; what compiling takes is not counted."""
    micro_batches: tuple[int, ...] = (1, 4, 8)
    """Images per network batch."""
    num_steps: int = 100
    """Steps of the whole sampling grid; 0.7 of them are taken."""
    num_directions: int = 50
    """Window M."""
    tolerance: float = 5e-3
    """Of the solver."""
    max_products: int = 300
    """Limit of the solver."""
    guidance_scale: float = 3.0
    """Of the decoding."""

    def __post_init__(self) -> None:
        check_types(self)
        require(self.depth is None or self.depth >= 1, "depth", self.depth, "None, or 1 and more")
        require(all(size >= 1 for size in self.micro_batches), "micro_batches", self.micro_batches, "1 and more each")
        require(self.num_steps >= 4, "num_steps", self.num_steps, "4 or more")


@dataclass(frozen=True, kw_only=True)
class LimitsBenchmarkConfig:
    """What limits each stage of one extraction batch, and how near to the limit it is; on a GPU where there is one."""

    model: BenchmarkedModel = "digits"
    """The shipped model with the preset of that name, or a released size with random weights."""
    depth: int | None = None
    """Keep only so many blocks or layers per block of a released size; None keeps all."""
    micro_batch: int = 12
    """Images of the batch."""
    num_steps: int = 50
    """Steps of the whole sampling grid."""
    num_directions: int = 20
    """Window M."""
    guidance_scale: float = 3.0
    """Of the decoding; 1 where a model has no unconditional branch."""
    num_repeats: int = 5
    """Turns; a stage's figure is the middle one, between the least and the greatest."""

    def __post_init__(self) -> None:
        check_types(self)
        require(self.depth is None or self.model != "digits", "depth", self.depth, "None for the shipped model")
        require(self.depth is None or self.depth >= 1, "depth", self.depth, "None, or 1 and more")
        for name in ("micro_batch", "num_repeats"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        require(self.num_steps >= 4, "num_steps", self.num_steps, "4 or more")
        require(self.num_directions >= 3, "num_directions", self.num_directions, "3 or more")


@dataclass(frozen=True, kw_only=True)
class AttackBenchmarkConfig:
    """Our attacks against the loop over torchattacks, same budgets, on embedded digits; on one CPU thread."""

    num_samples: int = 480
    """Pictures."""
    batch_size: int = 48
    """Pictures of a batch of torchattacks, and rows of a network call of ours."""
    eps_255: tuple[float, ...] = (4.0, 12.0, 24.0)
    """L-inf budgets in units of 1/255; what a verdict costs depends on how many pictures fall."""
    num_steps: int = 20
    """Steps of the attacks with gradients."""
    num_queries: int = 300
    """Queries of the black-box attack."""
    num_repeats: int = 3
    """Times that each is measured, ours and theirs in turn; the fastest counts, the others are the machine's noise."""
    names: tuple[AttackName, ...] = ("pgd", "cw", "apgd_dlr", "apgd_ce", "square", "ensemble4")
    """Attacks, of those that the paper took from torchattacks."""

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("num_samples", "batch_size", "num_steps", "num_repeats"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        require(self.num_queries >= 2, "num_queries", self.num_queries, "2 or more")
        require(all(eps > 0 for eps in self.eps_255), "eps_255", self.eps_255, "more than 0 each")
        for name in self.names:
            require(name in TORCHATTACKS_NAMES, "names", name, ", ".join(TORCHATTACKS_NAMES))


@dataclass(frozen=True, kw_only=True)
class DistillBenchmarkConfig:
    """A method's training step against vanilla's, at once and at twice the images; on a GPU where there is one."""

    preset: str = "digits"
    """Distillation preset."""
    methods: tuple[DistillMethod, ...] = ("cadistill", "cadistill_ce", "supcon")
    """Methods beside vanilla."""
    clareps: str = "outputs/extract"
    """Folder of a finished extraction."""
    num_steps: int = 20
    """Steps of a turn."""
    num_repeats: int = 5
    """Turns, of all methods one after the other; the fastest counts, the others are the machine's noise."""

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("num_steps", "num_repeats"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")


@dataclass(frozen=True, kw_only=True)
class ProductsBenchmarkConfig:
    """Products with the Jacobian against forward passes, autograd's own products, and one vector at a time."""

    model: BenchmarkedModel = "digits"
    """The shipped model, or a released size with random weights."""
    depth: int | None = None
    """Keep only so many blocks or layers per block of a released size; None keeps all."""
    samples: tuple[int, ...] = (1, 8, 24)
    """Batch sizes."""
    vectors: tuple[int, ...] = (1, 4, 8)
    """Vectors of every sample in a call."""
    project_t: float = 600.0
    """Projection timestep."""
    num_repeats: int = 7
    """Times that each is measured in turn; the fastest counts."""

    def __post_init__(self) -> None:
        check_types(self)
        require(self.depth is None or self.model != "digits", "depth", self.depth, "None for the shipped model")
        for name in ("samples", "vectors"):
            require(all(count >= 1 for count in getattr(self, name)), name, getattr(self, name), "1 and more each")
        require(self.num_repeats >= 1, "num_repeats", self.num_repeats, "1 or more")


@dataclass(frozen=True, kw_only=True)
class SamplingBenchmarkConfig:
    """Coarser grids and solvers of second order beside the finest grid, on the shipped model."""

    preset: str = "digits"
    """Extraction preset on the embedded data."""
    num_samples: int = 48
    """Pictures."""
    num_steps: tuple[int, ...] = (10, 20, 25, 50, 100)
    """Steps of the whole grid, ascending; the last, with DDIM, is what the others are compared with."""
    solvers: tuple[PathSolver, ...] = ("ddim", "heun", "dpmpp_2m")
    """Of inversion and decoding."""
    log_snr_steps: tuple[int, ...] = (8, 12, 16, 24, 32)
    """Steps up to t_e of grids that are even in log(alpha / sigma)."""
    limit_steps: int = 200
    """Steps of Heun's method, even in log(alpha / sigma), that stand for infinitely many."""

    def __post_init__(self) -> None:
        check_types(self)
        require(self.num_samples >= 1, "num_samples", self.num_samples, "1 or more")
        finest = max(self.num_steps + self.log_snr_steps, default=0)
        require(
            self.limit_steps > finest, "limit_steps", self.limit_steps, f"more than {finest}, the finest of the others"
        )
        ascending = tuple(sorted(set(self.num_steps))) == self.num_steps
        require(ascending and min(self.num_steps, default=0) >= 2, "num_steps", self.num_steps, "2 and more, ascending")


@dataclass(frozen=True, kw_only=True)
class ReferenceBenchmarkConfig:
    """Extraction against the straightforward way, end to end on one thread, on the shipped model."""

    preset: str = "digits"
    """Extraction preset on the embedded data."""
    num_samples: int = 48
    """Pictures of ours."""
    num_reference: int = 4
    """Pictures of the straightforward way."""
    num_repeats: int = 3
    """Turns of both."""
    compile: bool = False
    """Ours once more with `model.compile`; what compiling takes is not counted."""

    def __post_init__(self) -> None:
        check_types(self)
        valid = "1 up to num_samples"
        require(1 <= self.num_reference <= self.num_samples, "num_reference", self.num_reference, valid)
        require(self.num_repeats >= 1, "num_repeats", self.num_repeats, "1 or more")


@dataclass(frozen=True, kw_only=True)
class ScalingBenchmarkConfig:
    """The engine's own cost: the model is replaced by the time it takes, everything else is real."""

    preset: str = "digits"
    """Extraction preset on the embedded data."""
    actors: tuple[int, ...] = (1, 2, 4)
    """Actors of each run; they share this machine's cores, which they hardly use."""
    unit_s: float = 2.0
    """What a unit costs an actor [s]."""
    units_per_actor: int = 10
    """Units of a run for each of its actors, so that every run is to take the same time."""
    driver_units: int = 2000
    """Units that cost nothing, for what the driver itself takes; 0 leaves them out."""
    plan_images: tuple[int, ...] = (10_000, 100_000, 1_000_000)
    """Images that are planned, and opened again by a run that continues."""

    def __post_init__(self) -> None:
        check_types(self)
        require(all(count >= 1 for count in self.actors), "actors", self.actors, "1 and more each")
        require(self.unit_s > 0, "unit_s", self.unit_s, "more than 0")
        require(self.units_per_actor >= 3, "units_per_actor", self.units_per_actor, "3 or more")
        require(self.driver_units >= 0, "driver_units", self.driver_units, "0 or more")
        require(all(count >= 100 for count in self.plan_images), "plan_images", self.plan_images, "100 and more each")


@dataclass(frozen=True, kw_only=True)
class PlotBenchmarkConfig:
    """Pictures of recorded rows: solvers, limits and products."""

    rows: str = "deploy/benchmarks/rows.jsonl"
    """File that --record appended to."""
    output: str = "deploy/benchmarks"
    """Folder of the pictures."""

    def __post_init__(self) -> None:
        check_types(self)
