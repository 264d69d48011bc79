"""EDM2 (Karras et al. 2024): class-conditional latents or pixels on the clock of sigma, magnitude preserved."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from clarep_ray.config import ModelConfig
from clarep_ray.models.autoencoder import Autoencoder
from clarep_ray.models.class_names import read_classes
from clarep_ray.models.diffusers_folder import load_component
from clarep_ray.models.edm import Edm, load_guide
from clarep_ray.models.edm2_network import Edm2Architecture, Edm2Network
from clarep_ray.models.edm_folder import load_network

LATENT_STD = 0.5
"""Standard deviation of EDM2's latents, channel by channel; their mean is 0."""


class Edm2Autoencoder(Autoencoder):
    """A VAE whose raw latents are brought to mean 0 and standard deviation 0.5, and whose pixels lie in [0, 1].

    The VAE itself was trained on [-1, 1]; EDM2's data, and the statistics of its latents, were made from [0, 1].
    """

    def __init__(self, vae: nn.Module, sizes: Edm2Architecture) -> None:
        super().__init__(vae)
        self.mean = torch.tensor(sizes.raw_mean)[:, None, None]
        self.gain = LATENT_STD / torch.tensor(sizes.raw_std)[:, None, None]

    def encode(self, pixels: Tensor) -> Tensor:
        """Return latents (b, c, h, w) in float32 of pixels (b, 3, H, W) in [-1, 1]."""
        raw = self.vae.encode(((pixels + 1) / 2).to(self.vae.dtype)).latent_dist.mean.float()
        return (raw - self.mean.to(raw.device)) * self.gain.to(raw.device)

    def decode(self, latents: Tensor) -> Tensor:
        """Return pixels in float32, nominally in [-1, 1] and not clipped, of latents."""
        raw = latents / self.gain.to(latents.device) + self.mean.to(latents.device)
        return self.vae.decode(raw.to(self.vae.dtype)).sample.float() * 2 - 1


class Edm2(Edm):
    """As EDM; the published guidance takes a second, unconditional network, which lies in guide/."""


def build(config: ModelConfig) -> Edm2:
    """Return the model of a folder with config.json and model.safetensors, guide/ if any, and vae/ for latents.

    Raises ValueError naming what is missing or does not fit.
    """
    folder = Path(config.weights)
    network = load_network(folder, Edm2Network, Edm2Architecture, config.precision)
    guide = load_guide(folder, Edm2Network, Edm2Architecture, config.precision)
    classes = read_classes(folder, network.sizes.label_dim)
    return Edm2(network, guide, _autoencoder(config.weights, network.sizes), classes)


def _autoencoder(weights: str, sizes: Edm2Architecture) -> Edm2Autoencoder | None:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    if not sizes.has_latents:
        return None
    return Edm2Autoencoder(load_component(AutoencoderKL, weights, "vae", "float32"), sizes)


def build_tiny() -> Edm2:
    """Return a small random model of ten classes on pictures of 32 pixels, with a guide."""
    from clarep_ray.models.dit import tiny_vae

    def network(label_dim: int, width: int) -> Edm2Network:
        return _awake(Edm2Network(tiny_sizes(label_dim=label_dim, model_channels=width)))

    sizes = tiny_sizes(label_dim=10, model_channels=32)
    return Edm2(network(10, 32), network(0, 16), Edm2Autoencoder(tiny_vae(), sizes))


def tiny_sizes(*, label_dim: int, model_channels: int, img_channels: int = 4) -> Edm2Architecture:
    """Return the sizes of a small network of two levels."""
    return Edm2Architecture(
        img_resolution=8,
        img_channels=img_channels,
        label_dim=label_dim,
        model_channels=model_channels,
        channel_mult=(1, 2),
        num_blocks=1,
        attn_resolutions=(4,),
        channels_per_head=16,
    )


def _awake(network: Edm2Network) -> Edm2Network:
    """Open the gains, which start at 0 in training: a fresh network would say nothing and hear nothing."""
    for name, parameter in network.named_parameters():
        if name.endswith("gain"):
            nn.init.constant_(parameter, 0.5)
    return network
