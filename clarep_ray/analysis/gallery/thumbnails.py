"""Pictures small enough for a page: WebP within a budget of bytes, as sharp as it allows."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from PIL import Image

from clarep_ray.data.pixels import open_own


class Picture(NamedTuple):
    """One picture of a sample: its column on the page, the sample's key, and its PNG."""

    column: str
    key: str
    png: bytes


@dataclass(frozen=True)
class ThumbnailSize:
    """Longest edge in pixels, and WebP's quality; None keeps every pixel."""

    edge: int
    quality: int | None

    def __str__(self) -> str:
        return f"{self.edge} px, " + ("lossless" if self.quality is None else f"WebP quality {self.quality}")


LOSSLESS_EDGE = 64
"""Pictures up to this edge are shown pixel by pixel where the budget allows."""
SIZES = (
    *((256, 75), (256, 55), (192, 60), (192, 45), (160, 50), (160, 40), (128, 50), (128, 40)),
    *((112, 40), (96, 50), (96, 40), (80, 45), (64, 50), (64, 35), (48, 45)),
)
"""Edge and quality; at the same bytes more pixels of less quality look better than the reverse."""
ENOUGH, HOPELESS = 256, 1.25
"""After so many pictures a size that is heading for this share of the budget is given up."""
OVERHEAD = 4
"""Bytes of quotes and separators around one picture in the page's JSON."""


def thumbnail_sizes(edge: int) -> list[ThumbnailSize]:
    """Return the sizes to try for pictures of this edge, the sharpest first; none enlarges."""
    lossless = [ThumbnailSize(edge, None)] if edge <= LOSSLESS_EDGE else []
    return [*lossless, *dict.fromkeys(ThumbnailSize(min(edge, most), quality) for most, quality in SIZES)]


def make_thumbnails(
    read: Callable[[], Iterable[Picture]], count: int, edge: int, max_bytes: int
) -> tuple[ThumbnailSize, dict[tuple[str, str], str]] | None:
    """Return the sharpest size at which all pictures fit into `max_bytes`, and {(column, key): WebP in base64}.

    `read` is called once for every size that is tried, and yields about `count` pictures. None where the pictures do
    not fit at any size.
    """
    for size in thumbnail_sizes(edge):
        made: dict[tuple[str, str], str] = {}
        used = 0
        for picture in read():
            encoded = made[picture.column, picture.key] = thumbnail(picture.png, size)
            used += len(encoded) + OVERHEAD
            heading = used * count / len(made) if len(made) >= ENOUGH else 0.0
            if used > max_bytes or heading > HOPELESS * max_bytes:
                break
        else:
            return size, made
    return None


def thumbnail(png: bytes, size: ThumbnailSize) -> str:
    """Return a picture as WebP in base64, at most `size.edge` pixels long."""
    picture = open_own(png, "output")
    picture.thumbnail((size.edge, size.edge), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    if size.quality is None:
        picture.save(buffer, "WEBP", lossless=True)
    else:
        picture.save(buffer, "WEBP", quality=size.quality, method=4)
    return base64.b64encode(buffer.getvalue()).decode()
