"""What lies between pixels and latents, used as a deterministic map: a VAE, or the grey of an image."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class Autoencoder:
    """diffusers' AutoencoderKL: the posterior's mean, scaled as the diffusion model was trained."""

    def __init__(self, vae: nn.Module) -> None:
        self.vae: Any = vae.eval().requires_grad_(False)
        self.scale = float(self.vae.config.scaling_factor)
        self.shift = float(getattr(self.vae.config, "shift_factor", None) or 0.0)
        self.channels = int(self.vae.config.latent_channels)
        self.factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        """Pixels per latent along a side."""

    def encode(self, pixels: Tensor) -> Tensor:
        """Return latents (b, c, h, w) in float32 of pixels (b, 3, H, W) in [-1, 1]."""
        mean = self.vae.encode(pixels.to(self.vae.dtype)).latent_dist.mean
        return (mean.float() - self.shift) * self.scale

    def decode(self, latents: Tensor) -> Tensor:
        """Return pixels in float32, not clipped, of latents."""
        return self.vae.decode((latents / self.scale + self.shift).to(self.vae.dtype)).sample.float()


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
