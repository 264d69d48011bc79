"""What an encoded image is made of, counted before anything of it is decoded.

A file within the limits of bytes and pixels can take minutes: every scan of a JPEG goes over all of its pixels, Pillow
takes microseconds for every segment or chunk and unpacks a profile of a megabyte as often as it comes, and an EXIF
directory can ask for a copy of the same bytes 65,535 times. No encoder writes such files.
"""

from __future__ import annotations

import re
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
MAX_DECODED_BYTES = 256 * 2**20
"""Of a JPEG that is decoded from coefficients: all of them are in memory, beside the pixels."""
SOI, EOI, SOS, TEM, APP1 = 0xD8, 0xD9, 0xDA, 0x01, 0xE1
PROGRESSIVE = (0xC2, 0xCA)
FRAMES = (0xC0, 0xC1, 0xC2, 0xC9, 0xCA)
MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
"""In a scan, FF comes before 0 or a restart marker only."""
PNG = b"\x89PNG\r\n\x1a\n"
PACKED = (b"iCCP", b"zTXt", b"iTXt")
WIDTHS = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
"""Bytes of an EXIF value by its type."""


def check_parts(data: bytes) -> None:
    """Raise RejectedImage for an image of more parts than any encoder writes; damaged ones are left to the decoder."""
    if data.startswith(b"\xff\xd8"):
        _check_jpeg(data)
    elif data.startswith(PNG):
        _check_png(data)


def check_exif(info: dict[Any, Any]) -> None:
    """Raise RejectedImage where the EXIF of an opened image, as Pillow holds it, claims more bytes than it has."""
    exif = info.get("exif")
    if exif is None and isinstance(text := info.get("Raw profile type exif"), str):
        try:
            exif = bytes.fromhex("".join(text[: 3 * MAX_EXIF_BYTES].split("\n")[3:]))
        except ValueError:
            return
    if isinstance(exif, bytes):
        _check_exif(exif)


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
    progressive, exif = False, list[bytes]()
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
            exif.append(data[start + 8 : position])
            if len(exif) > MAX_EXIF_SEGMENTS:
                raise _too_complex()
    if exif:
        _check_exif(b"".join(exif))


def _check_png(data: bytes) -> None:
    position, parts, packed = len(PNG), 0, 0
    while position + 8 <= len(data) and (kind := data[position + 4 : position + 8]) != b"IEND":
        parts += 1
        packed += kind in PACKED
        if parts > MAX_PARTS or packed > MAX_PACKED:
            raise _too_complex()
        position += 12 + int.from_bytes(data[position : position + 4], "big")


def _check_exif(exif: bytes) -> None:
    """Raise RejectedImage where the entries of the first directory are larger together than all of the bytes."""
    if len(exif) > MAX_EXIF_BYTES:
        raise _too_complex()
    exif = exif.removeprefix(b"Exif\0\0")
    order = "little" if exif[:2] == b"II" else "big"
    start = int.from_bytes(exif[4:8], order)
    claimed = 0
    for entry in range(start + 2, start + 2 + 12 * int.from_bytes(exif[start : start + 2], order), 12):
        kind, count = int.from_bytes(exif[entry + 2 : entry + 4], order), int.from_bytes(exif[entry + 4 : entry + 8], order)
        size = WIDTHS.get(kind, 0) * count
        claimed += size if 4 < size <= len(exif) else 0  # more than there is is passed over
        if claimed > 2 * len(exif):
            raise _too_complex()
