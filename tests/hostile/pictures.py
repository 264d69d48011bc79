"""Hostile and odd pictures, made here: {name: (bytes, the reject's reason, or None for a picture)}."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

ANY = "any"
"""Some reason: which one depends on where a file was cut."""
Corpus = dict[str, tuple[bytes, str | None]]


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(side: int = 48, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8))


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, depth: int = 8, colour: int = 2, rows: int | None = None, extra: bytes = b"") -> bytes:
    """Return a black PNG of any size; with fewer `rows` than its header claims."""
    samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    row = b"\0" * (1 + -(-width * samples * depth // 8))
    packer = zlib.compressobj(1)
    body = b"".join(packer.compress(row) for _ in range(height if rows is None else rows)) + packer.flush()
    palette = chunk(b"PLTE", b"\0\0\0" * 4) if colour == 3 else b""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + palette + extra + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def corpus() -> Corpus:
    """Return at least sixty files, each with what must come of it."""
    return {**cuts(), **foreign(), **bombs(), **damaged(), **odd()}


def cuts() -> Corpus:
    """JPEG, PNG and WebP at twenty places each."""
    found: Corpus = {}
    for kind in ("JPEG", "PNG", "WEBP"):
        data = encoded(noise(), kind)
        for number in range(1, 21):
            found[f"cut {kind} {number}"] = data[: len(data) * number // 21], ANY
    return found


def foreign() -> Corpus:
    """Files of other kinds, whatever they are called."""
    picture = noise()
    others = {kind: encoded(picture, kind) for kind in ("GIF", "BMP", "TIFF", "PPM", "PCX", "TGA", "ICO", "EPS", "PDF")}
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a"))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a", "b")
    others |= {
        "PSD": b"8BPS\0\1" + b"\0" * 6 + b"\0\3" + struct.pack(">II", 30000, 30000) + b"\0\10\0\3" + b"\0" * 20,
        "FITS": b"SIMPLE  =                    T".ljust(80) + b"NAXIS   =          99999999999".ljust(2800),
        "ghostscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%pipe%touch canary\n",
        "SVG": b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
        "HTML": b"<!doctype html><img src=x onerror=alert(1)>",
        "text": b"this is no picture\n" * 40,
        "ELF": b"\x7fELF\2\1\1" + b"\0" * 64,
        "pickle": pickle.dumps({"a": 1}),
        "tar": tar.getvalue(),
        "zip": packed.getvalue(),
        "gzip": gzip.compress(encoded(picture, "PNG")),
        "JPEG 2000": b"\0\0\0\x0cjP  \r\n\x87\n" + b"\0" * 64,
        "AVIF": b"\0\0\0 ftypavif\0\0\0\0avifmif1miaf" + b"\0" * 64,
        "zeros": b"\0" * 4096,
        "ones": b"\xff" * 4096,
    }
    return {f"foreign {name}": (data, "not_an_image") for name, data in others.items()}


def bombs() -> Corpus:
    """Small files that would become large."""
    text = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(100_000_000), 1))
    profile = chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(100_000_000), 1))
    black = {side: Image.new("RGB", (side, side)) for side in (3400, 4000)}
    webp = {side: encoded(picture, "WEBP", lossless=True, method=0) for side, picture in black.items()}
    return {
        "bomb header of 1.9 Gpx": (png(44000, 44000, rows=1), "too_many_pixels"),
        "bomb header of 4.6e18 px": (_claims(2**31 - 1), ANY),
        "bomb 179 Mpx": (png(13376, 13376, depth=1, colour=0), "too_many_pixels"),
        "bomb zTXt": (png(8, 8, extra=text), ANY),
        "bomb iCCP": (png(8, 8, extra=profile), ANY),
        "bomb of bytes": (b"\xff\xd8\xff" + bytes(33 * 2**20), "too_many_bytes"),
        "large RGB": (png(5600, 5600), None),
        "large RGBA": (png(5600, 5600, colour=6), None),
        "large grey with alpha": (png(5600, 5600, colour=4), None),
        "large 16-bit grey": (png(5600, 5600, depth=16, colour=0), None),
        "large palette with tRNS": (png(5600, 5600, colour=3, extra=chunk(b"tRNS", b"\0")), None),
        "large turned": (png(5600, 5600, extra=chunk(b"eXIf", exif(6))), None),
        "large CMYK": (encoded(Image.new("CMYK", (5600, 5600)), "JPEG"), None),
        "large WebP": (webp[3400], None),
        "larger WebP": (webp[4000], "too_many_pixels"),
        "WebP header of 268 Mpx": (_webp_claiming(16383, 16383), ANY),
        "line of 30 Mpx": (png(30_000_000, 1), "too_many_pixels"),
        "column of 30 Mpx": (png(1, 30_000_000, rows=1), "too_many_pixels"),
        "line of 65,535 px": (png(65535, 1), None),
    }


def _claims(side: int) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def exif(value: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif.tobytes()


def _webp_claiming(width: int, height: int) -> bytes:
    """Return a lossy WebP whose extended header claims another canvas."""
    frame = encoded(noise(16), "WEBP")[12:]
    canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBP" + b"VP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + canvas + frame
    return b"RIFF" + struct.pack("<I", len(body)) + body


def damaged() -> Corpus:
    """Files that are pictures up to some point."""
    data = encoded(noise(), "PNG")
    header = data.index(b"IHDR")
    swapped = bytearray(data)
    swapped[header + 9] = 7  # no such colour type
    crc = bytearray(data)
    crc[header + 20] ^= 1
    jpeg = encoded(noise(), "JPEG")
    return {
        "empty": (b"", "empty_file"),
        "JPEG header": (jpeg[:20], ANY),
        "PNG signature": (data[:8], ANY),
        "RIFF header": (b"RIFF\x10\0\0\0WEBPVP8 ", ANY),
        "PNG colour type 7": (bytes(swapped), ANY),
        "PNG wrong checksum": (bytes(crc), ANY),
        "PNG without IDAT": (data[: data.index(b"IDAT") - 4] + chunk(b"IEND", b""), ANY),
        "PNG chunk of 2 GiB": (data[:33] + struct.pack(">I", 2**31 - 1) + b"IDAT", ANY),
        "PNG of 0 pixels": (_claims(0), ANY),
        "JPEG of 0 pixels": (jpeg.replace(b"\x11\x08\0\x30\0\x30", b"\x11\x08\0\0\0\0"), ANY),
        "JPEG tables of nothing": (b"\xff\xd8" + b"\xff\xdb\0\2" * 2000 + b"\xff\xd9", ANY),
        "JPEG without end": (b"\xff\xd8" + b"\xff\xe1\xff\xff" + b"\0" * 9, ANY),
    }


def odd() -> Corpus:
    """Unusual files that are pictures, and stay so."""
    picture, clear = noise(), Image.new("RGBA", (20, 20))
    tall, wide = Image.new("RGB", (1, 4000)), Image.new("RGB", (4000, 1))
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    good: dict[str, bytes] = {
        "1 x 1": encoded(Image.new("RGB", (1, 1)), "PNG"),
        "1 x 4000": encoded(tall, "PNG"),
        "4000 x 1": encoded(wide, "PNG"),
        "trailing data": encoded(picture, "PNG") + b"<?php system('id') ?>" * 99,
        "polyglot JPEG": encoded(picture, "JPEG") + b"PK\3\4" + b"\0" * 99,
        "animated PNG": encoded(frames[0], "PNG", save_all=True, append_images=frames[1:]),
        "animated WebP": encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:]),
        "CMYK": encoded(picture.convert("CMYK"), "JPEG"),
        "progressive": encoded(picture, "JPEG", progressive=True),
        "one bit": encoded(picture.convert("1"), "PNG"),
        "palette": encoded(picture.convert("P"), "PNG", transparency=0),
        "clear": encoded(clear, "PNG"),
        "wrong profile": encoded(picture, "PNG", icc_profile=b"no profile"),
    }
    good |= {f"orientation {n}": encoded(picture, "JPEG", exif=exif(n)) for n in (0, *range(1, 9), 9, 60000)}
    return {f"odd {name}": (data, None) for name, data in good.items()}


def flips(count: int = 40) -> Iterator[bytes]:
    """Yield pictures with one bit turned, seeded: a picture or a reject may come of them."""
    rng = np.random.default_rng(0)
    for kind in ("JPEG", "PNG", "WEBP"):
        data = encoded(noise(), kind)
        for _ in range(count):
            copy = bytearray(data)
            copy[rng.integers(len(copy))] ^= 1 << rng.integers(8)
            yield bytes(copy)
