"""Decode untrusted image bytes into square RGB pictures, by one documented rule per kind of file."""

from __future__ import annotations

import io
import warnings

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from clarep_ray.data.records import RejectedImage, RejectReason

FORMATS = ("JPEG", "PNG", "WEBP")
MAX_BYTES = 32 * 2**20
MAX_PIXELS = 32 * 10**6
BACKDROP = (128, 128, 128)
"""What shows through transparent pixels."""


def decode_image(data: bytes, size: int) -> NDArray[np.uint8]:
    """Return an RGB picture (size, size, 3): shorter side resized to `size` (bicubic), centre crop.

    EXIF orientation is applied; transparency is laid on mid-grey; 16-bit greyscale is scaled to 8 bits; CMYK and
    other modes are converted to RGB by Pillow; of an animation the first frame is taken. Only JPEG, PNG and
    WebP are opened, whatever the file is called. Raises RejectedImage with the reason.
    """
    return np.asarray(_square(open_rgb(data), size))


def open_rgb(data: bytes) -> Image.Image:
    """Return a picture as it is stored, by the same rules and of its own size. Raises RejectedImage."""
    return _to_rgb(_open(data))


def _open(data: bytes) -> Image.Image:
    if not data:
        raise RejectedImage(RejectReason.EMPTY_FILE)
    if len(data) > MAX_BYTES:
        raise RejectedImage(RejectReason.TOO_MANY_BYTES)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(data), formats=FORMATS)
        if picture.width * picture.height > MAX_PIXELS:
            raise RejectedImage(RejectReason.TOO_MANY_PIXELS)
        picture.load()
        return ImageOps.exif_transpose(picture)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise RejectedImage(RejectReason.TOO_MANY_PIXELS) from None
    except UnidentifiedImageError:
        raise RejectedImage(RejectReason.NOT_AN_IMAGE) from None
    except MemoryError:
        raise  # the machine's fault, not the image's: never a reject
    except RejectedImage:
        raise
    except Exception as error:  # Pillow raises many kinds for damaged data; all of them concern this image alone
        cut = "truncated" in str(error).lower()
        raise RejectedImage(RejectReason.TRUNCATED if cut else RejectReason.CORRUPT) from None


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
