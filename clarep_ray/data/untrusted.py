"""Files that others may have written, read within bounds: plain files alone, of a known size at most, strict JSON."""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections.abc import Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any, cast

MAX_TEXT_BYTES = 64 * 2**20
"""Of lists of names and labels; ImageNet's 1.28 million names take 45 MB."""
MAX_LIST_BYTES, MAX_LINES = 32 * 2**20, 500_000
"""Of a list of classes or of files, one a line."""
LINE_ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
MAX_JSON_BYTES = 8 * 2**20
"""Of settings and manifests of one unit; JSON takes some ten times its size in memory."""
MAX_DEPTH = 100
"""Of brackets in JSON, which Python's own parser answers with a RecursionError beyond some thousand."""
MAX_DIGITS = 300
"""Of a whole number in JSON: what fits into a float."""
Fields = Mapping[str, type | tuple[type, ...]]
"""Names of a JSON object's fields, and of which type or types each is."""
STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
"""A text in JSON, or what begins as one and never ends, each byte looked at once."""
NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")
SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def open_plain(path: Path) -> BufferedReader:
    """Return a plain file, open for reading.

    Raises ValueError naming it where it is something else (a pipe would never end), OSError where it cannot be opened.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # opening a pipe would wait for a writer
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise ValueError(f"{str(path)!r} is no plain file")
    return os.fdopen(handle, "rb")


def read_bounded(path: Path, max_bytes: int) -> bytes:
    """Return the bytes of a plain file; raises as `open_plain`, and ValueError where it has more than `max_bytes`."""
    with open_plain(path) as file:
        size = min(os.fstat(file.fileno()).st_size, max_bytes) + 1  # a read takes the memory that it asks for
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


def read_json_object(path: Path, max_bytes: int = MAX_JSON_BYTES, infinite: bool = False) -> dict[str, Any]:
    """Return the object a JSON file holds; raises as `read_json` does, and ValueError for something else."""
    return parse_json_object(read_bounded(path, max_bytes), str(path), infinite)


def parse_json_object(data: bytes, where: str, infinite: bool = False) -> dict[str, Any]:
    """Return the object that JSON text holds; raises as `parse_json` does, naming its file, ValueError for others."""
    try:
        found = parse_json(data, infinite)
    except ValueError as error:
        raise ValueError(f"{where!r} is not valid JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{where!r} holds no JSON object")
    return found


def parse_json(data: bytes, infinite: bool = False) -> Any:
    """Return what JSON text in UTF-8 holds, in time linear in its length.

    `infinite` takes the word -Infinity, which diffusers writes into the configs of its schedulers.

    Raises ValueError where it is none, and for what parsers understand differently or cannot give back: a key that
    comes twice, NaN and infinity (`1e999` too), half a surrogate pair, brackets deeper than MAX_DEPTH, a whole number
    of more than MAX_DIGITS digits.
    """
    try:
        text = data.decode()
        _check_depth(data)
        constant = _infinite if infinite else _no_number
        found = json.loads(
            text, object_pairs_hook=_unique, parse_constant=constant, parse_float=_float, parse_int=_integer
        )
        if SURROGATE.search(data):
            json.dumps(found, ensure_ascii=False).encode()
        return found
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    except UnicodeEncodeError:
        raise ValueError("a text in it has half a surrogate pair") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def check_fields(record: Any, kinds: Fields, where: str) -> dict[str, Any]:
    """Return a JSON object; ValueError, beginning with `where`, unless it has these fields, each of its type or types.

    A dot in a name goes into an object: `last.epoch`. A whole number is a float too, true and false are no numbers.
    """
    if not isinstance(record, dict):
        raise ValueError(f"{where} is {repr(record)[:100]}; valid: a JSON object")
    for name, kind in kinds.items():
        value: Any = record
        for part in name.split("."):
            value = cast("dict[str, Any]", value).get(part) if isinstance(value, dict) else None
        wanted = kind if isinstance(kind, tuple) else (kind,)
        if float in wanted:
            wanted = (*wanted, int)
        if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
            raise ValueError(
                f"{where}: {name} is {repr(value)[:100]}; valid: {', '.join(each.__name__ for each in wanted)}"
            )
    return record


def _check_depth(data: bytes) -> None:
    """Raise ValueError for brackets too deep, before a parser that calls itself meets them."""
    if data.count(b"[") + data.count(b"{") <= MAX_DEPTH:
        return
    import numpy as np  # here, for every command begins with this module

    brackets = np.frombuffer(STRING.sub(b"", data).translate(None, NO_BRACKETS), np.uint8)
    steps = np.where((brackets == ord("[")) | (brackets == ord("{")), 1, -1)
    if len(steps) and np.cumsum(steps).max() > MAX_DEPTH:
        raise ValueError(f"it is nested too deeply; valid: {MAX_DEPTH} brackets")


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number")


def _infinite(text: str) -> float:
    return -math.inf if text == "-Infinity" else _no_number(text)


def _float(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _no_number(text[:20])


def _integer(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"a number in it has {len(text)} digits; valid: at most {MAX_DIGITS}")
    return int(text)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen = set[str]()
        for name, _ in pairs:
            if name in seen:
                raise ValueError(f"the key {name[:100]!r} comes twice")
            seen.add(name)
    return found
