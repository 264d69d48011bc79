"""Frozen dataclass configurations as flat dictionaries of dotted fields: override, fingerprint, type checks."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
import types
import typing
import unicodedata
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any, Literal, TypeVar

EXECUTION: Mapping[str, Any] = {"fingerprint": False}
"""Metadata of a field that says how or where a run is done and cannot change a byte of its results."""
WHERE: Mapping[str, Any] = {**EXECUTION, "object_storage": True}
"""The same of a field that takes s3://BUCKET/PREFIX as well as a folder; all others refuse it."""

MAX_TEXT_BYTES = 3072
"""Of a setting that is a text: below what a path can have, for names are added to it, and above what a prompt has."""
SHOWN = 100

Config = TypeVar("Config")


def flatten(config: object, prefix: str = "") -> dict[str, Any]:
    """Return {dotted field: value} of a config, in declaration order."""
    flat: dict[str, Any] = {}
    for item in dataclasses.fields(typing.cast(Any, config)):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            flat |= flatten(value, f"{prefix}{item.name}.")
        else:
            flat[prefix + item.name] = value
    return flat


def override(config: Config, changes: Mapping[str, Any]) -> Config:
    """Return the config with dotted fields replaced, validated again.

    Raises ValueError for an unknown field, listing the known ones, or for a value its field refuses.
    """
    known = flatten(config)
    unknown = [name for name in changes if name not in known]
    if unknown:
        raise ValueError(f"unknown config field {unknown[0]!r}; valid: {', '.join(known)}")
    return _rebuild(config, {**known, **changes}, "")


def _rebuild(config: Config, flat: Mapping[str, Any], prefix: str) -> Config:
    values: dict[str, Any] = {}
    for item in dataclasses.fields(typing.cast(Any, config)):
        value = getattr(config, item.name)
        nested = dataclasses.is_dataclass(value)
        values[item.name] = _rebuild(value, flat, f"{prefix}{item.name}.") if nested else flat[prefix + item.name]
    return type(config)(**values)


def to_json(config: object) -> str:
    """Return the resolved config as indented JSON of its dotted fields."""
    return json.dumps(flatten(config), indent=2)


def from_flat(kind: type[Config], flat: Mapping[str, Any]) -> Config:
    """Return the config of a `to_json` dictionary; lists become tuples. Raises ValueError as `override` does."""
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in flat.items()}
    return override(kind(), values)


def execution_fields(kind: type) -> frozenset[str]:
    """Return the dotted fields that are not part of the fingerprint."""
    found: set[str] = set()
    hints = typing.get_type_hints(kind)
    for item in dataclasses.fields(kind):
        if dataclasses.is_dataclass(hints[item.name]):
            found |= {f"{item.name}.{name}" for name in execution_fields(typing.cast(type, hints[item.name]))}
        elif item.metadata.get("fingerprint", True) is False:
            found.add(item.name)
    return frozenset(found)


def fingerprint_fields(config: object) -> dict[str, Any]:
    """Return {dotted field: value} of everything that can change a run's results, as JSON gives it back."""
    hidden = execution_fields(type(config))
    return json.loads(json.dumps({name: value for name, value in flatten(config).items() if name not in hidden}))


def fingerprint(fields: Mapping[str, Any]) -> str:
    """Return the sha256 of the fields as canonical JSON."""
    canonical = json.dumps(dict(fields), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def check_types(config: object) -> None:
    """Raise ValueError where a field of a frozen config holds a value of another type than it declares.

    A whole number in a float field becomes a float, so that 800 and 800.0 are one configuration.
    """
    hints = typing.get_type_hints(type(config))
    for item in dataclasses.fields(typing.cast(Any, config)):
        value = getattr(config, item.name)
        if hints[item.name] is float and type(value) is int and abs(value) < 2**63:
            object.__setattr__(config, item.name, float(value))
        elif not _fits(value, hints[item.name]):
            raise ValueError(f"{item.name}: {value!r} is not valid; valid: {_describe(hints[item.name])}")
        check_text(item.name, value)
        if not item.metadata.get("object_storage"):
            check_local(item.name, value)


def check_text(name: str, value: object) -> None:
    """Raise ValueError where a value is, or a tuple holds, text that no path, name or JSON of a run can be.

    That is an empty text, one that the shell should have expanded, one with control characters or with bytes that are
    not UTF-8 (which Python hands on as surrogates), and one that is longer than any path.
    """
    for entry in typing.cast(tuple[object, ...], value if isinstance(value, tuple) else (value,)):
        if not isinstance(entry, str | PurePath):
            continue
        text, wrong = str(entry), ""
        if not text:
            wrong = "it is empty"
        elif re.match(r"@?~(?:[^/]*/|$)", text):
            wrong = "the shell has not expanded ~; valid: the path in full"
        elif any(unicodedata.category(letter) == "Cs" for letter in text):
            wrong = "it is not UTF-8"
        elif any(unicodedata.category(letter) == "Cc" for letter in text):
            wrong = "it has a control character"
        elif len(text.encode()) > MAX_TEXT_BYTES:
            wrong = f"it has {len(text.encode())} bytes; valid: at most {MAX_TEXT_BYTES}"
        if wrong:
            raise ValueError(f"{name}: {'it' if name.endswith('uri') else shortened(text)} is not valid: {wrong}")


def shortened(text: str) -> str:
    """Return a text as Python writes it, for a message: its middle is left out where it is long."""
    return repr(text if len(text) <= 2 * SHOWN else f"{text[:SHOWN]}...{text[-SHOWN:]}")


def check_local(name: str, value: object) -> None:
    """Raise ValueError where a value is, or a tuple holds, a path in object storage: it would become a folder."""
    for entry in typing.cast(tuple[object, ...], value if isinstance(value, tuple) else (value,)):
        text = str(entry) if isinstance(entry, str | PurePath) else ""
        if text.startswith("s3:/"):
            url = "s3://" + text.removeprefix("s3:").lstrip("/")
            raise ValueError(
                f"{name}: {url!r} lies in object storage; valid: a folder, such as a copy of it: "
                f"uv run jobs/verify.py {url} --copy-to FOLDER"
            )


def _fits(value: object, hint: Any) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return value in arguments
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, option) for option in arguments)
    if origin is tuple:
        return isinstance(value, tuple) and all(
            _fits(entry, arguments[0]) for entry in typing.cast(tuple[object, ...], value)
        )
    if hint is float:
        return isinstance(value, float) and math.isfinite(value)  # every comparison with NaN is passed by
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
    return isinstance(value, hint)


def _describe(hint: Any) -> str:
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is Literal:
        return ", ".join(map(str, arguments))
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(_describe(option) for option in arguments)
    return "None" if hint is type(None) else getattr(hint, "__name__", str(hint))


def check_value(kind: type, name: str, value: object) -> None:
    """Raise ValueError where a value is of another type than the dotted field of a config class declares.

    What values of several fields can be together is for the config itself to say.
    """
    hint: Any = kind
    for part in name.split("."):
        hint = typing.get_type_hints(hint)[part]
    whole_for_float = hint is float and type(value) is int
    if not whole_for_float and not _fits(value, hint):
        raise ValueError(f"{name}: {value!r} is not valid; valid: {_describe(hint)}")
