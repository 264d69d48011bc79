"""Noise schedules from a diffusers scheduler folder: read, never assumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from clarep_ray.clarid.schedule import DiscreteSchedule
from clarep_ray.data.records import shown
from clarep_ray.data.untrusted import read_json_object

Prediction = Literal["epsilon", "v_prediction", "sample"]
PREDICTIONS: tuple[str, ...] = ("epsilon", "v_prediction", "sample")
CONFIG = "scheduler_config.json"
MAX_TIMESTEPS = 100_000


def read_schedule(folder: Path) -> tuple[DiscreteSchedule, Prediction]:
    """Return the schedule and the prediction type of `folder/scheduler_config.json`.

    Raises ValueError, naming the file and the value, for what this project does not carry out: other betas than
    linear, scaled linear or a list, other timestep spacings than leading, and zero terminal SNR.
    """
    path = folder / CONFIG
    try:
        config = read_json_object(path)
    except OSError:
        raise ValueError(f"model.weights: {str(path)!r} is missing") from None
    except ValueError as error:
        raise ValueError(f"model.weights: {error}") from None
    try:
        return _schedule(path, config)
    except (TypeError, OverflowError, RuntimeError) as error:  # values of another kind, or beyond float
        raise ValueError(f"model.weights: {str(path)!r} is no scheduler: {shown(str(error))}") from None


def _schedule(path: Path, config: dict[str, Any]) -> tuple[DiscreteSchedule, Prediction]:
    _supported(path, "prediction_type", config.get("prediction_type", "epsilon"), PREDICTIONS)
    _supported(path, "timestep_spacing", config.get("timestep_spacing", "leading"), ("leading",))
    _supported(path, "rescale_betas_zero_snr", config.get("rescale_betas_zero_snr", False), (False,))
    alphas_cumprod = torch.cumprod(1 - _betas(path, config), 0)
    schedule = DiscreteSchedule(
        alphas_cumprod,
        steps_offset=int(config.get("steps_offset", 0)),
        # The end of diffusers' grid: a clean latent, or one at the smallest trained noise (Stable Diffusion).
        clean_alpha_squared=1.0 if config.get("set_alpha_to_one", True) else float(alphas_cumprod[0]),
    )
    return schedule, config.get("prediction_type", "epsilon")


def write_linear_schedule(folder: Path, prediction: Prediction) -> None:
    """Write `folder/scheduler_config.json` with DDPM's 1000 linear betas, as diffusers' DDIMScheduler reads it."""
    config = {
        "_class_name": "DDIMScheduler",
        "num_train_timesteps": 1000,
        "beta_schedule": "linear",
        "beta_start": 1e-4,
        "beta_end": 0.02,
        "clip_sample": False,  # a clipped inversion is none
        "set_alpha_to_one": True,
        "steps_offset": 0,
        "timestep_spacing": "leading",
        "prediction_type": prediction,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")


def _betas(path: Path, config: dict[str, Any]) -> Tensor:
    """Return the betas in float32 as diffusers makes them, then in float64."""
    if config.get("trained_betas") is not None:
        if not isinstance(config["trained_betas"], list) or not all(map(_is_number, config["trained_betas"])):
            raise ValueError(f"model.weights: {str(path)!r} has trained_betas that are no list of numbers")
        betas = torch.tensor(config["trained_betas"], dtype=torch.float32).double()
        if not 1 < len(betas) <= MAX_TIMESTEPS or not bool(((betas > 0) & (betas < 1)).all()):
            raise ValueError(f"model.weights: {str(path)!r} has trained_betas that are no list between 0 and 1")
        return betas
    kind = config.get("beta_schedule", "linear")
    _supported(path, "beta_schedule", kind, ("linear", "scaled_linear"))
    for name in ("beta_start", "beta_end", "num_train_timesteps"):
        if not _is_number(config.get(name, 0.5)):
            raise ValueError(f"model.weights: {str(path)!r}: {name} is {repr(config[name])[:100]}; valid: a number")
    first, last = float(config.get("beta_start", 1e-4)), float(config.get("beta_end", 0.02))
    count = int(config.get("num_train_timesteps", 1000))
    if not (0 < first <= last < 1 and 1 < count <= MAX_TIMESTEPS):
        raise ValueError(
            f"model.weights: {str(path)!r} has {count} betas from {first} to {last}; valid: up to {MAX_TIMESTEPS} "
            "ascending ones between 0 and 1"
        )
    if kind == "linear":
        return torch.linspace(first, last, count, dtype=torch.float32).double()
    return (torch.linspace(first**0.5, last**0.5, count, dtype=torch.float32) ** 2).double()


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _supported(path: Path, name: str, value: object, valid: tuple[object, ...]) -> None:
    if value not in valid:
        raise ValueError(f"{str(path)!r}: {name} is {repr(value)[:200]}; supported: {', '.join(map(str, valid))}")
