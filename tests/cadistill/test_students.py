"""CaDistill against plain training on the embedded data (bar D): kept accuracy, more robustness."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from clarep_ray.cadistill.losses import loss_align, loss_cka, loss_separate
from clarep_ray.data.spurious_digits import SpuriousDigits
from clarep_ray.dotted import override
from clarep_ray.models.digit_classifier import to_pixels
from clarep_ray.models.extractor import UnitExtractor
from clarep_ray.presets import EXTRACT

SEEDS, NUM_IMAGES, NUM_CLAREPS, STEPS, BATCH = range(4), 3000, 150, 350, 128
EPS_255 = 4.0
WEIGHTS = {"align": 0.1, "separate": 0.1, "cka": 0.1}

pytestmark = pytest.mark.nightly


class Student(nn.Module):
    """Three convolutions and a linear layer, without normalisation layers; features are 64 wide."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 16, 32, 64)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(widths[i], widths[i + 1], 3, stride, padding=1) for i, stride in enumerate((1, 2, 2))
        )
        self.head = nn.Linear(64, 10)

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        for convolution in self.convolutions:
            pixels = F.relu(convolution(pixels))
        features = pixels.mean((2, 3))
        return features, self.head(features)


def pixels_and_labels(split: str, count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    pictures = SpuriousDigits(split=split, count=count, seed=seed)  # type: ignore[arg-type]
    rows = [pictures[i] for i in range(count)]
    return to_pixels(np.stack([row.image for row in rows])), torch.tensor([row.label for row in rows])


@pytest.fixture(scope="module")
def clareps() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Canonical Samples, Canonical Features and labels of a tenth of the training pictures."""
    config = override(
        EXTRACT["digits_correlated"]().config,
        {"output.extras": (), "decoding.guidance_scale": 1.0, "engine.micro_batch": 25},
    )
    pictures = SpuriousDigits(split="train", count=NUM_CLAREPS, seed=1)
    rows = [pictures[i] for i in range(NUM_CLAREPS)]
    labels = [row.label for row in rows]
    arrays, _ = UnitExtractor(config).run(
        np.stack([r.image for r in rows]), labels, [f"d{i}" for i in range(len(rows))]
    )
    return to_pixels(arrays["samples"]), torch.from_numpy(arrays["features"]), torch.tensor(labels)


def train(seed: int, clareps: tuple[torch.Tensor, ...] | None) -> Student:
    torch.manual_seed(seed)
    pixels, labels = pixels_and_labels("train", NUM_IMAGES, seed=1)
    student = Student()
    optimizer = torch.optim.AdamW(student.parameters(), 3e-3)
    for _ in range(STEPS):
        chosen = torch.randint(len(pixels), (BATCH,))
        if clareps is None:
            loss = F.cross_entropy(student(pixels[chosen])[1], labels[chosen])
        else:
            samples, teacher, classes = clareps
            partners = torch.stack([torch.multinomial((classes == label).float(), 1)[0] for label in labels[chosen]])
            features, logits = student(torch.cat([pixels[chosen], samples[partners]]))
            image, canonical = features.chunk(2)
            loss = F.cross_entropy(logits[:BATCH], labels[chosen])
            loss = loss + WEIGHTS["align"] * loss_align(image, canonical, labels[chosen])
            loss = loss + WEIGHTS["separate"] * loss_separate(canonical, labels[chosen])
            loss = loss + WEIGHTS["cka"] * loss_cka(image, canonical, teacher[partners])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return student.eval().requires_grad_(False)


def accuracies(student: Student) -> tuple[float, float]:
    """Return clean accuracy, and accuracy under PGD-10 with an L-infinity budget of EPS_255 / 255."""
    pixels, labels = pixels_and_labels("test", 500, seed=2)
    clean = (student(pixels)[1].argmax(1) == labels).float().mean().item()
    budget, adversarial = 2 * EPS_255 / 255, pixels.clone()
    for _ in range(10):
        adversarial.requires_grad_(True)
        (gradient,) = torch.autograd.grad(F.cross_entropy(student(adversarial)[1], labels), adversarial)
        moved = adversarial.detach() + budget / 4 * gradient.sign()
        adversarial = torch.minimum(torch.maximum(moved, pixels - budget), pixels + budget).clamp(-1, 1)
    robust = (student(adversarial)[1].argmax(1) == labels).float().mean().item()
    return clean, robust


def test_cadistill_keeps_accuracy_and_gains_robustness(clareps: tuple[torch.Tensor, ...]) -> None:
    plain = np.array([accuracies(train(seed, None)) for seed in SEEDS])
    distilled = np.array([accuracies(train(seed, clareps)) for seed in SEEDS])
    print(f"plain {plain.mean(0)} +- {plain.std(0)}; CaDistill {distilled.mean(0)} +- {distilled.std(0)}")
    assert distilled[:, 0].mean() >= plain[:, 0].mean() - 0.01
    assert distilled[:, 1].mean() > plain[:, 1].mean()
