"""What of the class and of the background is left in the pictures of the embedded data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clarep_ray.config import DigitsConfig
from clarep_ray.data.spurious_digits import SPLITS, DigitPicture, SpuriousDigits
from clarep_ray.models import digit_classifier
from clarep_ray.models.answers import NO_ANSWER
from clarep_ray.models.digit_classifier import DigitClassifier, Target

NUM_JUDGED = 500
JUDGED_SEED = 9


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Shares in 0..1 over a set of pictures, each against its original."""

    class_kept: float
    """The digit classifier reads the true class."""
    background_kept: float
    """The background classifier still reads the original's kind."""
    background_typical: float
    """It reads the kind that belongs to the class instead (counted where the original's is another)."""
    change_outside: float
    """Share of the absolute pixel change that lies outside the digit's mask."""


def judge(images: NDArray[np.uint8], originals: list[DigitPicture], valid: NDArray[np.bool_] | None = None) -> Verdict:
    """Return the verdict on images (n, h, w, 3) made from the originals.

    Where `valid` (n,) is false there is no image, only the black of one that was not finite: nothing is kept.
    """
    labels = np.array([picture.label for picture in originals])
    kinds = np.array([picture.background_kind for picture in originals])
    exists = np.ones(len(images), bool) if valid is None else valid
    digits = np.where(exists, digit_classifier.load("digit").predict(images), NO_ANSWER)
    backgrounds = np.where(exists, digit_classifier.load("background").predict(images), NO_ANSWER)
    foreign = kinds != labels
    return Verdict(
        class_kept=float((digits == labels).mean()),
        background_kept=float((backgrounds == kinds).mean()),
        background_typical=float((backgrounds[foreign] == labels[foreign]).mean()) if foreign.any() else float("nan"),
        change_outside=change_outside(images, originals),
    )


def accuracy_on_originals(originals: list[DigitPicture]) -> dict[str, float]:
    """Return {what: share} of the originals' digits and backgrounds that the judges read: what to compare with."""
    images = np.stack([picture.image for picture in originals])
    answers = {
        "digit": [picture.label for picture in originals],
        "background": [picture.background_kind for picture in originals],
    }
    return {
        target: float((digit_classifier.load(target).predict(images) == np.array(answers[target])).mean())
        for target in digit_classifier.TARGETS
    }


def change_outside(images: NDArray[np.uint8], originals: list[DigitPicture]) -> float:
    """Return the share of the absolute pixel change outside the digit masks, pooled over the pictures."""
    before = np.stack([picture.image for picture in originals]).astype(np.int64)
    outside = ~np.stack([picture.mask for picture in originals])
    change = np.abs(images.astype(np.int64) - before).sum(-1)
    return float(change[outside].sum() / max(1, change.sum()))


def originals_of(digits: DigitsConfig, numbers: list[int]) -> list[DigitPicture]:
    """Return the embedded pictures an extraction started from."""
    pictures = SpuriousDigits(split=digits.split, count=digits.count, correlation=digits.correlation, seed=digits.seed)
    return [pictures[number] for number in numbers]


def accuracy_by_split(network: DigitClassifier, target: Target) -> dict[str, float]:
    """Return a judge's accuracy on every split that has its answer."""
    accuracies: dict[str, float] = {}
    for split in SPLITS:
        if target == "background" and split == "foreground_only":
            continue
        rows = _judged(split)
        answers = np.array([row.label if target == "digit" else row.background_kind for row in rows])
        accuracies[split] = float((network.predict(np.stack([row.image for row in rows])) == answers).mean())
    return accuracies


def _judged(split: str) -> list[DigitPicture]:
    pictures = SpuriousDigits(split=split, count=NUM_JUDGED, seed=JUDGED_SEED)  # type: ignore[arg-type]
    return [pictures[i] for i in range(NUM_JUDGED)]
