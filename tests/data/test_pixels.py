"""Every odd or hostile kind of picture: a documented conversion or a reason, never a crash."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from clarep_ray.data.pixels import decode_image, encode_png
from clarep_ray.data.records import RejectedImage


def encoded(array: np.ndarray, kind: str = "PNG", mode: str | None = None, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array, mode).save(buffer, kind, **options)
    return buffer.getvalue()


def gradient(height: int = 40, width: int = 60) -> np.ndarray:
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([rows * 6, columns * 4, np.full_like(rows, 90)], -1).astype(np.uint8)


def reason(data: bytes) -> str:
    with pytest.raises(RejectedImage) as caught:
        decode_image(data, 16)
    return caught.value.reason.value


def test_resize_keeps_the_middle_square() -> None:
    wide = np.zeros((40, 120, 3), np.uint8)
    wide[:, 40:80] = (250, 100, 20)
    middle = decode_image(encoded(wide), 16)
    assert middle.shape == (16, 16, 3)
    assert middle.dtype == np.uint8
    assert (middle[:, 2:14].astype(int) - (250, 100, 20)).__abs__().max() <= 2


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_the_three_formats_agree(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind == "JPEG" else {}
    picture = decode_image(encoded(gradient(), kind, **options), 16).astype(int)
    assert np.abs(picture - decode_image(encoded(gradient()), 16)).max() <= (12 if kind == "JPEG" else 0)


def test_cmyk_jpeg_becomes_rgb() -> None:
    data = io.BytesIO()
    Image.fromarray(gradient()).convert("CMYK").save(data, "JPEG", quality=95)
    picture = decode_image(data.getvalue(), 16).astype(int)
    assert np.abs(picture - decode_image(encoded(gradient()), 16)).max() <= 12


def test_sixteen_bit_greyscale_is_scaled_not_clipped() -> None:
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    picture = decode_image(encoded(ramp), 16).astype(int)
    assert picture[0].mean() < 20
    assert picture[-1].mean() > 235
    assert 120 < picture.mean() < 135


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "RGBA"])
def test_other_modes_become_rgb(mode: str) -> None:
    buffer = io.BytesIO()
    Image.fromarray(gradient()).convert(mode).save(buffer, "PNG")
    assert decode_image(buffer.getvalue(), 16).shape == (16, 16, 3)


def test_transparency_shows_mid_grey() -> None:
    clear = np.zeros((20, 20, 4), np.uint8)
    assert (decode_image(encoded(clear), 16) == 128).all()


def test_exif_orientation_is_applied() -> None:
    picture = Image.fromarray(gradient(40, 40))
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", exif=exif)
    expected = np.asarray(picture.rotate(-90))
    assert np.array_equal(decode_image(buffer.getvalue(), 40), expected)


def test_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    buffer = io.BytesIO()
    frames[0].save(buffer, "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    assert (decode_image(buffer.getvalue(), 16) == (255, 0, 0)).all()


def test_png_encoding_is_lossless_and_repeatable() -> None:
    picture = gradient(16, 16)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(encode_png(picture)), formats=("PNG",))), picture)
    assert encode_png(picture) == encode_png(picture)


def png_of_size(width: int, height: int) -> bytes:
    """Return a tiny PNG whose header claims any size."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(b"\0" * 64))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b"")


def test_bad_files_are_rejected_with_their_reason() -> None:
    jpeg = encoded(gradient(200, 200), "JPEG")
    assert reason(b"") == "empty_file"
    assert reason(b"this is a text file named .png\n" * 9) == "not_an_image"
    assert reason(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n") == "not_an_image"
    assert reason(encoded(gradient(), "GIF")) == "not_an_image"
    assert reason(jpeg[: len(jpeg) // 2]) == "truncated"
    assert reason(png_of_size(40_000, 40_000)) == "too_many_pixels"
    assert reason(png_of_size(8_000, 8_000)) == "too_many_pixels"
    assert reason(b"\xff\xd8" + b"\0" * (32 * 2**20)) == "too_many_bytes"


def test_every_truncation_and_many_bit_flips_end_in_a_picture_or_a_reason() -> None:
    rng = np.random.default_rng(0)
    for kind in ("JPEG", "PNG", "WEBP"):
        data = encoded(gradient(), kind)
        cuts = [data[:n] for n in range(0, len(data), max(1, len(data) // 40))]
        flips = []
        for _ in range(60):
            damaged = bytearray(data)
            damaged[rng.integers(len(data))] ^= 1 << rng.integers(8)
            flips.append(bytes(damaged))
        for sample in cuts + flips:
            try:
                assert decode_image(sample, 16).shape == (16, 16, 3)
            except RejectedImage:
                continue
