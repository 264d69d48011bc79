"""Presets: name -> a complete config, with the origin of every value that is not a plain default."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
    origins: Mapping[str, Origin]


def _preset(base: Config, **groups: dict[str, Any]) -> Preset[Config]:
    """Return `base` with the fields of each origin group replaced."""
    origins: dict[str, Origin] = {}
    for origin, changes in groups.items():
        base = override(base, changes)
        origins |= dict.fromkeys(changes, origin)  # type: ignore[arg-type]
    return Preset(base, origins)


def _variant(parent: Preset[Config], changes: dict[str, Any]) -> Preset[Config]:
    """Return a preset with some fields chosen anew."""
    tuned: dict[str, Origin] = dict.fromkeys(changes, "tuned")
    return Preset(override(parent.config, changes), {**parent.origins, **tuned})


def digits() -> Preset[ExtractConfig]:
    """Embedded data and the model whose training backgrounds said nothing about the class: the default.

    About two minutes on two CPU cores. CLARID takes the background for extraneous and the digit for core.
    """
    return _preset(
        ExtractConfig(),
        paper={"inversion.num_refinements": 0, "decoding.guidance_scale": 3.0},
        inferred={"elbow.rule": "kneed"},
        tuned={
            "model.weights": "rho10",
            "data.digits.split": "random_background",
            "inversion.num_steps": 50,
            "inversion.project_t": 600.0,
            "spectrum.layer": "transformer_blocks.3",
            "spectrum.num_directions": 20,
            "spectrum.block_size": 4,
            "spectrum.tolerance": 5e-3,
            "features.layer": "transformer_blocks.2",
            "features.feature_t": 60.0,
            "output.extras": ("original", "reconstruction", "guidance"),
        },
    )


def digits_correlated() -> Preset[ExtractConfig]:
    """The model of correlated backgrounds (0.9), in distribution."""
    return _variant(digits(), {"model.weights": "rho90", "data.digits.split": "test"})


def digits_conflict() -> Preset[ExtractConfig]:
    """The same model, every picture on another class's background: what it takes for core is replaced, not removed."""
    return _variant(digits(), {"model.weights": "rho90", "data.digits.split": "conflict"})


def digits_smoke() -> Preset[ExtractConfig]:
    """The default's path on a few pictures, few steps and few directions: seconds of work."""
    return _variant(
        digits(),
        {
            "data.digits.count": 12,
            "engine.unit_size": 4,
            "engine.micro_batch": 4,
            "inversion.num_steps": 10,
            "spectrum.num_directions": 6,
        },
    )


EXTRACT: dict[str, Callable[[], Preset[ExtractConfig]]] = {
    "digits": digits,
    "digits_correlated": digits_correlated,
    "digits_conflict": digits_conflict,
    "digits_smoke": digits_smoke,
}


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
