"""Compute damaged units of a finished extraction again."""

from __future__ import annotations

import json
from pathlib import Path

from clarep_ray import dotted
from clarep_ray.cluster.extract import RUN, run_extraction
from clarep_ray.config import ExtractConfig
from clarep_ray.data.verify import Damage, withdraw


def repair(folder: Path, damages: list[Damage]) -> list[int]:
    """Take damaged units out, run the same extraction for them and rewrite index and root; return the units.

    Raises ValueError where the run's own record is lost, ResumeRefused where code or weights have changed since.
    """
    try:
        flat = json.loads((folder / RUN).read_bytes())["config"]
    except (OSError, ValueError, KeyError):
        raise ValueError(f"{folder / RUN} cannot be read; start a new output instead") from None
    config = dotted.override(dotted.from_flat(ExtractConfig, flat), {"output.path": str(folder)})
    units = withdraw(folder, damages)
    run_extraction(config)
    return units
