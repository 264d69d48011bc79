"""What a page of an extraction or a sweep shows."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from clarep_ray.config.checks import require
from clarep_ray.config.given import Given
from clarep_ray.dotted import check_types


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """A page of an extraction or a sweep."""

    folder: Path
    """Output folder of an extraction, or folder of a sweep."""
    k_steps: tuple[int, ...] = ()
    """Decode again with each of these k for every sample, for a slider; needs an output of --output.keep-spectrum."""
    calibration: Path | None = None
    """calibration.json of the same model: its curves are shown too."""
    max_samples: int = 1000
    """Show at most so many samples, evenly spread over the input."""
    max_mb: float = 20.0
    """Pictures are as sharp as a page of this size allows [10^6 bytes]."""
    given: Given = field(default_factory=Given)
    """k_steps: what the extraction read, where that was not shipped."""

    def __post_init__(self) -> None:
        check_types(self)
        require(self.max_samples >= 1, "max_samples", self.max_samples, "1 or more")
        require(self.max_mb > 0, "max_mb", self.max_mb, "more than 0")
