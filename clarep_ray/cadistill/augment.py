"""Augmentation of one image by one random stream: what comes out depends on no batch, thread or worker.

The transforms are torchvision's functions, with parameters drawn here: its classes, as timm's, draw from global
streams, which threads share.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torchvision.transforms.functional as TF
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Generator, Tensor
from torchvision.transforms import InterpolationMode

from clarep_ray.config import AugmentRecipe
from clarep_ray.data.pixels import WholeImage

Step = Callable[[Tensor, int, Generator], Tensor]
"""(picture (3, h, w) uint8, side of the student's input, stream) -> picture."""
NARROWEST, WIDEST = 3 / 4, 4 / 3
"""Ratios of width to height of random resized crops."""
PADDING_SHARE = 8
"""Crops of CIFAR-10 pad 32-pixel pictures by 4: an eighth of the side."""
MAGNITUDE, MAGNITUDE_STD, NUM_OPERATIONS, MAX_MAGNITUDE = 9.0, 0.5, 2, 10.0
"""timm's rand-m9-mstd0.5-inc1, the recipe of DeiT and Swin."""
ERASING_PROBABILITY = 0.25


def to_tensor(image: NDArray[np.uint8]) -> UInt8[Tensor, " 3 h w"]:
    """Return a picture (h, w, 3) with its channels first."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def uniform(stream: Generator, low: float = 0.0, high: float = 1.0) -> float:
    """Return a number between low and high."""
    return low + (high - low) * torch.rand((), generator=stream).item()


def whole(stream: Generator, count: int) -> int:
    """Return a whole number from 0 up to, not including, count."""
    return int(torch.randint(count, (), generator=stream))


def fit(picture: Tensor, side: int, stream: Generator | None = None) -> Tensor:
    """Return a square picture resized to the side; as it is where it has that side."""
    if picture.shape[1:] == (side, side):
        return picture
    return TF.resize(picture, [side, side], InterpolationMode.BICUBIC, antialias=True)


def crop(picture: Tensor, side: int, stream: Generator) -> Tensor:
    """RandomCrop(side, padding=side / 8) with black borders (App. J: 32 and 4)."""
    pad = max(1, side // PADDING_SHARE)
    padded = TF.pad(fit(picture, side), [pad])
    top, left = whole(stream, 2 * pad + 1), whole(stream, 2 * pad + 1)
    return padded[:, top : top + side, left : left + side]


def flip(picture: Tensor, side: int, stream: Generator) -> Tensor:
    """Mirror with probability one half."""
    return picture.flip(2) if uniform(stream) < 0.5 else picture


def resized_crop(image: Tensor | WholeImage, smallest: float, side: int, stream: Generator) -> UInt8[Tensor, "3 s s"]:
    """Return torchvision's RandomResizedCrop: an area between `smallest` and 1, a ratio between 3/4 and 4/3.

    Where ten draws do not fit, the largest centre crop of a ratio within those, as torchvision has it.
    """
    width, height = image.size if isinstance(image, WholeImage) else (image.shape[2], image.shape[1])
    for _ in range(10):
        area = height * width * uniform(stream, smallest)
        ratio = math.exp(uniform(stream, math.log(NARROWEST), math.log(WIDEST)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            top, left = whole(stream, height - h + 1), whole(stream, width - w + 1)
            return _cut(image, left, top, w, h, side)
    w, h = min(width, round(height * WIDEST)), min(height, round(width / NARROWEST))
    return _cut(image, (width - w) // 2, (height - h) // 2, w, h, side)


def _cut(image: Tensor | WholeImage, left: int, top: int, width: int, height: int, side: int) -> Tensor:
    if isinstance(image, WholeImage):
        return to_tensor(image.crop((left, top, left + width, top + height), side))
    return TF.resized_crop(image, top, left, height, width, [side, side], antialias=True)


def jitter(strengths: tuple[float, float, float, float], probability: float) -> Step:
    """ColorJitter of brightness, contrast, saturation and hue, in an order of its own, with a probability."""
    adjust = (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, TF.adjust_hue)

    def step(picture: Tensor, side: int, stream: Generator) -> Tensor:
        if uniform(stream) >= probability:
            return picture
        for kind in torch.randperm(4, generator=stream).tolist():
            strength = strengths[kind]
            centre = 0.0 if kind == 3 else 1.0
            amount = uniform(stream, centre - strength, centre + strength)
            picture = adjust[kind](picture, amount) if strength else picture
        return picture

    return step


def grey(probability: float) -> Step:
    """RandomGrayscale."""

    def step(picture: Tensor, side: int, stream: Generator) -> Tensor:
        return TF.rgb_to_grayscale(picture, 3) if uniform(stream) < probability else picture

    return step


def _affine(
    picture: Tensor, turn: float = 0.0, x: float = 0.0, y: float = 0.0, shear: tuple[float, float] = (0.0, 0.0)
) -> Tensor:
    shift = [round(x * picture.shape[2]), round(y * picture.shape[1])]
    corner = [0, 0] if any(shear) else None  # timm shears about the corner and turns about the centre
    return TF.affine(picture, turn, shift, 1.0, list(shear), InterpolationMode.BILINEAR, [128.0], corner)


def _enhanced(adjust: Callable[[Tensor, float], Tensor]) -> Callable[[Tensor, float, float], Tensor]:
    return lambda picture, level, sign: adjust(picture, max(0.1, 1 + sign * level * 0.9))


OPERATIONS: dict[str, Callable[[Tensor, float, float], Tensor]] = {
    "auto_contrast": lambda picture, level, sign: TF.autocontrast(picture),
    "equalize": lambda picture, level, sign: TF.equalize(picture),
    "invert": lambda picture, level, sign: TF.invert(picture),
    "rotate": lambda picture, level, sign: _affine(picture, turn=sign * level * 30),
    "posterize": lambda picture, level, sign: TF.posterize(picture, 4 - int(level * 4)),
    "solarize": lambda picture, level, sign: TF.solarize(picture, 256 - level * 256),
    "solarize_add": lambda picture, level, sign: torch.where(
        picture < 128, (picture.int() + int(level * 110)).clamp(max=255).to(picture.dtype), picture
    ),
    "color": _enhanced(TF.adjust_saturation),
    "contrast": _enhanced(TF.adjust_contrast),
    "brightness": _enhanced(TF.adjust_brightness),
    "sharpness": _enhanced(TF.adjust_sharpness),
    "shear_x": lambda picture, level, sign: _affine(picture, shear=(math.degrees(math.atan(sign * level * 0.3)), 0.0)),
    "shear_y": lambda picture, level, sign: _affine(picture, shear=(0.0, math.degrees(math.atan(sign * level * 0.3)))),
    "translate_x": lambda picture, level, sign: _affine(picture, x=sign * level * 0.45),
    "translate_y": lambda picture, level, sign: _affine(picture, y=sign * level * 0.45),
}
"""RandAugment's operations with timm's increasing ranges: (picture, level 0..1, sign) -> picture."""


def rand_augment(picture: Tensor, side: int, stream: Generator) -> Tensor:
    """Apply two random operations, each with probability one half, at a level around 9 of 10."""
    names = list(OPERATIONS)
    for _ in range(NUM_OPERATIONS):
        name, skipped = names[whole(stream, len(names))], uniform(stream) >= 0.5
        drawn = MAGNITUDE + MAGNITUDE_STD * torch.randn((), generator=stream).item()
        sign = 1.0 if uniform(stream) < 0.5 else -1.0
        if not skipped:
            picture = OPERATIONS[name](picture, min(max(drawn, 0.0), MAX_MAGNITUDE) / MAX_MAGNITUDE, sign)
    return picture


def erase(picture: Tensor, side: int, stream: Generator) -> Tensor:
    """Fill a rectangle with noise, with timm's probability and sizes."""
    if uniform(stream) >= ERASING_PROBABILITY:
        return picture
    height, width = picture.shape[1:]
    area = height * width * uniform(stream, 0.02, 1 / 3)
    ratio = math.exp(uniform(stream, math.log(0.3), math.log(1 / 0.3)))
    h, w = min(height, round(math.sqrt(area * ratio))), min(width, round(math.sqrt(area / ratio)))
    top, left = whole(stream, height - h + 1), whole(stream, width - w + 1)
    erased = picture.clone()
    noise = torch.randint(256, (picture.shape[0], h, w), generator=stream, dtype=torch.uint8)
    erased[:, top : top + h, left : left + w] = noise
    return erased


@dataclass(frozen=True)
class Recipe:
    """`smallest` is the least area of a random resized crop of the whole image; None for none."""

    smallest: float | None
    steps: tuple[Step, ...]


RECIPES: dict[AugmentRecipe, Recipe] = {
    "none": Recipe(None, (fit,)),
    "crop_flip": Recipe(None, (crop, flip)),
    "resized_flip": Recipe(0.2, (flip,)),
    "supcon": Recipe(0.2, (flip, jitter((0.4, 0.4, 0.4, 0.1), 0.8), grey(0.2))),
    "jitter": Recipe(0.08, (flip, jitter((0.3, 0.3, 0.3, 0.0), 1.0))),
    "timm": Recipe(0.08, (flip, rand_augment, erase)),
}


def augment(
    image: NDArray[np.uint8] | WholeImage, recipe: AugmentRecipe, side: int, stream: Generator
) -> Float[Tensor, " 3 side side"]:
    """Return an image (h, w, 3), or a crop of an encoded one, as the student sees it in training, pixels in [0, 1]."""
    chosen = RECIPES[recipe]
    if chosen.smallest is not None:
        source = image if isinstance(image, WholeImage) else to_tensor(image)
        pixels = resized_crop(source, chosen.smallest, side, stream)
    else:
        assert not isinstance(image, WholeImage), "its inputs were made by a view"
        pixels = to_tensor(image)
    for step in chosen.steps:
        pixels = step(pixels, side, stream)
    return pixels.float() / 255


def plain(image: NDArray[np.uint8], side: int) -> Float[Tensor, " 3 side side"]:
    """Return a square image that is not augmented, resized to the student's side, pixels in [0, 1]."""
    return fit(to_tensor(image), side).float() / 255
