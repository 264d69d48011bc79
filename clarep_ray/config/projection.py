"""Names of the projection and its controls, and of the pictures that `output.extras` asks for."""

from __future__ import annotations

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
    valid = f"input, original, reconstruction, guidance, or MODE@SCALE with MODE one of {', '.join(PROJECTION_MODES)}"
    require(mode in PROJECTION_MODES, "output.extras", name, valid)
    try:
        return Extra(name, mode, float(scale))
    except ValueError:
        raise ValueError(f"output.extras: {name!r} is not valid; valid: {valid}") from None
