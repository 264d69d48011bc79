"""The two-dimensional proof of concept."""

from __future__ import annotations

from dataclasses import dataclass

from clarep_ray.config.checks import require
from clarep_ray.dotted import check_types


@dataclass(frozen=True, kw_only=True)
class ToyConfig:
    """The two-dimensional proof of concept (Sec. 3.3)."""

    num_models: int = 3
    """Independently trained models; tables give mean and standard deviation over them."""
    num_points: int = 300
    """Points of class 1 that are carried through each method."""
    num_steps: int = 2500
    """Training steps of a model."""
    batch_size: int = 256
    """Points in a training batch."""
    learning_rate: float = 3e-3
    """Peak Adam learning rate, decayed by a half cosine."""
    label_dropout: float = 0.1
    """Probability of training a point without its label [0..1]."""
    num_inference_steps: int = 50
    """DDIM steps of the whole sampling grid."""
    guidance_scale: float = 3.0
    """Scale of the guidance-only rows."""
    height: float = 0.0
    """Height of the line the core segments lie on; Eq. 2 without centring assumes that it meets the origin."""
    seed: int = 0
    """Seed of models and points."""
    output: str = "outputs/toy"
    """Output folder."""

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("num_models", "num_points", "num_steps", "batch_size", "num_inference_steps"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
