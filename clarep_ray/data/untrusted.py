"""Files that others may have written, read within bounds: plain files alone, of a known size at most, strict JSON."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

MAX_TEXT_BYTES = 64 * 2**20
"""Of lists of names and labels; ImageNet's 1.28 million names take 45 MB."""
MAX_LIST_BYTES, MAX_LINES = 32 * 2**20, 500_000
"""Of a list of classes or of files, one a line."""
LINE_ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
MAX_JSON_BYTES = 8 * 2**20
"""Of settings and manifests of one unit; JSON takes some ten times its size in memory."""


def read_bounded(path: Path, max_bytes: int) -> bytes:
    """Return the bytes of a plain file.

    Raises ValueError naming it where it is something else (a pipe would never end) or larger, OSError where it cannot
    be opened.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # opening a pipe would wait for somebody who writes
    with os.fdopen(handle, "rb") as file:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise ValueError(f"{str(path)!r} is no plain file")
        size = min(found.st_size, max_bytes) + 1  # a read takes the memory that it asks for
        data = file.read(size)
        if len(data) == size <= max_bytes:  # it grows
            data += file.read(max_bytes + 1 - size)
    if len(data) > max_bytes:
        raise ValueError(f"{str(path)!r} has more than {max_bytes} bytes")
    return data


def check_plain_file(path: Path) -> None:
    """Raise ValueError naming a path that is no plain file, before a library opens it and waits, or makes no sense."""
    if not path.is_file():
        raise ValueError(f"{str(path)!r} is no plain file")


def read_text(path: Path, max_bytes: int = MAX_TEXT_BYTES) -> str:
    """Return a text file in UTF-8; raises as `read_bounded` does, and ValueError for other bytes."""
    try:
        return read_bounded(path, max_bytes).decode()
    except UnicodeDecodeError:
        raise ValueError(f"{str(path)!r} is not UTF-8") from None


def read_lines(path: Path, max_bytes: int = MAX_LIST_BYTES) -> list[str]:
    """Return the lines of a text file in UTF-8, at most `MAX_LINES`; raises as `read_text` does."""
    text = read_text(path, max_bytes)
    if sum(map(text.count, LINE_ENDS)) > MAX_LINES:  # of one letter each, they would take thirty times their bytes
        raise ValueError(f"{str(path)!r} has more than {MAX_LINES} lines")
    return text.splitlines()


def read_json(path: Path, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """Return what a JSON file holds; raises as `read_bounded` and `parse_json` do, naming the file."""
    data = read_bounded(path, max_bytes)
    try:
        return parse_json(data)
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is not valid JSON: {error}") from None


def read_json_object(path: Path, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """Return the object a JSON file holds; raises as `read_json` does, and ValueError for something else."""
    return parse_json_object(read_bounded(path, max_bytes), str(path))


def parse_json_object(data: bytes, where: str) -> dict[str, Any]:
    """Return the object that JSON text holds; raises as `parse_json` does, naming its file, ValueError for others."""
    try:
        found = parse_json(data)
    except ValueError as error:
        raise ValueError(f"{where!r} is not valid JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{where!r} holds no JSON object")
    return found


def parse_json(data: bytes) -> Any:
    """Return what JSON text in UTF-8 holds.

    Raises ValueError where it is none, for a key that comes twice, which parsers understand differently, and for
    brackets nested so deeply that Python's own parser ends in a RecursionError.
    """
    try:
        return json.loads(data.decode(), object_pairs_hook=_unique)
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the key {name[:100]!r} comes twice")
        found[name] = value
    return found
