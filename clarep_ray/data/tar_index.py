"""Where the members of an untrusted tar lie, from its headers alone; nothing is extracted or decompressed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from clarep_ray.data.untrusted import open_plain

BLOCK = 512
MAX_MEMBERS = 1_000_000
MAX_MEMBER_BYTES = 64 * 2**20
MAX_HEADER_BYTES = 64 * 2**10
"""Of a pax or GNU header that names a member."""
REGULAR = b"\0", b"0"
FOLDER, PAX, LONG_NAME = b"5", b"x", b"L"
COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
}
"""First bytes of what is no plain tar."""


class DamagedTar(ValueError):
    """A tar that is truncated, malformed or not plain."""


@dataclass(frozen=True)
class Member:
    """A regular file inside a tar."""

    name: str
    offset: int
    size: int


def tar_index(path: Path) -> list[Member]:
    """Return the regular members of a plain, uncompressed tar in file order.

    Raises DamagedTar, naming the file and the place, for a wrong checksum, a member that reaches past the end,
    a missing end mark (truncation), a link or device, an unsafe name or a size beyond the limits.
    """
    members: list[Member] = []
    total = path.stat().st_size
    with open_plain(path) as file:
        position, renamed = 0, ""
        while True:
            file.seek(position)
            header = file.read(BLOCK)
            if position == 0 and header[257:262] != b"ustar":
                _refuse_compressed(header, path)
            if len(header) < BLOCK:
                raise DamagedTar(f"{str(path)!r}: no end mark at byte {position}: the tar is truncated")
            if not any(header):
                _check_end(file, path, position, renamed)
                return members
            name, size, kind = _parse(header, path, position)
            start = position + BLOCK
            position = start + -(-size // BLOCK) * BLOCK
            if position > total:
                raise DamagedTar(f"{str(path)!r}: member {name!r} reaches past the end: the tar is truncated")
            if kind in (PAX, LONG_NAME):
                renamed = _renamed(file, path, start, size, kind, renamed)
                continue
            name, renamed = _safe_name(renamed or name, path, start - BLOCK), ""
            if kind in REGULAR:
                members.append(Member(name, start, size))
            elif kind != FOLDER:
                raise DamagedTar(f"{str(path)!r}: member {name!r} is a link, a device or another special entry")
            if len(members) > MAX_MEMBERS:
                raise DamagedTar(f"{str(path)!r}: more than {MAX_MEMBERS} members")


def _refuse_compressed(header: bytes, path: Path) -> None:
    for first, kind in COMPRESSED.items():
        if header.startswith(first):
            raise DamagedTar(f"{str(path)!r} is no plain tar but {kind}; unpack it first")


def _check_end(file: BinaryIO, path: Path, position: int, renamed: str) -> None:
    """Raise DamagedTar unless two blocks of zeros, and then only zeros, end the tar."""
    if any(file.read(BLOCK)) or file.tell() != position + 2 * BLOCK or renamed:
        raise DamagedTar(f"{str(path)!r}: no end mark at byte {position}: the tar is truncated")
    while data := file.read(2**20):
        if file.tell() - position > MAX_MEMBER_BYTES or any(data):
            raise DamagedTar(
                f"{str(path)!r}: there is more behind the end mark at byte {position}; tars put one after another are "
                "one with tar --concatenate, or unpacked with tar --ignore-zeros"
            )


def _renamed(file: BinaryIO, path: Path, start: int, size: int, kind: bytes, renamed: str) -> str:
    """Return the name that a pax or GNU header gives the member behind it; DamagedTar where it changes anything else.

    Times, owners and comments of a pax header are read over.
    """
    if size > MAX_HEADER_BYTES:
        raise DamagedTar(f"{str(path)!r}: a header at byte {start} has {size} bytes; at most {MAX_HEADER_BYTES}")
    file.seek(start)
    body = file.read(size)
    try:
        if kind == LONG_NAME:
            if not (name := body.rstrip(b"\0").decode()):
                raise IndexError
            return name
        records = dict(_pax_records(body))
        if any(name == "size" or name.startswith("GNU.sparse") for name in records):
            raise DamagedTar(
                f"{str(path)!r}: a pax header at byte {start} resizes its member; pack it without --sparse"
            )
        return records.get("path", b"").decode() or renamed
    except (UnicodeDecodeError, IndexError):
        raise DamagedTar(f"{str(path)!r}: malformed header at byte {start}") from None


def _pax_records(body: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield (keyword, value) of each record: its length, a space, keyword=value, a line break."""
    start = 0
    while start < len(body):
        space = body.find(b" ", start, start + 8)
        digits = body[start:space] if space > start else b""
        length = int(digits) if digits.isdigit() else 0
        record = body[start : start + length]
        keyword, equals, value = record[len(digits) + 1 :].partition(b"=")
        if not equals or not length or len(record) < length or not value.endswith(b"\n"):
            raise IndexError
        yield keyword.decode(), value[:-1]
        start += length


def _parse(header: bytes, path: Path, position: int) -> tuple[str, int, bytes]:
    try:
        stored = int(header[148:156].split(b"\0")[0].strip() or b"0", 8)
        size = int(header[124:136].split(b"\0")[0].strip() or b"0", 8)
        name = header[:100].split(b"\0")[0].decode(errors="surrogateescape")
        prefix = (
            header[345:500].split(b"\0")[0].decode(errors="surrogateescape") if header[257:263] == b"ustar\0" else ""
        )
    except ValueError:
        raise DamagedTar(f"{str(path)!r}: malformed header at byte {position}") from None
    if stored != sum(header[:148]) + 8 * ord(" ") + sum(header[156:]):
        raise DamagedTar(f"{str(path)!r}: wrong header checksum at byte {position}")
    full = f"{prefix}/{name}" if prefix else name
    if size < 0 or size > MAX_MEMBER_BYTES:
        raise DamagedTar(f"{str(path)!r}: member {full!r} claims {size} bytes; at most {MAX_MEMBER_BYTES}")
    return full, size, header[156:157]


def _safe_name(name: str, path: Path, position: int) -> str:
    """Return a member's name; DamagedTar for one that is empty, has a null character or leads out of the tar."""
    if not _is_utf8(name):
        raise DamagedTar(f"{str(path)!r}: the member name at byte {position} is no UTF-8: {name[:100]!r}")
    if not name or "\0" in name:
        raise DamagedTar(f"{str(path)!r}: member without a name at byte {position}")
    if name.startswith("/") or ".." in name.split("/"):
        raise DamagedTar(f"{str(path)!r}: member name {name!r} leaves the tar")
    return name


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # bytes that are none were kept as surrogates
        return False
    return True
