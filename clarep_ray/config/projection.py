"""Names of the projection and its controls, and of the pictures that `output.extras` asks for."""

from __future__ import annotations

import math
import re
import typing
from dataclasses import dataclass
from typing import Literal

from clarep_ray.config.checks import require

ProjectionMode = Literal[
    "clarid",
    "none",
    "random",
    "shrink",
    "random_shrink",
    "other_image",
    "unconditional",
    "restore_norm",
    "centred",
]
PROJECTION_MODES: tuple[str, ...] = typing.get_args(ProjectionMode)
INPUT, ORIGINAL = "input", "original"
"""The image as it was read (decoded, resized, cropped), and as the model holds it: decode(encode(image)), which is the
same for models of pixels alone."""
UNPROJECTED = (INPUT, ORIGINAL)
MAX_EXTRA_LENGTH = 25
"""Characters of an extra's name: a sample's key and a suffix stand beside it in the name of a tar member."""
SCALE = re.compile(r"-?[0-9]*\.?[0-9]+(e[+-]?[0-9]+)?", re.ASCII)


@dataclass(frozen=True)
class Extra:
    """One more picture per sample: a projection mode decoded at a guidance scale."""

    name: str
    mode: str
    guidance_scale: float | None
    """None takes the run's own scale."""


def parse_extra(name: str) -> Extra | None:
    """Return what an `output.extras` entry stands for; None for those of UNPROJECTED, which are decoded from no x_t.

    Raises ValueError naming the entry and the valid ones.
    """
    if name in UNPROJECTED:
        return None
    if name == "reconstruction":
        return Extra(name, "none", 1.0)
    if name == "guidance":
        return Extra(name, "none", None)
    mode, _, scale = name.partition("@")
    valid = (
        f"input, original, reconstruction, guidance, or MODE@SCALE of at most {MAX_EXTRA_LENGTH} characters with MODE "
        f"one of {', '.join(PROJECTION_MODES)}"
    )
    known = mode in PROJECTION_MODES and SCALE.fullmatch(scale) is not None and len(name) <= MAX_EXTRA_LENGTH
    require(known and math.isfinite(float(scale)), "output.extras", name, valid)
    return Extra(name, mode, float(scale))
