"""The error every config raises for a wrong value."""

from __future__ import annotations


def require(condition: bool, name: str, value: object, valid: str) -> None:
    """Raise ValueError naming field, value and valid values where `condition` is false."""
    if not condition:
        raise ValueError(f"{name}: {value!r} is not valid; valid: {valid}")
