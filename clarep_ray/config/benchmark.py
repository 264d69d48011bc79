"""What the benchmarks measure."""

from __future__ import annotations

from dataclasses import dataclass

from clarep_ray.config.checks import require
from clarep_ray.dotted import check_types


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

    def __post_init__(self) -> None:
        check_types(self)
        require(self.num_samples >= 1, "num_samples", self.num_samples, "1 or more")
        require(all(count >= 3 for count in self.windows), "windows", self.windows, "3 and more each")


@dataclass(frozen=True, kw_only=True)
class EngineBenchmarkConfig:
    """Pipeline against the same actor called in a plain loop."""

    preset: str = "digits"
    """Extraction preset."""
    num_images: int = 144
    """Images of each of the two runs."""

    def __post_init__(self) -> None:
        check_types(self)
        require(self.num_images >= 48, "num_images", self.num_images, "48 or more: two units at least")
