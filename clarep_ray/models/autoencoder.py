"""What lies between pixels and latents, used as a deterministic map: a VAE, or the grey of an image."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Autoencoder:
    """diffusers' AutoencoderKL: the posterior's mean, scaled as its config says the diffusion model was trained.

    Latents are (mean - shift) * scale, or with statistics by channel (mean - latents_mean) * scale / latents_std.
    Raises ValueError for pixels or settings that are not understood.
    """

    def __init__(self, vae: nn.Module) -> None:
        self.vae: Any = vae.eval().requires_grad_(False)
        settings = self.vae.config
        self.channels = int(settings.latent_channels)
        self.factor = 2 ** (len(settings.block_out_channels) - 1)
        """Pixels per latent along a side."""
        if (settings.in_channels, settings.out_channels) != (3, 3):
            raise ValueError(f"vae/config.json: in_channels is {settings.in_channels}; valid: 3, in and out")
        scale, shift = _number("scaling_factor", settings.scaling_factor), settings.shift_factor
        mean, std = settings.latents_mean, settings.latents_std
        if (mean is None) != (std is None) or (mean is not None and shift is not None):
            raise ValueError(
                "vae/config.json: latents_mean, latents_std and shift_factor contradict one another; valid: both of "
                "the first, the last alone, or none"
            )
        self.shift = torch.zeros(1, 1, 1) if shift is None else torch.full((1, 1, 1), _number("shift_factor", shift))
        self.scale = torch.full((1, 1, 1), scale)
        if mean is not None:
            self.shift = self._by_channel("latents_mean", mean)
            self.scale = self.scale / self._by_channel("latents_std", std)
        if not bool(((self.scale > 0) & self.scale.isfinite()).all()):
            raise ValueError("vae/config.json: scaling_factor / latents_std is not valid; valid: more than 0")

    def encode(self, pixels: Tensor) -> Tensor:
        """Return latents (b, c, h, w) in float32 of pixels (b, 3, H, W) in [-1, 1]."""
        mean = self.vae.encode(pixels.to(self.vae.dtype)).latent_dist.mean
        return (mean.float() - self.shift.to(mean.device)) * self.scale.to(mean.device)

    def decode(self, latents: Tensor) -> Tensor:
        """Return pixels in float32, not clipped, of latents."""
        raw = latents / self.scale.to(latents.device) + self.shift.to(latents.device)
        return self.vae.decode(raw.to(self.vae.dtype)).sample.float()

    def _by_channel(self, name: str, values: Any) -> Float[Tensor, " c 1 1"]:
        if not isinstance(values, list | tuple) or len(values) != self.channels:
            raise ValueError(f"vae/config.json: {name} is no list of {self.channels} numbers")
        return torch.tensor([_number(name, value) for value in values])[:, None, None]


class GreyImages(Autoencoder):
    """Pixels of one channel, for networks of grey images: what an image's colours were is lost."""

    LUMA = (0.299, 0.587, 0.114)
    """Of red, green and blue [ITU-R BT.601, as Pillow]."""

    def __init__(self) -> None:
        self.vae, self.channels, self.factor = nn.Identity(), 1, 1

    def encode(self, pixels: Tensor) -> Tensor:
        return (pixels * pixels.new_tensor(self.LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)

    def decode(self, latents: Tensor) -> Tensor:
        return latents.expand(-1, 3, -1, -1)


def _number(name: str, value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(f"vae/config.json: {name} is {repr(value)[:100]}; valid: a number")
    return float(value)
