"""Which Canonical Samples are good enough, and what is tried where one is not."""

from __future__ import annotations

from dataclasses import dataclass, field

from clarep_ray.config.checks import require
from clarep_ray.dotted import EXECUTION, check_types


@dataclass(frozen=True, kw_only=True)
class GateConfig:
    """Quality gate: samples are accepted, made again with fewer directions, then with less noise, or flagged.

    Off is the paper, which names the artefacts of a wrong t_e or k as a limit (Sec. 3.4, 5). Thresholds and
    remedies are ours. A sample that nothing helps stays as the paper's method made it.
    """

    enabled: bool = False
    """Judge every Canonical Sample; each remedy costs another decoding of the samples it is tried on."""
    classifiers: tuple[str, ...] = field(default=("digits",), metadata=EXECUTION)
    """Who reads the class: digits (shipped), or folders of timm models or of students [by content]; () asks nobody.

    Their labels become the model's by name; logits of classes that the model does not have do not compete.
    """
    min_votes: float = 0.5
    """Share of the classifiers that must read the sample's class [0..1]."""
    max_artefact: float = 1.0
    """Largest artefact score: log of how much rougher than the input, and the share of pixels newly at an end."""
    max_round_trip_error: float = 0.2
    """Largest relative error of the input's inversion and unguided decoding."""
    min_elbow_margin: float = 0.0
    """Smallest slack of the elbow's decision [share of EVR_1]; a closer one is flagged and not made again."""
    num_fewer: int = 2
    """Tries with fewer directions, each half of those before."""
    num_earlier: int = 1
    """Tries with a smaller t_e, each three quarters of the one before, on the grid; a new inversion and SVD each."""

    def __post_init__(self) -> None:
        check_types(self)
        require(0 <= self.min_votes <= 1, "gate.min_votes", self.min_votes, "0 to 1")
        for name in ("max_artefact", "max_round_trip_error", "min_elbow_margin", "num_fewer", "num_earlier"):
            require(getattr(self, name) >= 0, f"gate.{name}", getattr(self, name), "0 or more")
