"""Decode untrusted image bytes into square RGB pictures, by one documented rule per kind of file."""

from __future__ import annotations

import io
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from clarep_ray.data.image_parts import check_decoded, check_exif, check_parts
from clarep_ray.data.records import RejectedImage, RejectReason

FORMATS = ("JPEG", "PNG", "WEBP")
MAX_BYTES = 32 * 2**20
MAX_PIXELS = {"JPEG": 32 * 10**6, "PNG": 32 * 10**6, "WEBP": 12 * 10**6}
"""A decoder takes up to 8 bytes of memory per pixel; WebP's takes 16, for it keeps two canvases."""
MAX_SIDE = 65535
"""JPEG's own limit; a PNG of one row could be a billion pixels wide."""
STRIP_PIXELS = 10**6
"""How much of a picture is converted at a time: whole, a transparent one would be in memory four times."""
ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what makes the picture upright; 1, and numbers that stand for nothing, change nothing."""
SCALES = (1, 2, 4, 8)
"""Reductions that a JPEG can be decoded at."""
BACKDROP = (128, 128, 128)
"""What shows through transparent pixels."""


def decode_image(data: bytes, size: int) -> NDArray[np.uint8]:
    """Return an RGB picture (size, size, 3): shorter side resized to `size` (bicubic), centre crop.

    EXIF orientation is applied; transparency is laid on mid-grey; 16-bit greyscale is scaled to 8 bits; CMYK and
    other modes are converted to RGB by Pillow; of an animation the first frame is taken. Only JPEG, PNG and
    WebP are opened, whatever the file is called. Raises RejectedImage with the reason.
    """
    return np.asarray(_square(open_rgb(data), size))


def open_rgb(data: bytes, scale: int = 1) -> Image.Image:
    """Return a picture as it is stored, by the same rules and of its own size. Raises RejectedImage.

    A JPEG is decoded at 1 / scale of its size (1, 2, 4 or 8), which takes a fraction of the time.
    """
    picture, orientation = _open(data, scale)
    turn = TURNS.get(orientation) if isinstance(orientation, int) else None
    if picture.mode == "RGB" and turn is None and "transparency" not in picture.info:
        return picture
    bands = _rgb_bands(picture)
    del picture  # Pillow keeps 4 bytes per pixel of it, and as many of what is made here
    if turn is not None:
        for number, band in enumerate(bands):
            bands[number] = band.transpose(turn)
    return Image.merge("RGB", bands)


class WholeImage:
    """An encoded image that one crop is taken from: of a JPEG no more is decoded than the crop needs.

    `name` is what the image is called where it cannot be decoded.
    """

    def __init__(self, data: bytes, name: str) -> None:
        self.data, self.name = data, name

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, upright; ValueError naming the image where it cannot be read."""
        return self._layout[0]

    @cached_property
    def _layout(self) -> tuple[tuple[int, int], bool]:
        """Upright size, and whether it has a reduced scale: a turned one's last column would be its first."""
        with self._naming(), _rejecting():
            picture = _checked(self.data)
            if picture.format == "JPEG" and _orientation(picture) not in TURNS:
                return picture.size, True
            return self._decoded.size, False

    def pixels(self) -> NDArray[np.uint8]:
        """Return all of it (h, w, 3); ValueError as `size`."""
        with self._naming():
            return np.asarray(self._decoded)

    def check(self) -> None:
        """Decode it at its smallest scale; ValueError as `size`."""
        with self._naming():
            open_rgb(self.data, SCALES[-1])

    def crop(self, box: tuple[int, int, int, int], side: int) -> NDArray[np.uint8]:
        """Return the part (left, top, right, bottom), resized to (side, side, 3), bilinear; ValueError as `size`.

        Decoded at the smallest scale at which the part still has `side` pixels both ways.
        """
        smallest = min(box[2] - box[0], box[3] - box[1])
        scale = max(each for each in SCALES if each == 1 or (self._layout[1] and smallest >= each * side))
        with self._naming():
            picture = self._decoded if scale == 1 else open_rgb(self.data, scale)
        left, top, right, bottom = (edge / scale for edge in box)
        return np.asarray(picture.resize((side, side), Image.Resampling.BILINEAR, box=(left, top, right, bottom)))

    @cached_property
    def _decoded(self) -> Image.Image:
        return open_rgb(self.data)

    @contextmanager
    def _naming(self) -> Generator[None]:
        try:
            yield
        except RejectedImage as rejected:
            raise ValueError(f"data: {self.name!r} is no usable image: {rejected.reason.value}") from None


def open_own(data: bytes, where: str) -> Image.Image:
    """Return a picture of an output of ours, RGB; ValueError beginning with `where` for one that is damaged."""
    try:
        return open_rgb(data)
    except RejectedImage as rejected:
        raise ValueError(f"{where}: a picture in it is damaged: {rejected.reason.value}") from None


def _open(data: bytes, scale: int) -> tuple[Image.Image, Any]:
    """Return a loaded picture as it is stored, and what its EXIF says about its orientation."""
    with _rejecting():
        picture = _checked(data)
        if scale > 1:
            picture.draft(None, (picture.width // scale, picture.height // scale))  # does nothing to other formats
        picture.load()
        return picture, _orientation(picture)


def _checked(data: bytes) -> Image.Image:
    """Return a picture of which only the header was read, of a size that may be decoded."""
    if not data:
        raise RejectedImage(RejectReason.EMPTY_FILE)
    if len(data) > MAX_BYTES:
        raise RejectedImage(RejectReason.TOO_MANY_BYTES)
    check_parts(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # one for each of 65,535 entries of a damaged EXIF
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        picture = Image.open(io.BytesIO(data), formats=FORMATS)
    if picture.width * picture.height > MAX_PIXELS[str(picture.format)] or max(picture.size) > MAX_SIDE:
        raise RejectedImage(RejectReason.TOO_MANY_PIXELS)
    if picture.format == "JPEG":
        check_decoded(picture)
    return picture


def _orientation(picture: Image.Image) -> Any:
    """Return what the EXIF of an image says of its orientation, None where it says nothing."""
    check_exif(picture.info)  # a PNG may have it behind its pixels
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return picture.getexif().get(ORIENTATION)


@contextmanager
def _rejecting() -> Generator[None]:
    """Turn whatever Pillow raises for a picture into RejectedImage with its reason."""
    try:
        yield
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise RejectedImage(RejectReason.TOO_MANY_PIXELS) from None
    except UnidentifiedImageError:
        raise RejectedImage(RejectReason.NOT_AN_IMAGE) from None
    except MemoryError:
        raise  # the machine's fault, not the image's: never a reject
    except RejectedImage:
        raise
    except Exception as error:  # Pillow raises many kinds for damaged data; all of them concern this image alone
        if "out of memory" in str(error):  # of a codec, which says so in an OSError
            raise MemoryError(str(error)) from None
        cut = "truncated" in str(error).lower()
        raise RejectedImage(RejectReason.TRUNCATED if cut else RejectReason.CORRUPT) from None


def _rgb_bands(picture: Image.Image) -> list[Image.Image]:
    """Return red, green and blue of any picture, converted strip by strip."""
    bands = [Image.new("L", picture.size) for _ in "RGB"]
    height = max(1, STRIP_PIXELS // picture.width)
    for top in range(0, picture.height, height):
        strip = picture.crop((0, top, picture.width, min(top + height, picture.height)))
        for band, part in zip(bands, _to_rgb(strip).split(), strict=True):
            band.paste(part, (0, top))
    return bands


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):
        wide = np.asarray(picture, dtype=np.float64)
        return Image.fromarray(np.clip(np.rint(wide / 257), 0, 255).astype(np.uint8)).convert("RGB")
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        layered = picture.convert("RGBA")
        backdrop = Image.new("RGBA", layered.size, (*BACKDROP, 255))
        return Image.alpha_composite(backdrop, layered).convert("RGB")
    return picture.convert("RGB")


def _square(picture: Image.Image, size: int) -> Image.Image:
    return ImageOps.fit(picture, (size, size), Image.Resampling.BICUBIC)


def encode_png(image: NDArray[np.uint8]) -> bytes:
    """Return an RGB picture (h, w, 3) as PNG, the same bytes on every call."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()
