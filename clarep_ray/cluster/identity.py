"""Whose output a folder holds: settings, libraries and lines of code that can change a byte of it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clarep_ray.data.store import RUN, Store
from clarep_ray.data.untrusted import MAX_JSON_BYTES, parse_json_object

PACKAGES = (
    *("torch", "torchvision", "numpy", "diffusers", "transformers", "timm"),
    *("pillow", "kneed", "scipy", "scikit-learn", "safetensors"),
)
"""Libraries whose version can change a byte of an extraction."""
OUTPUT_CODE = ("clarid/*.py", "data/**/*.py", "models/*.py", "seeding.py", "cluster/stages.py")
"""Our own files of which the same is true."""


class ResumeRefused(ValueError):
    """The output belongs to another run."""


def check_same_run(fields: Mapping[str, Any], store: Store, setting: str) -> bool:
    """Say whether an output, given by the named setting, holds the run of these fields; raises as `check_output`."""
    path = f"{store.where}/{RUN}"
    if not store.has(RUN):
        if store.holds_files():
            raise ValueError(f"{setting}: {store.where!r} is not empty and holds no run; choose another folder")
        return False
    try:
        earlier = dict(parse_json_object(store.read(RUN, MAX_JSON_BYTES), path)["fields"])
    except (OSError, ValueError, KeyError, TypeError):
        raise ValueError(f"{setting}: {path!r} cannot be read; choose another folder") from None
    names = sorted(earlier.keys() | fields.keys())
    changed = [name for name in names if earlier.get(name) != fields.get(name)]
    if changed:
        listed = "; ".join(f"{name}: {earlier.get(name)!r} -> {fields.get(name)!r}" for name in changed)
        raise ResumeRefused(
            f"{setting}: {store.where!r} holds another run; choose another folder, or undo what changed: {listed}"
        )
    return True


def recorded_field(store: Store, name: str) -> Any:
    """Return a field of the run that an output holds; None where there is none, or none that can be read.

    What is wrong with an output is for `check_same_run` to say.
    """
    try:
        return parse_json_object(store.read(RUN, MAX_JSON_BYTES), f"{store.where}/{RUN}")["fields"][name]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def environment_fields(packages: Sequence[str] = PACKAGES, code: Sequence[str] = OUTPUT_CODE) -> dict[str, Any]:
    """Return the code and library versions that can change a byte of the output."""
    versions = {f"version.{name}": importlib.metadata.version(name) for name in packages}
    return versions | {"version.python": platform.python_version(), "code_sha256": code_sha256(code)}


def code_sha256(patterns: Sequence[str] = OUTPUT_CODE) -> str:
    """Return one sha256 over the Python files of this package that can change a byte of the output."""
    root = Path(__file__).parent.parent
    total = hashlib.sha256()
    for path in sorted({path for pattern in patterns for path in root.glob(pattern)}):
        total.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return total.hexdigest()
