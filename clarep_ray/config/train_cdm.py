"""Training of diffusion models in pixel space, with classes or without."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from clarep_ray.config.checks import require, require_seed
from clarep_ray.config.extract import DataConfig, DigitsConfig
from clarep_ray.config.tracking import TrackingConfig
from clarep_ray.dotted import EXECUTION, check_types

TrainableNetwork = Literal["digits_dit", "class_unet"]


@dataclass(frozen=True, kw_only=True)
class DitSizes:
    """Sizes of the DiT, used where network is digits_dit."""

    patch_size: int = 4
    """Side of a token [pixels]."""
    hidden_size: int = 96
    """Width of the transformer."""
    num_blocks: int = 4
    """Transformer blocks."""
    num_heads: int = 3
    """Attention heads."""

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("patch_size", "hidden_size", "num_blocks", "num_heads"):
            require(getattr(self, name) >= 1, f"dit.{name}", getattr(self, name), "1 or more")
        valid = "a multiple of 4 (sines and cosines of two coordinates)"
        require(self.hidden_size % 4 == 0, "dit.hidden_size", self.hidden_size, valid)
        valid = f"a divisor of dit.hidden_size ({self.hidden_size})"
        require(self.hidden_size % self.num_heads == 0, "dit.num_heads", self.num_heads, valid)


@dataclass(frozen=True, kw_only=True)
class UnetSizes:
    """Sizes of the UNet, used where network is class_unet."""

    channels: int = 128
    """Channels at full resolution [DDPM and DDAE: 128]."""
    multipliers: tuple[int, ...] = (1, 2, 2, 2)
    """Channels of each resolution in multiples of the first; between two of them sides halve."""
    layers_per_block: int = 2
    """Residual blocks per resolution on the way down; one more on the way up."""
    attention_sides: tuple[int, ...] = (16,)
    """Sides of the resolutions with self-attention, besides the middle [pixels]."""
    norm_groups: int = 32
    """Groups of the group normalisation."""
    dropout: float = 0.1
    """Dropout in the residual blocks [0..1; DDPM and DDAE: 0.1]."""

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("channels", "layers_per_block", "norm_groups"):
            require(getattr(self, name) >= 1, f"unet.{name}", getattr(self, name), "1 or more")
        valid = "one or more whole numbers of 1 or more"
        require(min(self.multipliers, default=0) >= 1, "unet.multipliers", self.multipliers, valid)
        valid = f"a divisor of unet.channels ({self.channels})"
        require(self.channels % self.norm_groups == 0, "unet.norm_groups", self.norm_groups, valid)
        require(0 <= self.dropout < 1, "unet.dropout", self.dropout, "0 up to, not including, 1")


def _training_digits() -> DataConfig:
    """Return the pictures of the shipped models: seed 1, which no extraction uses."""
    return DataConfig(digits=DigitsConfig(split="train", count=20000, seed=1))


@dataclass(frozen=True, kw_only=True)
class TrainCdmConfig:
    """Training of a diffusion model on the images and classes of any source (Ray Train)."""

    network: TrainableNetwork = "digits_dit"
    """What is trained: a small DiT, or DDPM's UNet [paper: CIFAR-10]; the `model.name` of an extraction is the same."""
    conditional: bool = True
    """Whether there are classes; class_unet without them teaches RepFusion and DiffAug, and is no model for CLARID."""
    data: DataConfig = field(default_factory=_training_digits)
    """Training pictures; all of them are held in memory as uint8."""
    image_size: int = 16
    """Side of a picture [pixels]."""
    dit: DitSizes = field(default_factory=DitSizes)
    unet: UnetSizes = field(default_factory=UnetSizes)
    prediction: Literal["epsilon", "v_prediction"] = "v_prediction"
    """What the network says of x_t: the noise, or v = alpha eps - sigma x_0."""
    flip: bool = False
    """Mirror each picture of a batch with probability one half."""
    num_steps: int = 12000
    """Optimiser steps."""
    batch_size: int = 64
    """Global batch, split over the workers [images]."""
    learning_rate: float = 1e-3
    """Peak AdamW learning rate, after a linear warm-up."""
    decay: Literal["cosine", "constant"] = "cosine"
    """The learning rate after the warm-up: half a cosine down to zero, or as it is."""
    warmup_steps: int = 200
    """Warm-up [steps]."""
    adam_beta2: float = 0.99
    """Decay of AdamW's second moments, per step [0..1]."""
    weight_decay: float = 0.01
    """AdamW weight decay; with 0 it is Adam."""
    label_dropout: float = 0.1
    """Share of samples trained without their label; with 0 the model has no unconditional branch: no guidance, no null
    readings, no two-stage sampling [0..1; DiT: 0.1; paper's CIFAR-10 UNet: 0]."""
    ema_decay: float = 0.999
    """Decay of the weight average that is shipped, per step."""
    seed: int = 0
    """Seed of initial weights, batches, timesteps, noise, mirroring and dropout."""
    checkpoint_every: int = field(default=500, metadata=EXECUTION)
    """Steps between checkpoints."""
    num_workers: int = field(default=1, metadata=EXECUTION)
    """Ray Train workers; the batch and its noise are the same for any number."""
    use_gpu: bool = field(default=False, metadata=EXECUTION)
    """One GPU per worker."""
    output: str = field(default="outputs/cdm", metadata=EXECUTION)
    """Output folder; the same folder and fingerprint continue an interrupted training."""
    take_over: bool = field(default=False, metadata=EXECUTION)
    """Take the output from a process that still works on it; that one ends with 8 within ten seconds."""
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def __post_init__(self) -> None:
        check_types(self)
        require_seed(self.seed)
        for name in ("image_size", "num_steps", "batch_size", "checkpoint_every", "num_workers"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        for name in ("adam_beta2", "ema_decay"):
            require(0 <= getattr(self, name) < 1, name, getattr(self, name), "0 up to, not including, 1")
        # Gradients are averaged over workers, so that every worker must have as many pictures as the others.
        valid = f"a divisor of batch_size ({self.batch_size})"
        require(self.batch_size % self.num_workers == 0, "num_workers", self.num_workers, valid)
        if self.data.source == "spurious_digits":
            side = self.data.digits.image_size
            require(side == self.image_size, "data.digits.image_size", side, f"image_size ({self.image_size})")
        require(0 <= self.label_dropout < 1, "label_dropout", self.label_dropout, "0 up to, not including, 1")
        valid = "0 (conditional is False: no label is ever seen)"
        require(self.conditional or self.label_dropout == 0, "label_dropout", self.label_dropout, valid)
        self._check_dit() if self.network == "digits_dit" else self._check_unet()

    def _check_dit(self) -> None:
        require(self.conditional, "conditional", self.conditional, "True (network is digits_dit)")
        fits = self.image_size % self.dit.patch_size == 0
        require(fits, "dit.patch_size", self.dit.patch_size, f"a divisor of image_size ({self.image_size})")

    def _check_unet(self) -> None:
        halvings = len(self.unet.multipliers) - 1
        valid = f"a multiple of {2**halvings} (unet.multipliers halve it {halvings} times)"
        require(self.image_size % 2**halvings == 0, "image_size", self.image_size, valid)
        sides = [self.image_size // 2**level for level in range(halvings + 1)]
        for side in self.unet.attention_sides:
            require(side in sides, "unet.attention_sides", side, ", ".join(map(str, sides)))
