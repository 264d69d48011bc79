"""Hostile JSON, lists and model folders, made here."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

CORRUPT: dict[str, bytes] = {
    "empty": b"",
    "no JSON": b"version: 1\nsettings: *alias\n",
    "cut": b'{"version": 1, "settings": {"inv',
    "a number": b"7",
    "a list": b"[1, 2]",
    "null": b"null",
    "not UTF-8": b'{"version": "\xff\xfe"}',
    "UTF-16": '{"version": 1}'.encode("utf-16"),
    "nested 100,000 deep": b"[" * 100_000,
    "objects nested 100,000 deep": b'{"a":' * 100_000,
    "a key twice": b'{"version": 1, "version": 2, "settings": {}, "format": "a", "format": "b"}',
    "a number of 5000 digits": b'{"version": ' + b"9" * 5000 + b"}",
    "9 MB of zeros": b'{"version": [' + b"0," * 4_500_000 + b"0]}",
    "control characters": json.dumps({"\x1b[2J\r\nversion": 1, "settings": {"\x07": "\x1b]0;x\x07"}}).encode(),
    "a pickle": b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94\x8c\x06system\x94\x93\x94.",
}
"""What no JSON reader of ours takes, whatever the file is about."""

WEIGHTS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda good: b"",
    "cut": lambda good: good[: len(good) // 2],
    "header of 2^62 bytes": lambda good: (2**62).to_bytes(8, "little") + good[8:],
    "header of 100 MB": lambda good: (10**8).to_bytes(8, "little") + good[8:],
    "header that is no JSON": lambda good: good[:9] + b"\xff" * 40 + good[49:],
    "offsets beyond the end": lambda good: _header(good, lambda entry: entry | {"data_offsets": [0, 2**50]}),
    "shape of 2^60": lambda good: _header(good, lambda entry: entry | {"shape": [2**30, 2**30]}),
    "a pickle": lambda good: b"\x80\x02cos\nsystem\nX\x05\x00\x00\x00touch\x85R.",
    "an archive": lambda good: b"PK\x03\x04" + good,
}
"""What no reader of safetensors takes."""

SIZES: dict[str, Callable[[str, Any], Any]] = {
    "a million": lambda name, value: 10**6,
    "-1": lambda name, value: -1,
    "text": lambda name, value: "; touch canary",
}
"""What a size of a network is replaced by."""


def _header(good: bytes, change: Callable[[dict[str, Any]], dict[str, Any]]) -> bytes:
    length = int.from_bytes(good[:8], "little")
    header = json.loads(good[8 : 8 + length])
    name = next(key for key in header if key != "__metadata__")
    made = json.dumps(header | {name: change(header[name])}).encode()
    return len(made).to_bytes(8, "little") + made + good[8 + length :]


def replaced(good: Path, root: Path, name: str, data: bytes) -> Path:
    """Return a copy of a folder, below a name with control characters, in which one file is another."""
    number = len(list(root.iterdir())) if root.is_dir() else 0
    folder = root / f"{number:04d}" / "\x1b[31mred\nline"
    shutil.copytree(good, folder)
    (folder / name).write_bytes(data)
    return folder


def spoiled(
    good: Path, root: Path, config: str, weights: str, sizes: tuple[str, ...], every: int
) -> Iterator[tuple[str, Path]]:
    """Yield (what is wrong, folder) of copies of a model's folder, of corrupt JSON `every` one."""
    for label, data in list(CORRUPT.items())[::every]:
        yield f"{config} {label}", replaced(good, root, config, data)
    stored = (good / weights).read_bytes()
    for label, change in WEIGHTS.items():
        yield f"{weights} {label}", replaced(good, root, weights, change(stored))
    settings = json.loads((good / config).read_bytes())
    for size in sizes:
        for label, value in SIZES.items():
            made = json.dumps(settings | {size: value(size, settings[size])}).encode()
            yield f"{size} {label}", replaced(good, root, config, made)
