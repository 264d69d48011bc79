"""Hostile tars, made here: {name: bytes}. All are refused."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile

from tests.data.trees import picture_bytes

BLOCK = 512


def block(
    size: bytes = b"00000000000\0", kind: bytes = b"0", name: bytes = b"a.png", prefix: bytes = b"", link: bytes = b""
) -> bytes:
    """Return a header with a right checksum and any fields."""
    made = bytearray(BLOCK)
    fields = ((0, name), (124, size), (156, kind), (157, link), (257, b"ustar\x0000"), (345, prefix))
    for start, field in fields:
        made[start : start + len(field)] = field
    made[148:156] = b" " * 8
    made[148:156] = f"{sum(made):06o}\0 ".encode()
    return bytes(made)


def padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % BLOCK)


def member(name: str, data: bytes) -> bytes:
    return block(f"{len(data):011o}\0".encode(), name=name.encode()) + padded(data)


END = b"\0" * 2 * BLOCK
BASE256 = b"\x80" + (2**40).to_bytes(11, "big")


def good() -> bytes:
    return (
        b"".join(
            member(f"s{i}.{suffix}", data)
            for i in range(4)
            for suffix, data in (("png", picture_bytes(i)), ("cls", b"1"))
        )
        + END
    )


def pax(records: dict[str, str]) -> bytes:
    body = b""
    for name, value in records.items():
        rest = f" {name}={value}\n".encode()
        length = len(rest) + len(str(len(rest) + 3))
        body += str(length).encode() + rest
    return block(f"{len(body):011o}\0".encode(), b"x", b"PaxHeader") + padded(body)


def corpus() -> dict[str, bytes]:
    """Return at least thirty tars."""
    whole, picture, label = good(), member("s.png", picture_bytes(0)), member("s.cls", b"1")
    flipped = bytearray(whole)
    flipped[10] ^= 1
    headers = {
        "claims 2^40 bytes": block(BASE256),
        "claims 8 GiB": block(b"77777777777\0"),
        "claims 2^88 bytes": block(b"\x80" + b"\xff" * 11),
        "claims -1 bytes": block(b"-0000000001\0"),
        "claims -2^40 bytes": block(b"\xff" * 12),
        "size is text": block(b"many\0"),
        "size in underscores": block(b"0_0_1\0"),
        "symbolic link": block(kind=b"2", link=b"/etc/passwd"),
        "hard link": block(kind=b"1", link=b"../../etc/passwd"),
        "character device": block(kind=b"3"),
        "block device": block(kind=b"4"),
        "pipe": block(kind=b"6"),
        "contiguous file": block(kind=b"7"),
        "long name": block(b"00000000005\0", kind=b"L") + padded(b"/etc/"),
        "long link": block(b"00000000005\0", kind=b"K") + padded(b"/etc/"),
        "sparse file": block(kind=b"S"),
        "global pax header": block(kind=b"g"),
        "vendor's kind": block(kind=b"Z"),
        "absolute name": block(name=b"/etc/passwd.png"),
        "name that climbs": block(name=b"a/../../x.png"),
        "prefix that climbs": block(name=b"x.png", prefix=b"../.."),
        "name without text": block(name=b"\xff\xfe.png"),
        "no name": block(name=b""),
        "pax renames": pax({"path": "/etc/passwd"}) + picture,
        "pax resizes": pax({"size": str(2**40)}) + picture,
        "pax sparse": pax({"GNU.sparse.major": "1"}) + picture,
        "pax of 60 MiB": block(f"{60 * 2**20:011o}\0".encode(), b"x") + b"\0" * BLOCK,
    }
    others = {
        "empty": b"",
        "one block": b"\0" * BLOCK,
        "no end": whole[: -2 * BLOCK],
        "half an end": whole[:-BLOCK],
        "cut in a header": whole[: 2 * BLOCK + 100],
        "cut in a member": whole[: 3 * BLOCK + 7],
        "wrong checksum": bytes(flipped),
        "gzip": gzip.compress(whole),
        "bzip2": bz2.compress(whole),
        "xz bomb": lzma.compress(bytes(20_000_000), preset=0),
        "zip": b"PK\3\4" + b"\0" * 1020,
        "text": b"no tar\n" * 300,
        "label only": label + END,
        "picture only": picture + END,
        "label of control characters": picture + member("s.cls", b"\x1b[31mcat") + END,
        "label without text": picture + member("s.cls", b"\xff\xfe") + END,
        "label of nothing": picture + member("s.cls", b" ") + END,
        "labels in numbers and names": picture + label + member("t.png", b"x") + member("t.cls", b"cat") + END,
        "label of 5000 digits": picture + member("s.cls", b"9" * 5000) + END,
        "label of 60 MiB": picture + member("s.cls", b"1" * (60 * 2**20)) + END,
        "sample in two places": picture + label + member("t.png", b"x") + member("t.cls", b"1") + picture + label + END,
        "member twice": picture + picture + label + END,
    }
    return {name: data + END for name, data in headers.items()} | others


def python_made() -> bytes:
    """Return the smallest tar that CPython's own reader follows beyond its end (CVE-2026-11972)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        info = tarfile.TarInfo("a.png")
        info.size = 0
        tar.addfile(info)
    data = bytearray(buffer.getvalue()[: 5 * BLOCK])
    data[:BLOCK] = block(BASE256)
    return bytes(data)
