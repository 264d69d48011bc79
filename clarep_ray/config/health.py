"""What is asked of a diffusion model before anything is spent on it."""

from __future__ import annotations

from dataclasses import dataclass, field

from clarep_ray.config.checks import require
from clarep_ray.dotted import EXECUTION, check_types


@dataclass(frozen=True, kw_only=True)
class HealthConfig:
    """Whether model, labels and images belong together: measured on a few images before a job begins.

    It costs some 500 network evaluations, about what one image takes in an extraction, and changes no result.
    """

    enabled: bool = field(default=True, metadata=EXECUTION)
    """Measure and warn."""
    refuse: bool = field(default=False, metadata=EXECUTION)
    """Stop with exit code 2 where a warning is found; random weights are one, unless model.weights is tiny."""
    num_images: int = field(default=8, metadata=EXECUTION)
    """How many images of the input, of as many classes as possible [images]."""
    num_times: int = field(default=6, metadata=EXECUTION)
    """At how many noise levels: the run's smallest, and others between a tenth and ten times the signal's."""

    def __post_init__(self) -> None:
        check_types(self)
        require(2 <= self.num_images <= 256, "health.num_images", self.num_images, "2 to 256")
        require(3 <= self.num_times <= 100, "health.num_times", self.num_times, "3 to 100")


@dataclass(frozen=True, kw_only=True)
class HealthBenchmarkConfig:
    """The health check on the shipped models, right and with one setting spoiled, and on random weights."""

    weights: tuple[str, ...] = ("rho90", "rho10")
    """Shipped models."""
    seeds: int = 20
    """Sets of eight images on which a right model must raise no alarm."""

    def __post_init__(self) -> None:
        check_types(self)
        require(self.seeds >= 1, "seeds", self.seeds, "1 or more")
