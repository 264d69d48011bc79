"""How a classifier sees a test image: one rule for validation during a training and for an evaluation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clarep_ray.config import Interpolation
from clarep_ray.data.records import RejectedImage, RejectReason

CropMode = Literal["center", "squash"]
MAX_SIDE = 4096
"""Of what a classifier's folder can ask for: memory follows from it."""
MAX_RESIZED = 32 * 10**6
"""Pixels of an image before it is cut; a tenth of it is more than any photograph has."""
FILTERS: dict[Interpolation, Image.Resampling] = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}


@dataclass(frozen=True, kw_only=True)
class View:
    """Resize, then cut the centre out, pixel for pixel as torchvision's Resize and CenterCrop of a Pillow image.

    `center` resizes the shorter side, `squash` both sides, to `resize` pixels; the crop has `image_size`. Raises
    ValueError for a crop that is larger than what it is cut from.
    """

    image_size: int
    resize: int
    interpolation: Interpolation = "bicubic"
    mode: CropMode = "center"

    def __post_init__(self) -> None:
        if not 0 < self.image_size <= self.resize:
            raise ValueError(f"resize: {self.resize} is not valid; valid: the image size ({self.image_size}) or more")
        for name, valid in (("interpolation", tuple(FILTERS)), ("mode", get_args(CropMode))):
            if getattr(self, name) not in valid:
                raise ValueError(f"{name}: {getattr(self, name)!r} is not valid; valid: {', '.join(valid)}")

    @property
    def text(self) -> str:
        resized = "both sides" if self.mode == "squash" else "shorter side"
        return f"{resized} {self.resize}, centre crop {self.image_size}, {self.interpolation}"

    def of(self, image: Image.Image, stored: bool = False) -> NDArray[np.uint8]:
        """Return the image (image_size, image_size, 3) of an RGB one.

        `stored`: of one that is published at its final size, of which nothing is to be cut away; it stays as it is
        where it has the classifier's side, and is resized to it where not. Raises RejectedImage for a line of a few
        pixels, which would be resized to gigabytes.
        """
        side = self.image_size if stored else self.resize
        return np.asarray(self._centre(self._resized(image, side)))

    def with_size(self, image_size: int | None, resize: int | None, interpolation: Interpolation | None) -> View:
        """Return the view with what is not None replaced; another side alone keeps the share that is cut out."""
        side = self.image_size if image_size is None else image_size
        shorter = math.floor(side * self.resize / self.image_size) if resize is None else resize
        return View(image_size=side, resize=shorter, interpolation=interpolation or self.interpolation, mode=self.mode)

    def _resized(self, image: Image.Image, side: int) -> Image.Image:
        width, height = image.size
        short = min(width, height)
        size = (side, side) if self.mode == "squash" else (side * width // short, side * height // short)
        if size[0] * size[1] > MAX_RESIZED:
            raise RejectedImage(RejectReason.TOO_MANY_PIXELS)
        return image if size == image.size else image.resize(size, FILTERS[self.interpolation])

    def _centre(self, image: Image.Image) -> Image.Image:
        size = self.image_size
        left, top = round((image.width - size) / 2), round((image.height - size) / 2)
        return image.crop((left, top, left + size, top + size))
