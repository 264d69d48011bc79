"""Named sweeps: name -> search space as data, what it is judged by, and what it changes of the preset."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from clarep_ray.config import PROJECTION_MODES, Space

PAPER_GUIDANCE = 3.0
CLARID_COLUMNS = ("nmi_null", "nmi_chance", "class_kept", "background_kept", "change_outside", "mean_num_removed")
CADISTILL_COLUMNS = ("clean", "same_background", "random_background", "foreground_only", "PGD 8")
UNGUIDED: Mapping[str, Any] = {"data.digits.count": 96, "decoding.guidance_scale": 1.0}
"""So many embedded pictures per seed, decoded without guidance, which would hide what the projection does."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A search space and how its trials are judged."""

    space: Space
    metric: str
    mode: Literal["max", "min"] = "max"
    columns: tuple[str, ...]
    """Metrics of the table and the picture; all are in trials.csv."""
    changes: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What the sweep changes of the preset's config."""


def _clarid(*space: Mapping[str, tuple[Any, ...]], changes: Mapping[str, Any] = UNGUIDED) -> Sweep:
    return Sweep(space=space, metric="nmi_null", columns=CLARID_COLUMNS, changes=changes)


def _cadistill(*space: Mapping[str, tuple[Any, ...]]) -> Sweep:
    return Sweep(space=space, metric="random_background", columns=CADISTILL_COLUMNS)


def window() -> Sweep:
    """Window M by elbow rule, beside fixed k (App. H.2): twelve trials from one SVD per sample."""
    return _clarid(
        {"elbow.rule": ("kneed", "chord"), "spectrum.num_directions": (5, 10, 20, 50)},
        {"elbow.rule": ("fixed",), "elbow.num_removed": (1, 5, 10, 20)},
    )


def fixed_k() -> Sweep:
    """The same k for every sample (Sec. 3.2.1, App. H.2)."""
    return _clarid({"elbow.rule": ("fixed",), "elbow.num_removed": (1, 2, 3, 5, 7, 10, 15, 20)})


def guidance() -> Sweep:
    """Guidance after the projection (Sec. 3.4): what scale does to pictures and features."""
    scales = (1.0, 1.5, 2.0, PAPER_GUIDANCE, 4.0, 6.0)
    return _clarid({"decoding.guidance_scale": scales}, changes={"data.digits.count": 96})


def project_t() -> Sweep:
    """Projection timestep t_e (Sec. 3.2.1, App. H.1); each has an SVD of its own. Values on the grid of 50 steps."""
    return _clarid({"inversion.project_t": (200.0, 400.0, 600.0, 800.0)})


def layer() -> Sweep:
    """Jacobian layer l (App. E); each has an SVD of its own. Layers of the embedded model."""
    return _clarid({"spectrum.layer": tuple(f"transformer_blocks.{number}" for number in range(4))})


def controls() -> Sweep:
    """Every projection control, without guidance and with the paper's: which of the two does what."""
    return _clarid(
        {"projection.mode": PROJECTION_MODES, "decoding.guidance_scale": (1.0, PAPER_GUIDANCE)},
        changes={"data.digits.count": 96},
    )


def num_clareps() -> Sweep:
    """Number of CLAReps (Sec. K.7.1; Fig. 34: a tenth of them is nearly enough)."""
    return _cadistill({"clareps.fraction": (0.1, 0.25, 0.5, 1.0)})


def balance() -> Sweep:
    """L_align against L_sep at a constant sum, down to each alone (Sec. K.7.2, Fig. 34)."""
    shares = (0.0, 0.25, 0.5, 0.75, 1.0)
    return _cadistill(
        *(
            {"loss.weight_align": (round(0.2 * share, 3),), "loss.weight_separate": (round(0.2 * (1 - share), 3),)}
            for share in shares
        )
    )


def _weight(name: str) -> Callable[[], Sweep]:
    def sweep() -> Sweep:
        return _cadistill({f"loss.weight_{name}": (0.0, 0.03, 0.1, 0.3, 1.0)})

    sweep.__doc__ = f"Weight of L_{name}, the others as they are (Sec. K.7.4, Fig. 35; 0: Sec. K.7.2, K.7.3)."
    return sweep


def temperature() -> Sweep:
    """Temperature of the contrastive terms (Eq. 3, 4; the paper has SupCon's 0.1)."""
    return _cadistill({"loss.temperature": (0.03, 0.07, 0.1, 0.2, 0.5)})


def guidance_of_clareps() -> Sweep:
    """Students of CLAReps decoded at several guidance scales (Sec. K.7.6, Fig. 36: 3 is best, more is worse).

    The CLAReps need `--output.extras clarid@1 clarid@2 clarid@3 clarid@6`.
    """
    return _cadistill({"clareps.pictures": tuple(f"clarid@{scale}" for scale in (1, 2, 3, 6))})


def controls_of_clareps() -> Sweep:
    """Students of every projection control, without guidance and with the paper's, for CLAReps: what earns the gain.

    The CLAReps need `--output.extras MODE@1 MODE@3 ...` for every mode; 18 students per seed.
    """
    scales = ("1", f"{PAPER_GUIDANCE:g}")
    return _cadistill({"clareps.pictures": tuple(f"{mode}@{w}" for mode in PROJECTION_MODES for w in scales)})


def pairing() -> Sweep:
    """Random against matched pairing (Sec. 4): any CLARep of the class, the image's own, or the nearest.

    The last two need a CLARep of every training image.
    """
    return _cadistill({"clareps.pairing": ("random", "same_image", "nearest")})


CLARID_SWEEPS: dict[str, Callable[[], Sweep]] = {
    make.__name__: make for make in (window, fixed_k, guidance, project_t, layer, controls)
}
CADISTILL_SWEEPS: dict[str, Callable[[], Sweep]] = {
    "balance": balance,
    "num_clareps": num_clareps,
    **{f"weight_{name}": _weight(name) for name in ("align", "separate", "cka")},
    "temperature": temperature,
    "guidance": guidance_of_clareps,
    "controls": controls_of_clareps,
    "pairing": pairing,
}
