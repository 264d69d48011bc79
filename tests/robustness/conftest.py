"""A small classifier of scikit-learn's digits, trained in a few seconds, and pictures that it has not seen."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn


class Normalised(nn.Module):
    """A small CNN for pictures in [0, 1], its normalisation inside."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(256, 10),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.body((images - 0.5) / 0.25)


@dataclass
class Trained:
    model: Normalised
    images: Tensor
    labels: Tensor
    keys: list[str]


def train(seed: int) -> Normalised:
    images, labels = digits()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Normalised()
        optimizer = torch.optim.Adam(model.parameters(), 3e-3)
        for _ in range(150):
            chosen = torch.randint(1200, (128,))
            loss = F.cross_entropy(model(images[chosen] + 0.05 * torch.randn(128, 3, 8, 8)), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval().requires_grad_(False)


def digits() -> tuple[Tensor, Tensor]:
    """Pictures in [0, 1], most pixels at exactly 0 and some at 1, and their labels."""
    data = load_digits()
    images = torch.from_numpy(data.images / 16).float()[:, None].expand(-1, 3, -1, -1).contiguous()
    return images, torch.from_numpy(data.target)


@pytest.fixture(scope="session")
def trained() -> Trained:
    images, labels = digits()
    return Trained(train(0), images[1200:1600], labels[1200:1600], [f"digit-{i}" for i in range(400)])


@pytest.fixture(scope="session")
def surrogate() -> Normalised:
    return train(1)
