"""Files that hold their own hash: a bit that flips anywhere in one shows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clarep_ray.data.inside import read_inside
from clarep_ray.data.plain_json import without_nan
from clarep_ray.data.untrusted import MAX_JSON_BYTES, parse_json


class DamagedPart(ValueError):
    """A finished piece of work whose file is not what was written."""


@contextmanager
def as_damage(path: Path) -> Generator[None]:
    """Say of a piece of work whose file cannot be read, or is not what was written, what to do about it."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise DamagedPart(
            f"{str(path)!r} is damaged ({str(error)[:200]}); delete it and run the same command again: this piece "
            "alone is computed anew"
        ) from None


def sealed(record: Mapping[str, Any], name: str) -> bytes:
    """Return the file of a record, null where a number is not finite; it gains its own hash under `name`."""
    plain = without_nan(record)  # as it will be read: keys are strings, sequences are lists
    return _file_bytes({**plain, name: own_sha256(plain, name)})


def read_sealed(root: Path, file: str, name: str, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """Return the record of a file inside a folder; raises as `read_inside` and `parse_sealed` do."""
    return parse_sealed(read_inside(root, file, max_bytes), name)


def parse_sealed(data: bytes, name: str, to_the_byte: bool = True) -> dict[str, Any]:
    """Return the record that a file's bytes hold; raises as `check_seal` does, ValueError for other JSON."""
    record = parse_json(data)
    if not isinstance(record, dict):
        raise ValueError("it holds no JSON object")
    check_seal(record, data, name, to_the_byte)
    return record


def own_sha256(record: Mapping[str, Any], name: str) -> str:
    """Return the hash of a record over everything but the entry `name`."""
    rest = {key: value for key, value in record.items() if key != name}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def check_seal(record: Mapping[str, Any], data: bytes, name: str, to_the_byte: bool = True) -> None:
    """Raise ValueError unless a record, read from `data`, has its own hash and the file is as it was written.

    The hash alone would let another blank or digit of the same value pass; to look for those takes three times as long.
    """
    if record.get(name) != own_sha256(record, name) or (to_the_byte and data != _file_bytes(record)):
        raise ValueError("it does not match its own hash")


def sealed_file_sha256(record: Mapping[str, Any]) -> str:
    """Return the hash of the file that a sealed record was read from."""
    return hashlib.sha256(_file_bytes(record)).hexdigest()


def _file_bytes(record: Mapping[str, Any]) -> bytes:
    return (json.dumps(record, indent=1) + "\n").encode()
