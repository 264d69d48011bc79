"""Noise schedules from a diffusers scheduler folder: its class and every field of it are read, never assumed.

What a model was trained with (betas, prediction type, zero terminal SNR) and the grid of its sampler (spacing, offset,
end) are carried out. How that sampler steps from point to point is not: `inversion.solver` says it. What asks for
another path than the model's own (clipped or thresholded estimates, other noise levels, flows) is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from clarep_ray.clarid.schedule import DiscreteSchedule
from clarep_ray.data.durable import make_folder
from clarep_ray.data.inside import write_inside
from clarep_ray.data.plain_json import plain_json
from clarep_ray.data.records import shown
from clarep_ray.data.untrusted import read_json_object

Prediction = Literal["epsilon", "v_prediction", "sample"]
CONFIG = "scheduler_config.json"
MAX_TIMESTEPS = 100_000
SMALLEST_ALPHA_SQUARED = 2.0**-24
"""Of the last timestep where the betas end without signal, as most of diffusers has it: 0 has no logarithm."""

_TRAINED = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "prediction_type": "epsilon",
}
_LATENT = _TRAINED | {"beta_start": 0.00085, "beta_end": 0.012}
_ZERO_SNR = {"rescale_betas_zero_snr": False}
_LEADING = {"timestep_spacing": "leading", "steps_offset": 0}
_LINSPACE = {"timestep_spacing": "linspace", "steps_offset": 0}
_SIGMAS = {"final_sigmas_type": "zero"}
CLASSES: Mapping[str, Mapping[str, Any]] = {
    "DDIMScheduler": _TRAINED | _ZERO_SNR | _LEADING | {"set_alpha_to_one": True, "clip_sample": True},
    "DDIMParallelScheduler": _TRAINED | _ZERO_SNR | _LEADING | {"set_alpha_to_one": True, "clip_sample": True},
    "DDPMScheduler": _TRAINED | _ZERO_SNR | _LEADING | {"clip_sample": True},
    "DDPMParallelScheduler": _TRAINED | _ZERO_SNR | _LEADING | {"clip_sample": True},
    "PNDMScheduler": _TRAINED | _LEADING | {"set_alpha_to_one": False},
    "DPMSolverMultistepScheduler": _TRAINED | _ZERO_SNR | _LINSPACE | _SIGMAS,
    "DPMSolverSinglestepScheduler": _TRAINED | _SIGMAS,
    "UniPCMultistepScheduler": _TRAINED | _ZERO_SNR | _LINSPACE | _SIGMAS,
    "DEISMultistepScheduler": _TRAINED | _LINSPACE,
    "SASolverScheduler": _TRAINED | _LINSPACE,
    "EulerDiscreteScheduler": _TRAINED | _ZERO_SNR | _LINSPACE | _SIGMAS,
    "EulerAncestralDiscreteScheduler": _TRAINED | _ZERO_SNR | _LINSPACE,
    "LMSDiscreteScheduler": _TRAINED | _LINSPACE,
    "HeunDiscreteScheduler": _LATENT | _LINSPACE,
    "KDPM2DiscreteScheduler": _LATENT | _LINSPACE,
    "KDPM2AncestralDiscreteScheduler": _LATENT | _LINSPACE,
}
"""Classes of discrete variance-preserving schedules -> the fields that are carried out, with the class's own defaults.

A field that a class does not have is void in its file, as it is for diffusers."""
_VALID = f"DDIMScheduler, PNDMScheduler or {len(CLASSES) - 2} more of discrete timesteps"
_WITHOUT_FIRST = (
    *("DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "UniPCMultistepScheduler"),
    *("DEISMultistepScheduler", "SASolverScheduler"),
)
_ENDS_NOISY = ("DEISMultistepScheduler", "SASolverScheduler")
REFUSED: Mapping[str, tuple[Any, ...]] = {
    "clip_sample": (False,),
    "thresholding": (False,),
    "use_karras_sigmas": (False, None),
    "use_exponential_sigmas": (False, None),
    "use_beta_sigmas": (False, None),
    "use_lu_lambdas": (False, None),
    "use_flow_sigmas": (False, None),
    "use_dynamic_shifting": (False, None),
    "rescale_betas_zero_snr": (False,),
    "timestep_type": ("discrete",),
    "sigma_min": (None,),
    "sigma_max": (None,),
    "shift_terminal": (None,),
    "lambda_min_clipped": (-math.inf, None),
    "predict_epsilon": (True, None),
}
"""Fields that ask for what is not carried out -> the values that do not, whatever the class."""
VOID = frozenset(
    (
        *("solver_order", "algorithm_type", "solver_type", "lower_order_final", "euler_at_final", "predict_x0"),
        *("disable_corrector", "solver_p", "skip_prk_steps", "predictor_order", "corrector_order", "tau_func"),
        *("variance_type", "interpolation_type"),
        *("dynamic_thresholding_ratio", "clip_sample_range", "sample_max_value", "time_shift_type", "flow_shift"),
        *("tensor_format", "timestep_values"),
    )
)
"""Fields that say how a solver steps, or how what is refused above would be done."""


def read_schedule(folder: Path) -> tuple[DiscreteSchedule, Prediction]:
    """Return the schedule and the prediction type of `folder/scheduler_config.json`.

    Its class is that of `_class_name` and of model_index.json beside the folder, by which diffusers' pipelines go: two
    classes must come to the same. Raises ValueError, naming the file, the field and the value, for a class that is not
    in `CLASSES`, a field that nobody knows, a value of another kind, and what is not carried out (`REFUSED`).
    """
    path = folder / CONFIG
    try:
        config = read_json_object(path, infinite=True)
    except OSError:
        raise ValueError(f"model.weights: {str(path)!r} is missing") from None
    except ValueError as error:
        raise ValueError(f"model.weights: {error}") from None
    try:
        return _of_classes(config, _classes(config, folder))
    except (ValueError, TypeError, OverflowError, RuntimeError) as error:  # or values beyond what torch takes
        raise ValueError(f"model.weights: {str(path)!r}: {shown(str(error))}") from None


def _classes(config: Mapping[str, Any], folder: Path) -> list[str]:
    """Return the class, or the two, that a folder names; ValueError for none and for one that is not known."""
    found = {CONFIG: config.get("_class_name")}
    index = folder.parent / "model_index.json"
    if index.is_file():
        entry = read_json_object(index).get(folder.name)
        found[index.name] = entry[-1] if isinstance(entry, list) and entry else entry
    named = {where: name for where, name in found.items() if name is not None}
    for where, name in named.items():
        if not isinstance(name, str) or name.removeprefix("Flax") not in CLASSES:
            raise ValueError(
                f"_class_name of {where} is {repr(name)[:60]}, no sampler of this family's noise; valid: {_VALID}"
            )
    if not named:
        raise ValueError(f"there is no _class_name, without which no field has a meaning; valid: {_VALID}")
    return sorted({name.removeprefix("Flax") for name in named.values()})


def _of_classes(config: Mapping[str, Any], classes: list[str]) -> tuple[DiscreteSchedule, Prediction]:
    (schedule, prediction), *others = [_schedule(config, name) for name in classes]
    if any(
        str(other) != str(schedule) or not torch.equal(other.alphas_cumprod, schedule.alphas_cumprod)
        for other, _ in others
    ):
        raise ValueError(
            f"_class_name and model_index.json name two classes that sample differently: {' and '.join(classes)}; "
            "valid: one of them in both"
        )
    return schedule, prediction


def _schedule(config: Mapping[str, Any], class_name: str) -> tuple[DiscreteSchedule, Prediction]:
    fields = CLASSES[class_name]
    known = {name for each in CLASSES.values() for name in each} | REFUSED.keys() | VOID
    unknown = sorted(name for name in config if name not in known and not name.startswith("_"))
    if unknown:
        raise ValueError(f"the field {unknown[0][:100]!r} is unknown, and may mean anything; valid: diffusers' own")
    given: dict[str, Any] = {**fields, **{name: value for name, value in config.items() if name in fields}}
    for name, valid in REFUSED.items():
        carried_out = name == "rescale_betas_zero_snr" and name in fields
        value = given.get(name, config.get(name, valid[0]))
        if not carried_out and not _one_of(value, valid):
            absent = "" if name in config else f" (default of {class_name})"
            raise ValueError(f"{name} is {repr(value)[:100]}{absent}, which is not carried out; valid: {valid[0]}")
    prediction = _choice(given, "prediction_type", ("epsilon", "v_prediction", "sample"))
    alphas_cumprod = _alphas_cumprod(given, prediction)
    offset = _whole(given.get("steps_offset", 0), "steps_offset", 0, len(alphas_cumprod) - 1)
    ends_noisy = class_name in _ENDS_NOISY
    if "final_sigmas_type" in given:
        ends_noisy = _choice(given, "final_sigmas_type", ("zero", "sigma_min")) == "sigma_min"
    if "set_alpha_to_one" in given:
        ends_noisy = _choice(given, "set_alpha_to_one", (True, False)) is False
    spacing = _choice({"timestep_spacing": "linspace"} | given, "timestep_spacing", ("leading", "trailing", "linspace"))
    schedule = DiscreteSchedule(
        alphas_cumprod,
        steps_offset=offset if spacing == "leading" else 0,
        # The end of diffusers' grid: a clean latent, or one at the smallest trained noise (Stable Diffusion).
        clean_alpha_squared=float(alphas_cumprod[0]) if ends_noisy else 1.0,
        spacing=spacing,
        without_first=class_name in _WITHOUT_FIRST and spacing != "trailing",
    )
    return schedule, prediction


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
    make_folder(folder.parent)
    write_inside(folder.parent, f"{folder.name}/{CONFIG}", plain_json(config))


def _alphas_cumprod(given: Mapping[str, Any], prediction: Prediction) -> Tensor:
    """Return alpha^2 (T,), float64, of betas made in float32 as diffusers makes them."""
    betas = _betas(given).double()
    alphas_cumprod = torch.cumprod(1 - betas, 0)
    if "rescale_betas_zero_snr" not in given or not _choice(given, "rescale_betas_zero_snr", (True, False)):
        return alphas_cumprod
    if prediction == "epsilon":
        raise ValueError(
            "rescale_betas_zero_snr is True and prediction_type epsilon, which says nothing without signal"
        )
    # Lin et al. 2024, Algorithm 1: the square roots are shifted to end at 0 and scaled to begin where they did.
    roots = alphas_cumprod.sqrt()
    rescaled = ((roots - roots[-1]) * (roots[0] / (roots[0] - roots[-1]))) ** 2
    rescaled[-1] = min(SMALLEST_ALPHA_SQUARED, rescaled[-2].item() / 2)
    return rescaled


def _betas(given: Mapping[str, Any]) -> Tensor:
    count = _whole(given["num_train_timesteps"], "num_train_timesteps", 2, MAX_TIMESTEPS)
    trained = given["trained_betas"]
    if trained is not None:
        if not isinstance(trained, list) or not all(_is_number(beta) and 0 < beta < 1 for beta in trained):
            raise ValueError("trained_betas is no list of numbers between 0 and 1")
        if len(trained) != count:
            raise ValueError(f"trained_betas has {len(trained)} numbers; valid: num_train_timesteps, which is {count}")
        return torch.tensor(trained, dtype=torch.float32)
    kind = _choice(given, "beta_schedule", ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"))
    if kind == "squaredcos_cap_v2":  # Nichol and Dhariwal 2021, Eq. 17
        edges = ((torch.arange(count + 1, dtype=torch.float64) / count + 0.008) / 1.008 * math.pi / 2).cos() ** 2
        return (1 - edges[1:] / edges[:-1]).clamp(max=0.999).float()
    first, last = given["beta_start"], given["beta_end"]
    for name, value in (("beta_start", first), ("beta_end", last)):
        if not _is_number(value):
            raise ValueError(f"{name} is {repr(value)[:100]}; valid: a number")
    if not 0 < first <= last < 1:
        raise ValueError(f"beta_start is {first} and beta_end {last}; valid: ascending, between 0 and 1")
    if kind == "linear":
        return torch.linspace(first, last, count, dtype=torch.float32)
    if kind == "sigmoid":
        return torch.sigmoid(torch.linspace(-6, 6, count)) * (last - first) + first
    return torch.linspace(first**0.5, last**0.5, count, dtype=torch.float32) ** 2


def _choice(given: Mapping[str, Any], name: str, valid: tuple[Any, ...]) -> Any:
    if not _one_of(given[name], valid):
        raise ValueError(f"{name} is {repr(given[name])[:100]}; valid: {', '.join(map(str, valid))}")
    return given[name]


def _one_of(value: object, valid: tuple[Any, ...]) -> bool:
    """Say whether a value is one of the valid ones and of its type: 1 is not True."""
    return any(type(value) is type(known) and value == known for known in valid)


def _whole(value: object, name: str, least: int, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(f"{name} is {repr(value)[:100]}; valid: a whole number from {least} to {most}")
    return value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
