"""The error every config raises for a wrong value."""

from __future__ import annotations

from clarep_ray.dotted import shortened


def require(condition: bool, name: str, value: object, valid: str) -> None:
    """Raise ValueError naming field, value and valid values where `condition` is false."""
    if not condition:
        raise ValueError(f"{name}: {shortened(value)} is not valid; valid: {valid}")


def require_seed(seed: int) -> None:
    """Raise ValueError unless `seed` is one that every library takes: K-means knows none beyond 32 bits."""
    require(0 <= seed < 2**32, "seed", seed, f"0 to {2**32 - 1}")
