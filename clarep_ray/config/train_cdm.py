"""Training of the embedded conditional diffusion models."""

from __future__ import annotations

from dataclasses import dataclass, field

from clarep_ray.config.checks import require
from clarep_ray.config.tracking import TrackingConfig
from clarep_ray.dotted import EXECUTION, check_types


@dataclass(frozen=True, kw_only=True)
class TrainCdmConfig:
    """Training of the embedded class-conditional DiT on spurious_digits (Ray Train)."""

    correlation: float = 0.9
    """Probability that a training picture's background kind is its class's own [0..1]."""
    num_images: int = 20000
    """Training pictures [images]."""
    data_seed: int = 1
    """Seed of the training pictures."""
    image_size: int = 16
    """Side of a picture [pixels]."""
    patch_size: int = 4
    """Side of a token [pixels]."""
    hidden_size: int = 96
    """Width of the transformer."""
    num_blocks: int = 4
    """Transformer blocks."""
    num_heads: int = 3
    """Attention heads."""
    num_steps: int = 12000
    """Optimiser steps."""
    batch_size: int = 64
    """Global batch, split over the workers [images]."""
    learning_rate: float = 1e-3
    """Peak AdamW learning rate: linear warm-up, cosine decay to zero."""
    warmup_steps: int = 200
    """Warm-up [steps]."""
    weight_decay: float = 0.01
    """AdamW weight decay."""
    label_dropout: float = 0.1
    """Probability of training a sample without its label, for guidance [0..1; DiT: 0.1]."""
    ema_decay: float = 0.999
    """Decay of the weight average that is shipped, per step."""
    seed: int = 0
    """Seed of initial weights, batches, timesteps and noise."""
    checkpoint_every: int = field(default=500, metadata=EXECUTION)
    """Steps between checkpoints."""
    num_workers: int = field(default=1, metadata=EXECUTION)
    """Ray Train workers; the batch and its noise are the same for any number."""
    use_gpu: bool = field(default=False, metadata=EXECUTION)
    """One GPU per worker."""
    output: str = field(default="outputs/cdm", metadata=EXECUTION)
    """Output folder; the same folder and fingerprint continue an interrupted training."""
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("num_images", "num_steps", "batch_size", "hidden_size", "num_blocks", "num_workers"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        require(self.image_size % self.patch_size == 0, "patch_size", self.patch_size, "a divisor of image_size")
        require(self.hidden_size % self.num_heads == 0, "num_heads", self.num_heads, "a divisor of hidden_size")
        require(0 <= self.correlation <= 1, "correlation", self.correlation, "0 to 1")
        require(0 < self.label_dropout < 1, "label_dropout", self.label_dropout, "between 0 and 1")
