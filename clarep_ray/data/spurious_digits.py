"""`spurious_digits`: real handwritten digits on generated backgrounds whose kind is correlated with the class.

The digit strokes come from scikit-learn's bundled `load_digits` (1,797 scans, 8x8). The background is one of
ten *kinds* (a hue and a pattern) with random phase, scale and brightness. Because the stroke mask and the
background kind of every picture are kept, what is core and what is extraneous is known, not guessed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clarep_ray.seeding import numpy_generator

NUM_CLASSES = 10
NUM_KINDS = 10
CLASS_NAMES = tuple(str(digit) for digit in range(NUM_CLASSES))
MASK_THRESHOLD = 0.25
"""Stroke opacity above which a pixel counts as digit."""

Split = Literal["train", "test", "same_background", "random_background", "foreground_only", "conflict"]
SPLITS: tuple[str, ...] = get_args(Split)
PATTERNS = ("rows", "columns", "diagonal", "crosses", "rings")


@dataclass(frozen=True, kw_only=True)
class DigitPicture:
    """One picture with everything that is known about it.

    `image` is uint8 (size, size, 3); `mask` is bool (size, size), true on the digit; `label` and
    `background_kind` are in 0..9; `background_kind` is -1 where there is no background.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    label: int
    background_kind: int


@dataclass(frozen=True, kw_only=True)
class SpuriousDigits:
    """A reproducible data set of `count` pictures; picture i depends on (seed, split, i) alone.

    * `train`, `test`: the background kind equals the class with probability `correlation`, else it is one of
      the nine others. Every split but `train` uses digit scans that `train` never shows, classes evenly.
    * `same_background`: always the class's own kind. `random_background`: any of the ten.
    * `foreground_only`: no background (black). `conflict`: always the kind of *another* class.

    Raises ValueError for an unknown split, a correlation outside [0, 1], a size below 8 or a negative count.
    """

    split: Split = "train"
    count: int = 1000
    image_size: int = 16
    correlation: float = 0.9
    seed: int = 0

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ValueError(f"split: {self.split!r} is unknown; valid: {', '.join(SPLITS)}")
        if not 0.0 <= self.correlation <= 1.0:
            raise ValueError(f"correlation: {self.correlation} is outside [0, 1]")
        if self.image_size < 8:
            raise ValueError(f"image_size: {self.image_size} is below 8")
        if self.count < 0:
            raise ValueError(f"count: {self.count} is negative")

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> DigitPicture:
        if not 0 <= index < self.count:
            raise IndexError(f"index {index} is outside 0..{self.count - 1}")
        rng = numpy_generator(self.seed, f"{self.split}/{index}", "spurious_digits")
        scans, labels = _digit_scans(self.split == "train")
        candidates = np.arange(len(scans))
        if self.split != "train":  # the held-out scans are few and uneven: draw the class first
            candidates = np.flatnonzero(labels == rng.integers(NUM_CLASSES))
        choice = int(candidates[rng.integers(len(candidates))])
        label = int(labels[choice])
        kind = self._background_kind(label, rng)
        opacity = _place(scans[choice], self.image_size, rng)
        background = _background(kind, self.image_size, rng)
        stroke = rng.uniform(0.82, 1.0) * np.ones(3)
        picture = background * (1 - opacity[..., None]) + stroke * opacity[..., None]
        image = np.clip(np.rint(picture * 255), 0, 255).astype(np.uint8)
        return DigitPicture(image=image, mask=opacity > MASK_THRESHOLD, label=label, background_kind=kind)

    def _background_kind(self, label: int, rng: np.random.Generator) -> int:
        other = int((label + rng.integers(1, NUM_KINDS)) % NUM_KINDS)
        keep = bool(rng.random() < self.correlation)
        any_kind = int(rng.integers(NUM_KINDS))
        match self.split:
            case "same_background":
                return label
            case "conflict":
                return other
            case "random_background":
                return any_kind
            case "foreground_only":
                return -1
            case _:
                return label if keep else other


@cache
def _digit_scans(train: bool) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return scans in [0, 1], shape (n, 8, 8), and labels; every fifth scan is held out from training."""
    from sklearn.datasets import load_digits

    bundle: Any = load_digits()
    held_out = np.arange(len(bundle.images)) % 5 == 4
    chosen = ~held_out if train else held_out
    return bundle.images[chosen] / 16.0, bundle.target[chosen].astype(np.int64)


def _place(scan: NDArray[np.float64], size: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return the stroke opacity in [0, 1], shape (size, size): the scan enlarged and moved by a pixel or so."""
    side = size - 2
    enlarged = Image.fromarray(scan.astype(np.float32), mode="F").resize((side, side), Image.Resampling.BICUBIC)
    top, left = (int(v) for v in rng.integers(0, size - side + 1, size=2))
    opacity = np.zeros((size, size))
    opacity[top : top + side, left : left + side] = np.clip(np.asarray(enlarged, dtype=np.float64) * 1.15, 0, 1)
    return opacity


def _background(kind: int, size: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return an RGB background in [0, 1], shape (size, size, 3); black for kind -1."""
    if kind < 0:
        return np.zeros((size, size, 3))
    phase, period = rng.uniform(0, 2 * np.pi), rng.uniform(0.42, 0.55) * size
    bright, dark = rng.uniform(0.5, 0.7), rng.uniform(0.15, 0.3)
    wave = 0.5 + 0.5 * np.sin(2 * np.pi * _pattern_phase(PATTERNS[kind % len(PATTERNS)], size) / period + phase)
    value = dark + (bright - dark) * wave
    return value[..., None] * _hue_to_rgb(kind / NUM_KINDS + rng.uniform(-0.02, 0.02))


def _pattern_phase(pattern: str, size: int) -> NDArray[np.float64]:
    """Return the distance in pixels along which the pattern's brightness oscillates, shape (size, size)."""
    rows, columns = np.mgrid[0:size, 0:size].astype(np.float64)
    centre = (size - 1) / 2
    distance = {
        "rows": rows,
        "columns": columns,
        "diagonal": (rows + columns) / np.sqrt(2),
        "crosses": np.abs(rows - centre) - np.abs(columns - centre),
        "rings": np.hypot(rows - centre, columns - centre),
    }
    return distance[pattern]


def _hue_to_rgb(hue: float) -> NDArray[np.float64]:
    """Return the fully saturated colour of a hue in turns, shape (3,), each channel in [0.1, 1]."""
    offsets = np.array([0.0, 1 / 3, 2 / 3])
    distance = np.abs((hue - offsets + 0.5) % 1.0 - 0.5)
    return 0.1 + 0.9 * np.clip(2 - 6 * distance, 0, 1)
