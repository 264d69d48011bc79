"""`calibration.json`: the settings a calibration found, for the model it was made with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clarep_ray.data.plain_json import plain_json
from clarep_ray.data.store import OutputStore
from clarep_ray.data.untrusted import read_json_object

CALIBRATION = "calibration.json"
VERSION = 1
MAX_BYTES = 64 * 2**20
"""Its curves are in it."""
SETTINGS = (
    "inversion.num_steps",
    "inversion.project_t",
    "inversion.spacing",
    "inversion.solver",
    "spectrum.layer",
    "spectrum.num_directions",
    "features.layer",
    "features.feature_t",
)
"""What a calibration may set, and nothing else: times and layers belong to a grid and a solver, so these are too."""


def write_calibration(
    store: OutputStore,
    *,
    settings: Mapping[str, Any],
    model: str,
    weights_sha256: str,
    fingerprint: str,
    notes: Sequence[str],
    tables: Mapping[str, Any],
) -> None:
    """Write the file into the root of an output."""
    record = {
        "version": VERSION,
        "settings": dict(settings),
        "model": {"name": model, "weights_sha256": weights_sha256},
        "fingerprint": fingerprint,
        "notes": list(notes),
        "curves": dict(tables),
    }
    store.put(CALIBRATION, plain_json(record))


def read_calibration(path: str) -> dict[str, Any]:
    """Return the file's record; ValueError naming the file where it is none."""
    try:
        record = read_json_object(Path(path), MAX_BYTES)
        if record["version"] != VERSION or not isinstance(record["settings"], dict):
            raise ValueError("another version")
        other = sorted(record["settings"].keys() - set(SETTINGS))
        if other:
            raise ValueError(f"it sets {other[0]!r}; valid: {', '.join(SETTINGS)}")
        if not isinstance(record["model"], dict) or not {"name", "weights_sha256"} <= record["model"].keys():
            raise ValueError("it does not say for which model it is")
        return {name: record[name] for name in ("settings", "model", "fingerprint", "notes", "curves")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"--calibration: {path!r} is no {CALIBRATION} of jobs/calibrate.py: {error}") from None


def check_model(path: str, name: str, weights_sha256: str) -> None:
    """Raise ValueError where the calibration was made with another model than the run's."""
    made_with = read_calibration(path)["model"]
    for what, found in (("name", name), ("weights_sha256", weights_sha256)):
        if made_with[what] != found:
            raise ValueError(
                f"--calibration: {path!r} was made with another model: {what} {made_with[what]!r}, here {found!r}"
            )
