"""Where the members of an untrusted tar lie, from its headers alone; nothing is extracted or decompressed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

BLOCK = 512
MAX_MEMBERS = 1_000_000
MAX_MEMBER_BYTES = 64 * 2**20
REGULAR = b"\0", b"0"
PAX = b"x"
SKIPPED = b"5", PAX
"""Folders and pax headers: read over, never obeyed."""


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
    with path.open("rb") as file:
        position = 0
        while True:
            file.seek(position)
            header = file.read(BLOCK)
            if len(header) < BLOCK:
                raise DamagedTar(f"{str(path)!r}: no end mark at byte {position}: the tar is truncated")
            if not any(header):
                if any(file.read(BLOCK)) or file.tell() != position + 2 * BLOCK:
                    raise DamagedTar(f"{str(path)!r}: no end mark at byte {position}: the tar is truncated")
                return members
            name, size, kind = _parse(header, path, position)
            start = position + BLOCK
            position = start + -(-size // BLOCK) * BLOCK
            if position > total:
                raise DamagedTar(f"{str(path)!r}: member {name!r} reaches past the end: the tar is truncated")
            if kind == PAX and _overrides(file, start, size):
                raise DamagedTar(f"{str(path)!r}: a pax header at byte {start} renames or resizes its member")
            if kind in REGULAR:
                members.append(Member(name, start, size))
            elif kind not in SKIPPED:
                raise DamagedTar(f"{str(path)!r}: member {name!r} is a link, a device or another special entry")
            if len(members) > MAX_MEMBERS:
                raise DamagedTar(f"{str(path)!r}: more than {MAX_MEMBERS} members")


def _overrides(file: BinaryIO, start: int, size: int) -> bool:
    file.seek(start)
    body = file.read(size)
    return b" path=" in body or b" size=" in body or b" GNU.sparse" in body


def _parse(header: bytes, path: Path, position: int) -> tuple[str, int, bytes]:
    try:
        stored = int(header[148:156].split(b"\0")[0].strip() or b"0", 8)
        size = int(header[124:136].split(b"\0")[0].strip() or b"0", 8)
        name = header[:100].split(b"\0")[0].decode()
        prefix = header[345:500].split(b"\0")[0].decode() if header[257:263] == b"ustar\0" else ""
    except (ValueError, UnicodeDecodeError):
        raise DamagedTar(f"{str(path)!r}: malformed header at byte {position}") from None
    if stored != sum(header[:148]) + 8 * ord(" ") + sum(header[156:]):
        raise DamagedTar(f"{str(path)!r}: wrong header checksum at byte {position}")
    full = f"{prefix}/{name}" if prefix else name
    if size < 0 or size > MAX_MEMBER_BYTES:
        raise DamagedTar(f"{str(path)!r}: member {full!r} claims {size} bytes; at most {MAX_MEMBER_BYTES}")
    if not full:
        raise DamagedTar(f"{str(path)!r}: member without a name at byte {position}")
    if full.startswith("/") or ".." in full.split("/"):
        raise DamagedTar(f"{str(path)!r}: member name {full!r} leaves the tar")
    return full, size, header[156:157]
