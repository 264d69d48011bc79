"""Two small classifiers of the embedded data: one reads the digit, one the background kind.

They are trained on pictures whose background says nothing about the class, independently of any diffusion
model, and serve as judges: what of the class and of the background is left in a Canonical Sample.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from clarep_ray.data.durable import make_folder
from clarep_ray.data.spurious_digits import NUM_CLASSES, SpuriousDigits
from clarep_ray.models.answers import answers_of
from clarep_ray.models.digits_dit import SHIPPED
from clarep_ray.models.weight_files import write_tensors

Target = Literal["digit", "background"]
TARGETS: tuple[Target, ...] = get_args(Target)
NUM_IMAGES, NUM_STEPS, BATCH_SIZE, DATA_SEED = 8000, 500, 128, 7
SIDE = 16
"""Pixels of the images it was trained on."""


class DigitClassifier(nn.Module):
    """Three convolutions and a linear layer; input pixels in [-1, 1], shape (b, 3, 16, 16); normalises nothing."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        channels = (3, width, 2 * width, 4 * width)
        blocks: list[nn.Module] = []
        for i, stride in enumerate((1, 2, 2)):
            blocks += [
                nn.Conv2d(channels[i], channels[i + 1], 3, stride, padding=1),
                nn.BatchNorm2d(channels[i + 1]),
                nn.ReLU(),
            ]
        self.body = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.head = nn.Linear(16 * width, NUM_CLASSES)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(self.body(pixels))

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Return the class of each picture (n, h, w, 3); NO_ANSWER where a logit is not finite."""
        with torch.no_grad():
            return answers_of(self(to_pixels(images))).numpy()


def to_pixels(images: NDArray[np.uint8]) -> Tensor:
    """Return pictures (n, h, w, 3) as pixels in [-1, 1], shape (n, 3, h, w)."""
    return torch.from_numpy(images.copy()).permute(0, 3, 1, 2).float() / 127.5 - 1


def load(target: Target) -> DigitClassifier:
    """Return a shipped classifier in eval mode."""
    if target not in TARGETS:
        raise ValueError(f"target: {target!r} is unknown; valid: {', '.join(TARGETS)}")
    network = DigitClassifier()
    network.load_state_dict(load_file(SHIPPED / "classifiers" / f"{target}.safetensors"))
    return network.eval()


def train(target: Target, seed: int = 0) -> DigitClassifier:
    """Train a classifier (half a minute on one CPU core)."""
    torch.manual_seed(seed)
    pictures = SpuriousDigits(split="train", count=NUM_IMAGES, correlation=0.1, seed=DATA_SEED)
    rows = [pictures[i] for i in range(len(pictures))]
    pixels = to_pixels(np.stack([row.image for row in rows]))
    answers = torch.tensor([row.label if target == "digit" else row.background_kind for row in rows])
    network = DigitClassifier()
    optimizer = torch.optim.AdamW(network.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, NUM_STEPS)
    for _ in range(NUM_STEPS):
        chosen = torch.randint(len(pixels), (BATCH_SIZE,))
        loss = F.cross_entropy(network(pixels[chosen]), answers[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval()


def save(network: DigitClassifier, target: Target, folder: Path) -> None:
    """Write the classifier as safetensors."""
    make_folder(folder)
    write_tensors(folder, f"{target}.safetensors", network.state_dict())
