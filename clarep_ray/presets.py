"""Presets: name -> a complete config, with the origin of every value that is not a plain default."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from clarep_ray.config import ExtractConfig, TrainCdmConfig
from clarep_ray.dotted import flatten, override

Origin = Literal["paper", "inferred", "tuned", "default", "user"]
Config = TypeVar("Config")


@dataclass(frozen=True)
class Preset(Generic[Config]):
    """A config and where its values come from.

    `origins` maps dotted fields to `paper` (in its text), `inferred` (from public code or prior work) or `tuned`
    (chosen here by measurement); fields it does not name are engineering defaults.
    """

    config: Config
    origins: dict[str, Origin]


def _preset(base: Config, **groups: dict[str, Any]) -> Preset[Config]:
    """Return `base` with the fields of each origin group replaced."""
    origins: dict[str, Origin] = {}
    for origin, changes in groups.items():
        base = override(base, changes)
        origins |= dict.fromkeys(changes, origin)  # type: ignore[arg-type]
    return Preset(base, origins)


def spurious_digits() -> Preset[ExtractConfig]:
    """Embedded model and data, in-distribution: the default. README "First run"."""
    return _preset(
        ExtractConfig(),
        paper={"inversion.num_refinements": 0},
        inferred={"spectrum.layer": "transformer_blocks.3", "spectrum.num_directions": 50, "elbow.rule": "kneed"},
        tuned={
            "inversion.num_steps": 50,
            "inversion.project_t": 800,
            "features.layer": "transformer_blocks.2",
            "features.feature_t": 60,
            "decoding.guidance_scale": 3.0,
            "spectrum.tolerance": 1e-2,
            "spectrum.block_size": 4,
            "output.extras": ("original", "reconstruction", "guidance"),
        },
    )


EXTRACT: dict[str, Callable[[], Preset[ExtractConfig]]] = {"spurious_digits": spurious_digits}


def train_rho90() -> Preset[TrainCdmConfig]:
    """The shipped model of strongly correlated backgrounds (correlation 0.9)."""
    return _preset(TrainCdmConfig(), tuned={"patch_size": 2, "num_steps": 7000, "correlation": 0.9})


def train_rho10() -> Preset[TrainCdmConfig]:
    """The shipped model of uncorrelated backgrounds (correlation 0.1: each of ten kinds equally likely)."""
    return _preset(TrainCdmConfig(), tuned={"patch_size": 2, "num_steps": 7000, "correlation": 0.1})


def train_smoke() -> Preset[TrainCdmConfig]:
    """A few steps of a tiny network, to see the path run."""
    return _preset(
        TrainCdmConfig(),
        tuned={
            "image_size": 8,
            "hidden_size": 16,
            "num_blocks": 1,
            "num_heads": 2,
            "num_images": 64,
            "batch_size": 8,
            "num_steps": 8,
            "checkpoint_every": 4,
        },
    )


TRAIN_CDM: dict[str, Callable[[], Preset[TrainCdmConfig]]] = {
    "rho90": train_rho90,
    "rho10": train_rho10,
    "smoke": train_smoke,
}


def origin_table(preset: Preset[Any], resolved: Any) -> list[tuple[str, Any, Origin]]:
    """Return (dotted field, value, origin) rows; a value that differs from the preset's came from the user."""
    before = flatten(preset.config)
    return [
        (name, value, preset.origins.get(name, "default") if value == before[name] else "user")
        for name, value in flatten(resolved).items()
    ]
