"""What an encoded image is made of, counted before anything of it is decoded.

A file within the limits of bytes and pixels can take minutes: every scan of a JPEG goes over all of its pixels, Pillow
takes microseconds for every segment or chunk, unpacks a profile of a megabyte as often as it comes, and makes an object
of every fraction of an EXIF. No encoder writes such files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from clarep_ray.data.records import RejectedImage, RejectReason

MAX_SCANNED = 512 * 10**6
"""Scans of a JPEG times its pixels. Encoders write 10 scans or so, 16 of the largest image are let through."""
LEAST_PIXELS = 65_536
"""What a scan counts for where the image is smaller: no more than 8,000 of them."""
MAX_PARTS = 20_000
"""Markers of a JPEG, chunks of a PNG; 32 MB in pieces of 8 kB, as libpng writes them, are 4,000."""
MAX_SKIPPED = 65_536
"""Bytes between a JPEG's segments, which Pillow reads one by one."""
MAX_PACKED = 64
"""Profiles and packed texts of a PNG: each may unpack to a megabyte."""
MAX_EXIF_BYTES, MAX_EXIF_SEGMENTS = 2**20, 64
"""A segment of a JPEG holds 64 kB, and Pillow joins them one by one."""
MAX_DECODED_BYTES = 256 * 2**20
"""Of a JPEG that is decoded from coefficients: all of them are in memory, beside the pixels."""
SOI, EOI, SOS, TEM, APP1 = 0xD8, 0xD9, 0xDA, 0x01, 0xE1
PROGRESSIVE = (0xC2, 0xCA)
FRAMES = (0xC0, 0xC1, 0xC2, 0xC9, 0xCA)
MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
"""In a scan, FF comes before 0 or a restart marker only."""
PNG = b"\x89PNG\r\n\x1a\n"
PACKED = (b"iCCP", b"zTXt", b"iTXt")


def check_parts(data: bytes) -> None:
    """Raise RejectedImage for an image of more parts than any encoder writes; damaged ones are left to the decoder."""
    if data.startswith(b"\xff\xd8"):
        _check_jpeg(data)
    elif data.startswith(PNG):
        _check_png(data)


def check_exif(info: Mapping[Any, Any]) -> None:
    """Raise RejectedImage where the EXIF of an opened image, as Pillow holds it, is too large to be parsed."""
    text = info.get("Raw profile type exif", "")
    if len(info.get("exif", b"")) > MAX_EXIF_BYTES or len(text) > 2 * MAX_EXIF_BYTES:
        raise _too_complex()


def check_decoded(picture: Any) -> None:
    """Raise RejectedImage for an opened JPEG of several scans that would take more than `MAX_DECODED_BYTES`."""
    if not picture.info.get("progressive"):
        return
    sampling = [(horizontal, vertical) for _, horizontal, vertical, _ in picture.layer]
    most = max(h for h, _ in sampling) * max(v for _, v in sampling)
    coefficients = 2 * sum(h * v for h, v in sampling) / most
    pixel = 1 if picture.mode == "L" else 4
    if picture.width * picture.height * (coefficients + pixel) > MAX_DECODED_BYTES:
        raise RejectedImage(RejectReason.TOO_MANY_PIXELS)


def _too_complex() -> RejectedImage:
    return RejectedImage(RejectReason.TOO_COMPLEX)


def _check_jpeg(data: bytes) -> None:
    position, parts, skipped, scans, pixels, components = 2, 0, 0, 0, LEAST_PIXELS, 0
    progressive, exif, segments = False, 0, 0
    while found := MARKER.search(data, position):
        code, start = data[found.end() - 1], found.end()
        parts += 1
        skipped += found.start() - position if not scans else 0
        if parts > MAX_PARTS or skipped > MAX_SKIPPED:
            raise _too_complex()
        if code == EOI:
            break
        if code in (SOI, TEM):
            position = start
            continue
        position = start + max(2, int.from_bytes(data[start : start + 2], "big"))
        if code in FRAMES:
            height, width = (int.from_bytes(data[start + at : start + at + 2], "big") for at in (3, 5))
            pixels, progressive = max(pixels, width * height), progressive or code in PROGRESSIVE
            components = max(components, data[start + 7] if start + 7 < len(data) else 0)
        elif code == SOS:
            scans += 1
            if not progressive and data[start + 2 : start + 3] == bytes([components]):
                break  # all components in one scan: the decoder looks for no other
            if scans > 1 and scans * pixels > MAX_SCANNED:
                raise _too_complex()
        elif code == APP1 and not scans and data[start + 2 : start + 8] == b"Exif\0\0":
            exif, segments = exif + position - start, segments + 1
            if exif > MAX_EXIF_BYTES or segments > MAX_EXIF_SEGMENTS:
                raise _too_complex()


def _check_png(data: bytes) -> None:
    position, parts, packed = len(PNG), 0, 0
    while position + 8 <= len(data) and (kind := data[position + 4 : position + 8]) != b"IEND":
        parts += 1
        packed += kind in PACKED
        if parts > MAX_PARTS or packed > MAX_PACKED:
            raise _too_complex()
        position += 12 + int.from_bytes(data[position : position + 4], "big")
