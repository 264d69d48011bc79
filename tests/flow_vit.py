"""An adapter for a public flow-matching model of MNIST digits, for tests: x_t = alpha x_0 + (1 - alpha) eps.

The network is that of the public repository sofia-dominguezc/MNIST-diffusion (MIT): patches, four post-norm encoder
layers of torch, time and class as two tokens each; it predicts x_0 from pixels in [0, 1].
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from clarep_ray.data.class_list import ClassList
from clarep_ray.models.adapter import LabelledAdapter
from clarep_ray.models.autoencoder import GreyImages

SIDE, PATCH, WIDTH, CLASSES = 28, 7, 64, 10


class FlowVit(nn.Module):
    """Images (b, 1, 28, 28), signal share (b,) and classes (b,) to images; parameter names are the file's."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(1, WIDTH, PATCH, PATCH)
        self.pos_embed = nn.Parameter(torch.zeros(1, (SIDE // PATCH) ** 2, WIDTH))
        layers = [
            nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, activation="gelu", batch_first=True) for _ in range(4)
        ]
        self.transformer = nn.Sequential(*layers)
        self.unpatch = nn.ConvTranspose2d(WIDTH, 1, PATCH, PATCH)
        self.y_encoder = nn.Embedding(CLASSES + 1, 2 * WIDTH)

    def forward(self, x: Tensor, signal: Tensor, classes: Tensor) -> Tensor:
        maps = self.patch_embed(x)
        frequencies = torch.exp(torch.linspace(0, -math.log(10000), WIDTH, device=x.device))
        angles = signal[:, None] * frequencies
        clock = torch.cat([angles.sin(), angles.cos()], 1).unflatten(1, (2, WIDTH))
        tokens = maps.flatten(2).mT + self.pos_embed
        told = torch.cat([tokens, clock, self.y_encoder(classes).unflatten(1, (2, WIDTH))], 1)
        return self.unpatch(self.transformer(told)[:, : tokens.shape[1]].mT.reshape(maps.shape))


@dataclass(frozen=True)
class FlowSchedule:
    """alpha = 1 - t, sigma = t; the network was trained from about t = 0.1 on, where the clean side's grid begins."""

    smallest: float = 0.1
    largest: float = 0.98

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        time = t.to(torch.float64)
        return 1 - time, time

    def times(self, num_steps: int) -> Tensor:
        noisy = torch.linspace(self.smallest, self.largest, num_steps, dtype=torch.float64)
        return torch.cat([torch.zeros(1, dtype=torch.float64), noisy])

    def finest(self) -> Tensor:
        return self.times(1000)[1:]


class UnitGrey(GreyImages):
    """Grey images in [0, 1]."""

    def encode(self, pixels: Tensor) -> Tensor:
        return (super().encode(pixels) + 1) / 2

    def decode(self, latents: Tensor) -> Tensor:
        return super().decode(latents * 2 - 1)


class FlowMnist(LabelledAdapter):
    """Latents are (1, 28, 28) in [0, 1]; the last embedding is the unconditional label."""

    num_classes = CLASSES

    def __init__(self, network: nn.Module, schedule: FlowSchedule | None = None) -> None:
        super().__init__(
            network,
            schedule=schedule or FlowSchedule(),
            prediction="sample",
            classes=ClassList(tuple(map(str, range(CLASSES)))),
            latent_shape=(1, SIDE, SIDE),
            feature_layers=[f"transformer.{i}" for i in range(4)],
            autoencoder=UnitGrey(),
        )

    def forward(self, x_t: Tensor, t: float, cond: Tensor) -> Tensor:
        return self.network(x_t, torch.full((len(x_t),), 1 - t, device=x_t.device), cond)


def load_flow_mnist(folder: Path, schedule: FlowSchedule | None = None) -> FlowMnist:
    network = FlowVit()
    network.load_state_dict(load_file(folder / "model.safetensors"))
    return FlowMnist(network, schedule)
