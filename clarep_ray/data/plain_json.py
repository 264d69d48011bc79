"""JSON that every reader takes: null in place of NaN and infinity, for which JSON has no words."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any


def without_nan(value: Any) -> Any:
    """Return JSON data with null in place of numbers that are not finite; keys become strings, sequences lists."""
    if isinstance(value, Mapping):
        return {str(name): without_nan(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def json_line(record: Mapping[str, Any]) -> bytes:
    """Return a record as a line of JSON, null where a number is not finite."""
    return (json.dumps(without_nan(record), allow_nan=False) + "\n").encode()


def plain_json(record: Mapping[str, Any]) -> bytes:
    """Return a record as indented JSON, null where a number is not finite."""
    return (json.dumps(without_nan(record), indent=1, allow_nan=False) + "\n").encode()
