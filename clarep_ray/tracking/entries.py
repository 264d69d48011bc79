"""What an outbox can ask for: a closed list of words, numbers and files of the output itself.

An output may come from somebody else, and its outbox is sent with the rights of whoever sends it. So an entry cannot
name code, an address, a file outside the output, or a tag that MLflow itself acts on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from clarep_ray.data.inside import parts_inside
from clarep_ray.data.records import shown

MAX_NAME, MAX_WORD, MAX_TEXT, MAX_VALUES = 250, 8192, 8 * 2**20, 10_000
"""Characters of a run's name, of a word and of a text that becomes a file, and values of one entry."""
MAX_STEP = 2**63 - 1
RUN = re.compile(r"[0-9a-f]{32}")
MODEL_NAME = re.compile(r"[\w\-. ]{1,200}")
MAX_KEY = 120
IMAGE_KEY = re.compile(rf"[\w\-. /]{{1,{MAX_KEY}}}")
"""What an image is called, which becomes part of a file's name."""
NOTE = "mlflow.note.content"
NOTE_LINK = re.compile(r"\]\s*[(\[]|<[A-Za-z/!?]|^\s{0,3}\[[^\]]*\]:", re.MULTILINE)
"""What MLflow's pages would fetch or run in a run's description: links, images and HTML."""
OWN_TAGS = {
    *(NOTE, "mlflow.source.name", "mlflow.source.type", "mlflow.source.git.commit", "mlflow.user"),
}
"""Tags of MLflow's own that a run tells; all others that begin so would be instructions to MLflow."""
REFUSED = "refused"
"""`op` of what stands in an outbox's memory for an entry that is never sent."""
STATUSES = ("FINISHED", "FAILED", "KILLED")
SERVED = ("student",)
"""Kinds of models whose code is this package's own (`registry.CODE`)."""
JOBS_WITH_MODELS = ("distill",)
"""Jobs whose runs make a version of a registered model."""
FILES = ("artifact", "image", "text", "model")
"""Entries that become files on a server."""

Entry = dict[str, Any]
Check = Callable[[Any], bool]


def _word(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= MAX_WORD


def _name(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= MAX_NAME and value.isprintable()


def _image_key(value: Any) -> bool:
    return isinstance(value, str) and IMAGE_KEY.fullmatch(value) is not None


def _text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= MAX_TEXT


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MAX_STEP


def _number(value: Any) -> bool:
    """A number, or None for one that is not finite, for which JSON has no words."""
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _path(value: Any) -> bool:
    try:
        return _word(value) and bool(parts_inside(value))
    except ValueError:
        return False


def _named(check: Check) -> Check:
    def holds(value: Any) -> bool:
        if not isinstance(value, Mapping) or len(value) > MAX_VALUES:
            return False
        return all(_word(name) and check(each) for name, each in value.items())

    return holds


def _tags(value: Any) -> bool:
    if not _named(_word)(value) or NOTE_LINK.search(value.get(NOTE, "")):
        return False
    return all(name in OWN_TAGS or not name.startswith("mlflow.") for name in value)


def _parent(value: Any) -> bool:
    return value is None or (isinstance(value, str) and RUN.fullmatch(value) is not None)


def _model_name(value: Any) -> bool:
    return isinstance(value, str) and MODEL_NAME.fullmatch(value) is not None


def _shape(value: Any) -> bool:
    return isinstance(value, list | tuple) and 0 < len(value) <= 8 and all(_whole(side) for side in value)


FIELDS: dict[str, dict[str, Check]] = {
    "open": {"name": _name, "job": _word, "fingerprint": _word, "parent": _parent, "tags": _tags},
    "reopen": {},
    "params": {"values": _named(_word)},
    "tags": {"values": _tags},
    "metrics": {"values": _named(_number), "step": _whole},
    "text": {"name": _path, "text": _text},
    "image": {"key": _image_key, "step": _whole, "path": _path, "version": _word},
    "artifact": {"path": _path, "version": _word},
    "dataset": {"name": _word, "digest": _word, "source": _word, "context": _word},
    "model": {
        "kind": lambda value: value in SERVED,
        "folder": _path,
        "input_shape": _shape,
        "output_shape": _shape,
        "name": _model_name,
        "tags": _tags,
    },
    "close": {"status": lambda value: value in STATUSES},
}
"""What each kind of entry holds, beside `op` and `time_ms`."""


def check_entry(entry: Any) -> None:
    """Raise ValueError naming what an entry asks for that no entry may."""
    if not isinstance(entry, Mapping) or not isinstance(entry.get("op"), str) or entry["op"] not in FIELDS:
        kind = entry.get("op") if isinstance(entry, Mapping) else entry
        raise ValueError(f"{shown(repr(kind))[:60]} is not an entry; valid: {', '.join(FIELDS)}")
    fields = FIELDS[entry["op"]] | {"time_ms": _whole}
    if strange := sorted(entry.keys() - fields.keys() - {"op"}):
        raise ValueError(f"an entry {entry['op']!r} has no field {shown(strange[0])!r}")
    for name, valid in fields.items():
        if not valid(entry.get(name)):
            raise ValueError(f"{name} of an entry {entry['op']!r} is not valid: {shown(repr(entry.get(name)))[:80]}")
