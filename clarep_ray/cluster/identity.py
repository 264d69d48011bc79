"""Whose output a folder holds: settings, libraries and lines of code that can change a byte of it."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from typing import Any

from clarep_ray.cluster.code_hash import code_sha256
from clarep_ray.data.records import shown
from clarep_ray.data.store import RUN, Store
from clarep_ray.errors import ResumeRefused

PACKAGES = (
    *("torch", "torchvision", "numpy", "diffusers", "transformers", "timm"),
    *("pillow", "kneed", "scipy", "scikit-learn", "safetensors"),
)
"""Libraries whose version can change a byte of an extraction."""
OUTPUT_MODULES = ("cluster.stages", "cluster.provenance")
"""Our own modules that make the bytes of an extraction, by what they do or import."""
LISTED = 10
"""Changed settings that a message names."""


def check_same_run(fields: Mapping[str, Any], store: Store, setting: str) -> bool:
    """Say whether an output, given by the named setting, holds the run of these fields; raises as `check_output`."""
    path = f"{store.where}/{RUN}"
    if not store.has(RUN):
        if store.holds_files():
            raise ValueError(f"{setting}: {store.where!r} is not empty and holds no run; choose another folder")
        return False
    try:
        earlier = store.read_record()["fields"]
    except (OSError, ValueError):
        raise ValueError(f"{setting}: {path!r} cannot be read; choose another folder") from None
    names = sorted(earlier.keys() | fields.keys())
    changed = [name for name in names if earlier.get(name) != fields.get(name)]
    if changed:
        pairs = [(name, shown(repr(earlier.get(name))), shown(repr(fields.get(name)))) for name in changed[:LISTED]]
        listed = "; ".join(f"{shown(name)}: {before} -> {now}" for name, before, now in pairs)
        listed += "; ..." if len(changed) > LISTED else ""
        raise ResumeRefused(
            f"{setting}: {store.where!r} holds another run; choose another folder, or undo what changed: {listed}"
        )
    return True


def recorded_field(store: Store, name: str) -> Any:
    """Return a field of the run that an output holds; None where there is none, or none that can be read.

    What is wrong with an output is for `check_same_run` to say.
    """
    try:
        return store.read_record()["fields"][name]
    except (OSError, ValueError, KeyError):
        return None


def environment_fields(packages: Sequence[str] = PACKAGES, modules: Sequence[str] = OUTPUT_MODULES) -> dict[str, Any]:
    """Return the code and library versions that can change a byte of the output."""
    versions = {f"version.{name}": importlib.metadata.version(name) for name in packages}
    return versions | {"version.python": platform.python_version(), "code_sha256": code_sha256(tuple(modules))}
