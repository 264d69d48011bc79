"""Files within every limit of bytes that would take a careless reader minutes or gigabytes, made here.

{name: Flood}. Each is small or quickly made; a few are ordinary files of the same kind, which must stay readable.
"""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from tests.data.trees import picture_bytes
from tests.hostile import parquet, tars
from tests.hostile.judge import MAX_CPU_S, MAX_GROWTH, Verdict, judge
from tests.hostile.pictures import chunk, encoded, noise, png
from tests.hostile.settings import replaced


@dataclass(frozen=True)
class Flood:
    """A file, who reads it, and what must come of it: `read` or `refused`."""

    reader: str
    outcome: str
    make: Callable[[], bytes]
    suffix: str = ""
    times: float = 1.0
    """How many times the usual limit of seconds it may take: what is linear in the rows or bytes of a large file."""


NIGHTLY = (
    *(f"tokenizer of {length} tokens" for length in (3 * 10**7, -5, 1.5)),
    "vocabulary of 500,000 tokens",
    "merges of 60 MB",
    "tokenizer.json with a pattern without end",
    "special_tokens_map.json of 8 MB",
    "encoder of no heads",
    "encoder of a type that is code",
    "encoder of 10^7 positions",
    "UNet of 100,000 blocks",
    "UNet of no groups",
    "UNet of a NaN",
    "autoencoder of 10^9 channels",
    "scheduler of a NaN",
    "DiT of 20,000 pixels a side",
    "U-ViT of 20,000 pixels a side",
    "EDM of 10^6 pixels a side",
    "timm of 100,000 layers",
    "timm of a large network",
    "sequential JPEG of 2,000 scans",
    "PNG of 10,000 international texts",
    "safetensors of 100,000 tensors",
    "list of 60 MB of line breaks",
    "CSV with a first line of 60 MB",
    "checkpoint of 8,000,000 instructions",
    "CIFAR batch of 4,000,000 instructions",
    "progressive CMYK JPEG of 31 Mpx",
    "progressive JPEG of 31 Mpx, 4:4:4",
    "16-bit RGBA PNG of 31 Mpx",
    "Parquet of 6,000 groups of one row",
    "Parquet of 10,000 groups of one row",
    "Parquet of 150 columns in 150 groups",
    "Parquet of 1 GB in a page of which its footer says 100 bytes",
    "checkpoint of 60,000 entries",
    "safetensors of 400,000 notes",
    "safetensors of 50 MB of notes",
    "tar of 100,000 empty members",
    "tar of 300 headers of 10,000 records",
    "CSV of 15,000,000 lines",
    "CSV of 60 MB of line breaks",
)
"""What takes longest to make or to read, of kinds of which others are read in every run."""


def images() -> dict[str, Flood]:
    """Return images whose decoding takes long or much by what they are made of, not by their size."""
    made: dict[str, tuple[str, Callable[[], bytes]]] = {
        "progressive JPEG of 8,000 scans": ("refused", lambda: scans(1000, 8000)),
        "progressive JPEG of 500,000 scans": ("refused", lambda: scans(16, 500_000)),
        "JPEG of 31 Mpx and 64 scans": ("refused", lambda: scans(5600, 64)),
        "JPEG of 31 Mpx and 10 scans": ("read", lambda: scans(5600, 10)),
        "JPEG of 1 Mpx and 100 scans": ("read", lambda: scans(1000, 100)),
        "sequential JPEG of 2,000 scans": ("refused", lambda: sequential(2000, 2000)),
        "progressive CMYK JPEG of 31 Mpx": (
            "refused",
            lambda: encoded(Image.new("CMYK", (5600, 5600)), "JPEG", progressive=True),
        ),
        "progressive JPEG of 31 Mpx, 4:4:4": (
            "refused",
            lambda: encoded(Image.new("RGB", (5600, 5600)), "JPEG", progressive=True, subsampling=0),
        ),
        "progressive JPEG of 31 Mpx, 4:2:0": (
            "read",
            lambda: encoded(Image.new("RGB", (5600, 5600)), "JPEG", progressive=True, subsampling=2),
        ),
        "JPEG of 300,000 comments": ("refused", lambda: after_start(b"\xff\xfe\0\x02" * 300_000)),
        "JPEG of 300,000 EXIF segments": ("refused", lambda: after_start(segment(0xE1, b"Exif\0\0ab") * 300_000)),
        "JPEG of 300 EXIF segments of 64 kB": (
            "refused",
            lambda: after_start(segment(0xE1, b"Exif\0\0" + bytes(65_000)) * 300),
        ),
        "JPEG of 255 segments of profile": (
            "read",
            lambda: after_start(
                b"".join(segment(0xE2, b"ICC_PROFILE\0" + bytes([n, 255]) + bytes(60_000)) for n in range(1, 256))
            ),
        ),
        "JPEG of 100,000 profile segments": (
            "refused",
            lambda: after_start(segment(0xE2, b"ICC_PROFILE\0\1\1" + bytes(99)) * 100_000),
        ),
        "JPEG of 200,000 tables": ("refused", lambda: after_start(segment(0xDB, b"\0" + bytes([1]) * 64) * 200_000)),
        "JPEG behind 8 MB of fill bytes": ("refused", lambda: after_start(b"\xff" * 8_000_000)),
        "JPEG whose thumbnail has 8,000 scans": ("read", lambda: after_start(segment(0xE1, b"\xff\xda" * 32_000))),
        "JPEG whose EXIF entries share 60 kB": (
            "read",
            lambda: after_start(segment(0xE1, shared_exif(400, 60_000))),
        ),
        "PNG of 1,000,000 chunks": ("refused", lambda: png(8, 8, extra=chunk(b"teSt", b"") * 1_000_000)),
        "PNG of 500,000 texts": ("refused", lambda: png(8, 8, extra=chunk(b"tEXt", b"a\0b") * 500_000)),
        "PNG of 10,000 profiles of 1 MB": (
            "refused",
            lambda: png(8, 8, extra=chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(1_000_000), 9)) * 10_000),
        ),
        "PNG of 10,000 packed texts": (
            "refused",
            lambda: png(8, 8, extra=chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(6_000), 9)) * 10_000),
        ),
        "PNG of 10,000 international texts": (
            "refused",
            lambda: png(8, 8, extra=chunk(b"iTXt", b"a\0\1\0\0\0" + zlib.compress(bytes(6_000), 9)) * 10_000),
        ),
        "PNG whose EXIF entries share 4 MB": (
            "refused",
            lambda: png(8, 8, extra=chunk(b"eXIf", shared_exif(60_000, 4_000_000)[6:])),
        ),
        "PNG whose orientation is 2,000,000 fractions": (
            "refused",
            lambda: png(8, 8, extra=chunk(b"eXIf", one_tag_exif(0x0112, 5, 2_000_000, 8))),
        ),
        "PNG with EXIF in hexadecimal text": (
            "read",
            lambda: png(8, 8, extra=chunk(b"tEXt", b"Raw profile type exif\0\n\n\n" + hex_exif())),
        ),
        "PNG of 300,000 pieces of 1 byte": ("refused", lambda: pieces(400, 1)),
        "PNG of 31 Mpx in pieces of 8 kB": ("read", lambda: pieces(5600, 8192)),
        "interlaced PNG of 31 Mpx": ("read", lambda: interlaced(5600)),
        "16-bit RGBA PNG of 31 Mpx": ("read", lambda: png(5600, 5600, depth=16, colour=6)),
        "PNG of 31 Mpx that stops at once": ("read", lambda: png(5600, 5600, rows=1)),
        "animated PNG of 200,000 frames": ("refused", lambda: apng(200_000)),
        "WebP of 1,000,000 chunks": ("read", lambda: webp_chunks(b"abcd", b"", 1_000_000)),
        "WebP of 300,000 frames": ("read", lambda: webp_frames(300_000)),
        "WebP whose EXIF entries share 4 MB": (
            "refused",
            lambda: webp_chunks(b"EXIF", shared_exif(60_000, 4_000_000)[6:], 1, flags=8),
        ),
        "WebP of 30 MB of XMP": ("read", lambda: webp_chunks(b"XMP ", b"<" * 30_000_000, 1, flags=4)),
    }
    return {name: Flood("open_rgb", outcome, make) for name, (outcome, make) in made.items()}


def scans(side: int, count: int, progressive: bool = True) -> bytes:
    """Return a grey JPEG whose last scan comes `count` times in all."""
    data = encoded(Image.new("L", (side, side), 90), "JPEG", progressive=progressive)
    last = data.rindex(b"\xff\xda")
    scan = data[last:-2][:60]
    return data[:-2] + scan * (count - data.count(b"\xff\xda")) + data[-2:]


def sequential(side: int, count: int) -> bytes:
    """Return a JPEG of coded colours one after another, the first of which comes `count` times."""
    data = encoded(Image.new("RGB", (side, side), (90, 9, 200)), "JPEG", subsampling=0)
    last = data.rindex(b"\xff\xda")
    scan = b"\xff\xda\0\x08\x01%c\0\0\x3f\0" + data[last + 14 : last + 40].replace(b"\xff", b"\xfe")
    return data[:last] + scan % 1 * (count - 2) + scan % 2 + scan % 3 + data[-2:]


def segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def after_start(extra: bytes) -> bytes:
    data = encoded(noise(16), "JPEG")
    return data[:20] + extra + data[20:]  # behind JFIF's own segment


def shared_exif(entries: int, size: int) -> bytes:
    """Return EXIF whose entries all have the same bytes: each reader of an entry has a copy of its own."""
    head = b"II*\0" + struct.pack("<IH", 8, entries)
    listed = b"".join(struct.pack("<HHII", 0xC000 + n % 0x3000, 7, size, 0) for n in range(entries))
    return b"Exif\0\0" + (head + listed).ljust(size, b"\0")


def one_tag_exif(tag: int, kind: int, count: int, width: int) -> bytes:
    head = b"II*\0" + struct.pack("<IHHHIII", 8, 1, tag, kind, count, 26, 0)
    return head + b"\1" * (count * width)


def hex_exif() -> bytes:
    return shared_exif(20_000, 300_000).hex().encode()


def pieces(side: int, size: int) -> bytes:
    """Return a PNG whose pixels come in pieces of some bytes."""
    packed = zlib.compress(
        np.random.default_rng(0).bytes(side * (side * 3 + 1)) if side < 1000 else bytes(side * (side * 3 + 1)), 1
    )
    body = b"".join(
        chunk(b"IDAT", packed[start : start + size]) for start in range(0, min(len(packed), 300_000 * size), size)
    )
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + body + chunk(b"IEND", b"")


def interlaced(side: int) -> bytes:
    packer = zlib.compressobj(1)
    body = b""
    for x, y, dx, dy in (
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    ):
        row = bytes(1 + 3 * len(range(x, side, dx)))
        body += b"".join(packer.compress(row) for _ in range(y, side, dy))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 1))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", body + packer.flush()) + chunk(b"IEND", b"")


def apng(frames: int) -> bytes:
    """Return an animation of one pixel a frame."""
    data = zlib.compress(b"\0\0\0\0")
    body = b"".join(
        chunk(b"fcTL", struct.pack(">IIIIIHHBB", 2 * n + 1, 1, 1, 0, 0, 1, 10, 0, 0))
        + chunk(b"fdAT", struct.pack(">I", 2 * n + 2) + data)
        for n in range(frames)
    )
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)) + chunk(
        b"acTL", struct.pack(">II", frames, 0)
    )
    first = chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 1, 1, 0, 0, 1, 10, 0, 0)) + chunk(b"IDAT", data)
    return b"\x89PNG\r\n\x1a\n" + header + first + body + chunk(b"IEND", b"")


def webp_chunks(kind: bytes, body: bytes, count: int, flags: int = 0) -> bytes:
    frame = encoded(noise(16), "WEBP")[12:]
    more = (kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)) * count
    return _riff(flags, frame + more)


def webp_frames(count: int) -> bytes:
    frame = encoded(noise(16), "WEBP", lossless=True)[12:]
    small = encoded(Image.new("RGB", (1, 1)), "WEBP", lossless=True)[12:]
    first = b"\0" * 6 + (15).to_bytes(3, "little") * 2 + (1).to_bytes(3, "little") + b"\0" + frame
    other = b"\0" * 6 + b"\0" * 6 + (1).to_bytes(3, "little") + b"\0" + small
    frames = [b"ANMF" + struct.pack("<I", len(each)) + each for each in (first, other)]
    return _riff(2, b"ANIM" + struct.pack("<IIH", 6, 0, 0) + frames[0] + frames[1] * (count - 1))


def _riff(flags: int, chunks: bytes) -> bytes:
    side = (15).to_bytes(3, "little")
    body = b"WEBP" + b"VP8X" + struct.pack("<IB3x", 10, flags) + side + side + chunks
    return b"RIFF" + struct.pack("<I", len(body)) + body


def containers() -> dict[str, Flood]:
    """Return tars, Parquet files, lists, arrays and pickles."""
    one = {"image": [picture_bytes(0)], "label": [0]}

    def rows(count: int, **options: Any) -> bytes:
        table = pa.table({"image": [picture_bytes(0)] * count, "label": [0] * count})
        return parquet.written(table, **options)

    return {
        "Parquet of 2,000 groups of one row": Flood(
            "parquet", "read", lambda: rows(2000, row_group_size=1), ".parquet", 2.0
        ),
        "Parquet of 6,000 groups of one row": Flood(
            "parquet", "read", lambda: rows(6000, row_group_size=1), ".parquet", 6.0
        ),
        "Parquet of 10,000 groups of one row": Flood(
            "parquet", "refused", lambda: rows(10_000, row_group_size=1), ".parquet"
        ),
        "Parquet of 6,000 columns": Flood(
            "parquet",
            "refused",
            lambda: parquet.written(pa.table(one | {f"c{n}": [0] for n in range(6_000)})),
            ".parquet",
        ),
        "Parquet of 150 columns in 150 groups": Flood(
            "parquet",
            "refused",
            lambda: parquet.written(pa.table({f"c{n}": [0] * 150 for n in range(150)}), row_group_size=1),
            ".parquet",
        ),
        "Parquet of 1 GB in a page of which its footer says 100 bytes": Flood(
            "parquet", "refused", understated, ".parquet"
        ),
        "Parquet of a label of 1 MB in 100,000 rows": Flood(
            "parquet",
            "refused",
            lambda: parquet.written(
                pa.table(
                    {
                        "image": random_bytes(100_000),
                        "label": pa.DictionaryArray.from_arrays(np.zeros(100_000, np.int32), ["x" * 1_000_000]).cast(
                            pa.dictionary(pa.int32(), pa.string())
                        ),
                    }
                )
            ),
            ".parquet",
        ),
        "Parquet nested 2,000 deep": Flood("parquet", "refused", lambda: parquet.written(nested(200)), ".parquet"),
        "index of an id of 1 MB in 100,000 rows": Flood("index", "refused", index_bomb, ".parquet"),
        "CSV with a field of 200 kB": Flood(
            "labels file", "refused", lambda: b"name,class\na," + b"x" * 200_000, ".csv"
        ),
        "CSV with a first line of 60 MB": Flood("labels file", "refused", lambda: b"a," * 30_000_000, ".csv"),
        "CSV of 60 MB of line breaks": Flood("labels file", "refused", lambda: b"\n" * 60_000_000, ".csv"),
        "CSV of 15,000,000 lines": Flood("labels file", "refused", lambda: b"a,b\n" * 15_000_000, ".csv"),
        "CSV of 40 MB and one wide letter": Flood(
            "labels file", "refused", lambda: b"a,\xf0\x9f\x98\x80\n" + b"x" * 40_000_000, ".csv"
        ),
        "CSV with NULs": Flood("labels file", "refused", lambda: b"name,class\na\0b,\0\n" + bytes(1_000_000), ".csv"),
        "CSV in UTF-16": Flood("labels file", "refused", lambda: "name,class\na,b\n".encode("utf-16"), ".csv"),
        "CSV of 300,000 columns": Flood("labels file", "refused", lambda: b"a," * 300_000 + b"\n", ".csv"),
        "list of 60 MB of line breaks": Flood("classes file", "refused", lambda: b"\n" * 60_000_000, ".txt"),
        "list of 8,000,000 classes": Flood("classes file", "refused", lambda: b"n1\n" * 8_000_000, ".txt"),
        "list that names a file 60,000 times": Flood("shard list", "refused", lambda: b"./\n" * 60_000, ".txt"),
        "MAT file that claims 2^31 classes": Flood("meta.mat", "refused", mat_claims, ".mat"),
        "MAT file of 60 MB in 60 kB": Flood("meta.mat", "refused", lambda: mat_packed(bytes(60_000_000)), ".mat"),
        "MAT file of 400,000 small arrays": Flood(
            "meta.mat", "refused", lambda: mat_packed(mat_cells(400_000)), ".mat"
        ),
        "tar of 100,000 empty members": Flood(
            "tar_index",
            "read",
            lambda: b"".join(tars.block(b"00000000000\0", name=b"%d.png" % n) for n in range(100_000)) + tars.END,
            ".tar",
        ),
        "tar of 300 headers of 10,000 records": Flood(
            "tar_index",
            "read",
            lambda: b"".join(pax_flood() + tars.member(f"{n}.png", b"x") for n in range(300)) + tars.END,
            ".tar",
            2.0,
        ),
        "array that claims 2^40 numbers": Flood("npy", "refused", lambda: npy_claims((2**40,))),
        "array of 2^60 items of no byte": Flood("npy", "refused", lambda: npy_claims((2**60,), "|V0")),
        "labels of CIFAR-10-C of 10^9 numbers": Flood(
            "cifar10_c labels", "refused", lambda: npy_claims((10**9,), "|u1")
        ),
        "CIFAR batch of 4,000,000 instructions": Flood(
            "cifar10", "refused", lambda: b"\x80\x02" + b"N0" * 1_990_000 + b"N."
        ),
        "CIFAR batch of 3,000,000 lists": Flood("cifar10", "refused", lambda: b"\x80\x02(" + b"]" * 3_000_000 + b"l."),
        "CIFAR batch nested 1,000,000 deep": Flood(
            "cifar10", "refused", lambda: b"\x80\x02" + b"]" * 1_000_000 + b"a" * 999_999 + b"."
        ),
    }


def understated() -> bytes:
    """Return a Parquet file whose footer says that a column is small; its page says 1 GB."""
    size = 2**30
    table = pa.table({"image": pa.array([bytes(size)], pa.large_binary()), "label": [0]})
    data = parquet.written(table, compression="zstd", use_dictionary=False, write_statistics=False)
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    head, tail = data[:footer], data[footer:]
    place = next((n for n in range(len(tail)) if size <= _zigzag(tail[n : n + 5]) < size + 1000), None)
    assert place is not None
    return head + tail[:place] + bytes([0xC8, 0x81, 0x80, 0x80, 0x00]) + tail[place + 5 :]


def _zigzag(data: bytes) -> int:
    return sum((byte & 127) << 7 * n for n, byte in enumerate(data)) >> 1 if data[-1:] < b"\x80" else -1


def nested(depth: int) -> pa.Table:
    kind: Any = pa.int8()
    for _ in range(depth):
        kind = pa.struct([pa.field("a", kind)])
    return pa.table({"image": pa.nulls(1, kind), "label": [0]})


def random_bytes(count: int) -> pa.Array:
    """Return items of eight bytes: a file with fewer bytes than rows is refused before anything else."""
    data = np.random.default_rng(0).bytes(8 * count)
    return pa.array([data[start : start + 8] for start in range(0, len(data), 8)])


def index_bomb() -> bytes:
    from clarep_ray.data.clarep_index import INDEX_SCHEMA

    count = 100_000
    columns = {item.name: pa.nulls(count, item.type) for item in INDEX_SCHEMA}
    columns["id"] = pa.DictionaryArray.from_arrays(np.zeros(count, np.int32), ["x" * 1_000_000])
    columns["sha256"] = pa.array([item.hex() for item in random_bytes(count).to_pylist()])
    return parquet.written(pa.table(columns), store_schema=False)


def mat_claims() -> bytes:
    """Return a MAT file of 1 x 2^31 - 1 structs in 300 bytes."""
    names = b"".join(name.ljust(32, b"\0") for name in (b"ILSVRC2012_ID", b"WNID", b"num_children"))
    return _mat(
        _matrix(
            2, b"synsets", (1, 2**31 - 1), struct.pack("<HHI", 5, 4, 32) + struct.pack("<II", 1, len(names)) + names
        )
    )


def mat_cells(count: int) -> bytes:
    empty = _matrix(6, b"", (0, 0), struct.pack("<II", 9, 0))
    return _matrix(1, b"synsets", (1, count), empty * count)


def mat_packed(body: bytes) -> bytes:
    packed = zlib.compress(body, 9)
    return _mat(struct.pack("<II", 15, len(packed)) + packed)


def _mat(body: bytes) -> bytes:
    return b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\1IM" + body


def _matrix(kind: int, name: bytes, shape: tuple[int, int], rest: bytes) -> bytes:
    body = struct.pack("<IIII", 6, 8, kind, 0) + struct.pack("<IIii", 5, 8, *shape)
    body += struct.pack("<II", 1, len(name)) + name + b"\0" * (-len(name) % 8) + rest
    return struct.pack("<II", 14, len(body)) + body


def pax_flood() -> bytes:
    body = b"6 a=b\n" * 10_000
    return tars.block(f"{len(body):011o}\0".encode(), b"x", b"PaxHeader") + tars.padded(body)


def npy_claims(shape: tuple[int, ...], kind: str = "<f4") -> bytes:
    header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header


def checkpoints() -> dict[str, Flood]:
    """Return files as torch.save writes them."""
    return {
        "checkpoint of 60,000 entries": Flood("convert uvit", "refused", lambda: archive(60_000)),
        "checkpoint of 3,000,000 lists": Flood(
            "convert uvit", "refused", lambda: archive(0, b"\x80\x02(" + b"]" * 3_000_000 + b"l.")
        ),
        "checkpoint of 8,000,000 instructions": Flood(
            "convert uvit", "refused", lambda: archive(0, b"\x80\x02" + b"]0" * 4_000_000 + b"].")
        ),
        "legacy checkpoint of 8,000,000 instructions": Flood(
            "convert uvit", "refused", lambda: legacy(b"\x80\x02" + b"]0" * 4_000_000 + b"].")
        ),
        "network pickle of 4,000,000 instructions": Flood(
            "convert edm", "refused", lambda: b"\x80\x02" + b"N0" * 1_990_000 + b"N."
        ),
    }


def archive(entries: int, pickled: bytes | None = None) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made:
        made.writestr("a/data.pkl", pickled or pickle.dumps({}))
        made.writestr("a/version", "3")
        for number in range(entries):
            made.writestr(f"a/data/{number}", b"")
    return buffer.getvalue()


def legacy(pickled: bytes) -> bytes:
    return pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({}, 2) + pickled


def tensors(header: bytes, data: bytes = b"") -> bytes:
    return len(header).to_bytes(8, "little") + header + data


def weights() -> dict[str, Flood]:
    """Return safetensors files; each replaces that of a good student."""
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    many = lambda count: json.dumps({f"t{n}": empty for n in range(count)}).encode()  # noqa: E731
    made: dict[str, Callable[[], bytes]] = {
        "safetensors of 100,000 tensors": lambda: tensors(many(100_000)),
        "safetensors of 50,000 tensors": lambda: tensors(many(50_000)),
        "safetensors of a shape of 1,000,000 ones": lambda: tensors(
            json.dumps({"a": {"dtype": "F32", "shape": [1] * 1_000_000, "data_offsets": [0, 4]}}).encode(), bytes(4)
        ),
        "safetensors of 50 MB of notes": lambda: tensors(
            json.dumps({"__metadata__": {"a": "x" * 50_000_000}}).encode()
        ),
        "safetensors of 400,000 notes": lambda: tensors(
            json.dumps({"__metadata__": {str(n): "" for n in range(400_000)}}).encode()
        ),
        "safetensors whose shape overflows": lambda: tensors(
            json.dumps({"a": {"dtype": "F32", "shape": [2**32, 2**32, 4], "data_offsets": [0, 0]}}).encode()
        ),
        "safetensors whose tensors overlap": lambda: tensors(
            json.dumps({name: {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]} for name in ("a", "b")}).encode(),
            bytes(16),
        ),
        "safetensors of an unknown type": lambda: tensors(
            json.dumps({"a": {"dtype": "F99", "shape": [4], "data_offsets": [0, 16]}}).encode(), bytes(16)
        ),
        "safetensors whose header is nested 10,000 deep": lambda: tensors(b'{"a":' + b"[" * 10_000),
    }
    return {name: Flood("student", "refused", make) for name, make in made.items()}


Settings = dict[str, tuple[str, str, Any]]


def settings() -> Settings:
    """Return {name: (family, file of its folder, what is changed in it, or the file's bytes)}; all are refused."""
    unet, text, tokens = "unet/config.json", "text_encoder/config.json", "tokenizer/tokenizer_config.json"
    vae, scheduler = "vae/config.json", "scheduler/scheduler_config.json"
    pattern = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    chain = {"type": "Sequence", "normalizers": [{"type": "NFC"}] * 100_000}
    changes: Settings = {
        **{
            f"tokenizer of {length!r:.20} tokens": ("stable_diffusion", tokens, {"model_max_length": length})
            for length in (3 * 10**7, 2**40, 10**30, -5, 0, "77", 1.5)
        },
        "tokenizer of 60,000 added tokens": (
            "stable_diffusion",
            tokens,
            {
                "added_tokens_decoder": {
                    str(n): {
                        "content": f"<{n}>",
                        "special": True,
                        "lstrip": False,
                        "rstrip": False,
                        "normalized": False,
                        "single_word": False,
                    }
                    for n in range(60_000)
                }
            },
        ),
        "tokenizer of 300,000 special tokens": (
            "stable_diffusion",
            tokens,
            {"additional_special_tokens": [f"<{n}>" for n in range(300_000)]},
        ),
        "tokenizer of another class": ("stable_diffusion", tokens, {"tokenizer_class": "LlamaTokenizer"}),
        "tokenizer with code": ("stable_diffusion", tokens, {"auto_map": {"AutoTokenizer": ["a/b--c.D", None]}}),
        "vocabulary of 500,000 tokens": (
            "stable_diffusion",
            "tokenizer/vocab.json",
            json.dumps({str(n): n for n in range(500_000)}).encode(),
        ),
        "merges of 60 MB": ("stable_diffusion", "tokenizer/merges.txt", b"#version\n" + b"a b\n" * 15_000_000),
        "merges of 1,500,000 lines": ("stable_diffusion", "tokenizer/merges.txt", b"#version\n" + b"a b\n" * 1_500_000),
        "tokenizer.json with a pattern without end": (
            "stable_diffusion",
            "tokenizer/tokenizer.json",
            json.dumps(
                {
                    "version": "1.0",
                    "added_tokens": [],
                    "pre_tokenizer": pattern,
                    "model": {"type": "BPE", "vocab": {}, "merges": []},
                }
            ).encode(),
        ),
        "tokenizer.json of 100,000 normalizers": (
            "stable_diffusion",
            "tokenizer/tokenizer.json",
            json.dumps(
                {
                    "version": "1.0",
                    "added_tokens": [],
                    "normalizer": chain,
                    "model": {"type": "BPE", "vocab": {}, "merges": []},
                }
            ).encode(),
        ),
        "special_tokens_map.json of 8 MB": (
            "stable_diffusion",
            "tokenizer/special_tokens_map.json",
            json.dumps({f"t{n}_token": f"<{n}>" for n in range(200_000)}).encode(),
        ),
        "encoder whose attention is a hub's kernel": (
            "stable_diffusion",
            text,
            {"attn_implementation": "kernels-community/flash-attn"},
        ),
        "encoder whose inner attention is a hub's kernel": (
            "stable_diffusion",
            text,
            {"_attn_implementation": "somebody/evil@main:kernel"},
        ),
        "encoder that is quantized": (
            "stable_diffusion",
            text,
            {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
        ),
        "encoder of no heads": ("stable_diffusion", text, {"num_attention_heads": 0}),
        "encoder of 10^7 positions": ("stable_diffusion", text, {"max_position_embeddings": 10**7}),
        "encoder of a type that is code": (
            "stable_diffusion",
            text,
            {"torch_dtype": "os.system", "dtype": "os.system"},
        ),
        "UNet of 100,000 blocks": ("stable_diffusion", unet, {"block_out_channels": [32] * 100_000}),
        "UNet of 20,000 blocks of all kinds": (
            "class_unet",
            unet,
            {
                "block_out_channels": [32] * 20_000,
                "down_block_types": ["DownBlock2D"] * 20_000,
                "up_block_types": ["UpBlock2D"] * 20_000,
            },
        ),
        "UNet of no groups": ("class_unet", unet, {"norm_num_groups": 0}),
        "UNet of a NaN": ("class_unet", unet, {"norm_eps": float("nan")}),
        "UNet of 10^6 pixels a side": ("class_unet", unet, {"sample_size": 10**6}),
        "UNet with a processor of its own": ("class_unet", unet, {"_class_name": "os.system"}),
        "autoencoder of 10^9 channels": ("stable_diffusion", vae, {"latent_channels": 10**9}),
        "autoencoder of 10,000 layers": ("stable_diffusion", vae, {"layers_per_block": 10_000}),
        "scheduler of 10^12 steps": ("class_unet", scheduler, {"num_train_timesteps": 10**12}),
        "scheduler of a NaN": ("class_unet", scheduler, {"beta_end": float("nan")}),
        "scheduler of 1,000,000 betas": ("class_unet", scheduler, {"trained_betas": [0.1] * 1_000_000}),
        "DiT of 20,000 pixels a side": ("digits_dit", "config.json", {"image_size": 20_000}),
        "DiT of 4,000 pixels a side": ("digits_dit", "config.json", {"image_size": 4_000}),
        "DiT of no heads": ("digits_dit", "config.json", {"num_heads": 0}),
        "U-ViT of 20,000 pixels a side": ("uvit", "config.json", {"img_size": 20_000}),
        "EDM of 3,000 levels": ("edm", "config.json", {"channel_mult": [1] * 3_000}),
        "EDM of 10^6 pixels a side": ("edm", "config.json", {"img_resolution": 10**6}),
        "timm of 100,000 layers": ("timm", "config.json", {"model_args": {"depth": 100_000}}),
        "timm of 100 layers": ("timm", "config.json", {"model_args": {"depth": 100}}),
        "timm of 20,000 pixels a side": ("timm", "config.json", {"model_args": {"depth": 6, "img_size": 20_000}}),
        "timm of a large network": ("timm", "config.json", {"architecture": "vit_giant_patch14_224", "model_args": {}}),
        "timm from elsewhere": ("timm", "config.json", {"architecture": "hf-hub:somebody/evil"}),
        "student of a large network": ("student", "config.json", {"name": "vit_giant_patch14_224"}),
    }
    return changes


def spoiled(folders: Mapping[str, Path], root: Path) -> dict[str, tuple[str, Path]]:
    """Write a copy of its family's good folder for each of `settings`; return {name: (family, folder)}."""
    found: dict[str, tuple[str, Path]] = {}
    for name, (family, file, change) in settings().items():
        path = folders[family] / file
        stored: dict[str, Any] = json.loads(path.read_bytes()) if path.is_file() and isinstance(change, dict) else {}
        data = change if isinstance(change, bytes) else json.dumps(stored | change).encode()
        found[name] = family, replaced(folders[family], root, file, data)
    return found


def corpus() -> dict[str, Flood]:
    """Return all of them but `settings`."""
    return {**images(), **containers(), **checkpoints(), **weights()}


def placed(folder: Path, flood: Flood) -> Path:
    """Write a file into a folder of its own, with what its reader needs beside it; return what the reader opens."""
    folder.mkdir(parents=True)
    if flood.reader == "student":
        _student(folder / "evil")
        (folder / "evil" / "model.safetensors").write_bytes(flood.make())
        return folder / "evil"
    name = "labels.npy" if flood.reader == "cifar10_c labels" else f"evil{flood.suffix}"
    (folder / name).write_bytes(flood.make())
    return folder / name


def good(folder: Path) -> dict[str, Path]:
    """Return an ordinary file for each reader that imports much when it is first used."""
    made = {
        "parquet": Flood("parquet", "read", parquet.good, ".parquet"),
        "open_rgb": images()["interlaced PNG of 31 Mpx"],
    }
    return {name: placed(folder / name, flood) for name, flood in made.items()} | {
        "student": _student(folder / "student")
    }


def _student(folder: Path) -> Path:
    from tests.hostile.test_models import student

    student(folder)
    return folder


def size(path: Path) -> int:
    """Return the bytes of a file, or of a folder's weights."""
    return (path if path.is_file() else path / "model.safetensors").stat().st_size


def faults(floods: Mapping[str, Flood], root: Path) -> list[str]:
    """Return a line for each file that was not read or refused as it must be, in time and within memory."""
    first = good(root / "good")
    paths = {name: placed(root / str(number), flood) for number, (name, flood) in enumerate(floods.items())}
    readers = {flood.reader for flood in floods.values()}
    cases = [(reader, path) for reader, path in first.items() if reader in readers]
    verdicts = judge([*cases, *((flood.reader, paths[name]) for name, flood in floods.items())])
    assert all(verdict.outcome == "read" for verdict in verdicts[: len(cases)])
    found = zip(floods.items(), verdicts[len(cases) :], strict=True)
    return [f"{name}: {verdict.line[:500]}" for (name, flood), verdict in found if not _right(flood, verdict)]


def _right(flood: Flood, verdict: Verdict) -> bool:
    short = len(verdict.message) < 1500 and verdict.message.isprintable()
    kept = verdict.cpu_s <= MAX_CPU_S * flood.times and verdict.growth <= MAX_GROWTH and not verdict.events
    return verdict.outcome == flood.outcome and short and kept
