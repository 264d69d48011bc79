"""Scheduler folders of diffusers: every class that is read equals diffusers' own object, all else is refused."""

import inspect
import json
import math
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from clarep_ray.clarid.sampling import decode
from clarep_ray.models.diffusers_schedule import (
    _ENDS_NOISY,  # pyright: ignore[reportPrivateUsage]
    CLASSES,
    REFUSED,
    VOID,
    read_schedule,
)
from tests.oracles import GaussianModel

UNCLIPPED: dict[str, Any] = {"clip_sample": False}
LEGACY = {"predict_epsilon", "tensor_format", "timestep_values"}
"""Fields of files by diffusers before 0.10, which no signature has any more."""


def write(folder: Path, config: dict[str, Any], index: dict[str, Any] | None = None) -> Path:
    (folder / "scheduler").mkdir(parents=True, exist_ok=True)
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    if index is not None:
        (folder / "model_index.json").write_text(json.dumps(index))
    return folder / "scheduler"


def own(name: str, config: dict[str, Any]) -> Any:
    return getattr(diffusers, name).from_config(config)


def grid(theirs: Any, num_steps: int) -> list[float]:
    theirs.set_timesteps(num_steps)
    times = theirs.timesteps.numpy().astype(np.float64)
    return sorted({round(float(t)) for t in np.rint(times[np.isfinite(times)])})


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_a_class_is_read_as_diffusers_reads_it(name: str, tmp_path: Path) -> None:
    signature = _signature(name)
    spacings = ["leading", "trailing", "linspace"] if "timestep_spacing" in signature else [None]
    betas = [{}, {"beta_schedule": "scaled_linear", "beta_start": 0.001, "beta_end": 0.013}]
    betas += [{"beta_schedule": "squaredcos_cap_v2"}, {"trained_betas": np.linspace(1e-3, 0.03, 1000).tolist()}]
    if name.startswith("DDPM"):
        betas.append({"beta_schedule": "sigmoid"})
    # KDPM2's times take diffusers a second.
    for number, changes in enumerate(betas[:1] if name.startswith("KDPM2") else betas):
        for spacing in spacings:
            config = {"clip_sample": False, "skip_prk_steps": True} | changes
            if spacing is not None:
                config |= {"timestep_spacing": spacing, "steps_offset": number % 2}
            theirs = own(name, config)
            schedule, prediction = read_schedule(write(tmp_path, {"_class_name": name, **config}))
            assert prediction == "epsilon"
            torch.testing.assert_close(schedule.alphas_cumprod.float(), theirs.alphas_cumprod, rtol=2e-5, atol=1e-9)
            for num_steps in (10, 50):
                found = schedule.times(num_steps)[1:].tolist()
                expected = grid(theirs, num_steps)
                if name.startswith("KDPM2"):  # its second-order steps stand between the grid's own
                    assert set(found) <= {*expected}, (spacing, num_steps)
                else:
                    assert found == expected, (spacing, num_steps)
            if hasattr(theirs, "sigmas") and not name.startswith(("DDIM", "DDPM", "PNDM")):
                last = theirs.sigmas[-1].item()
                alpha, sigma = schedule.alpha_sigma(schedule.times(10)[:1])
                assert (sigma / alpha).item() == pytest.approx(last, rel=1e-3, abs=1e-6)
            if hasattr(theirs, "final_alpha_cumprod"):
                assert schedule.clean_alpha_squared == pytest.approx(float(theirs.final_alpha_cumprod), rel=1e-6)


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_an_absent_field_is_the_default_of_its_class(name: str, tmp_path: Path) -> None:
    signature = _signature(name)
    assert {field: signature[field].default for field in CLASSES[name]} == dict(CLASSES[name])
    assert signature.keys() <= CLASSES[name].keys() | REFUSED.keys() | VOID
    folder = tmp_path / "scheduler"
    own(name, {}).save_pretrained(folder)
    if CLASSES[name].get("clip_sample"):
        with pytest.raises(ValueError, match="clip_sample is True, which is not carried out; valid: False"):
            read_schedule(folder)
        with pytest.raises(ValueError, match=rf"clip_sample is True \(default of {name}\)"):
            read_schedule(write(tmp_path, {"_class_name": name}))
        return
    written, _ = read_schedule(folder)  # what diffusers itself writes, -Infinity and all
    bare, _ = read_schedule(write(tmp_path, {"_class_name": name}))
    assert str(written) == str(bare)
    assert torch.equal(written.alphas_cumprod, bare.alphas_cumprod)


def test_every_field_that_is_known_is_one_of_diffusers() -> None:
    theirs = {field for name in CLASSES for field in _signature(name)}
    assert (REFUSED.keys() | VOID) - LEGACY <= theirs
    assert set(_ENDS_NOISY) <= CLASSES.keys()


def _signature(name: str) -> dict[str, inspect.Parameter]:
    found = inspect.signature(getattr(diffusers, name).__init__).parameters
    return {key: value for key, value in found.items() if key != "self"}


STRANGE = [
    *("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler", "FlowMatchEulerDiscreteScheduler", "LCMScheduler"),
    *("FlowMatchHeunDiscreteScheduler", "TCDScheduler", "CMStochasticIterativeScheduler", "SCMScheduler"),
    *("ScoreSdeVeScheduler", "KarrasVeScheduler", "IPNDMScheduler", "CogVideoXDDIMScheduler", "UnCLIPScheduler"),
    *("CosineDPMSolverMultistepScheduler", "DDIMInverseScheduler", "DDPMWuerstchenScheduler", "RePaintScheduler"),
    *("MyScheduler", "ddimscheduler", "", 3, ["DDIMScheduler"]),
]


@pytest.mark.parametrize("name", STRANGE)
def test_classes_of_other_noise_are_refused(name: object, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"_class_name of scheduler_config.json is .* valid: D") as raised:
        read_schedule(write(tmp_path, UNCLIPPED | {"_class_name": name}))
    assert len(str(raised.value)) < 700


def test_a_class_stands_in_the_folder_or_beside_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no _class_name"):
        read_schedule(write(tmp_path, UNCLIPPED))
    index = {"scheduler": ["diffusers", "PNDMScheduler"]}
    bare, _ = read_schedule(write(tmp_path, UNCLIPPED, index))
    assert bare.clean_alpha_squared < 1
    named = UNCLIPPED | {"_class_name": "FlaxDDIMScheduler"}
    with pytest.raises(ValueError, match="sample differently: DDIMScheduler and PNDMScheduler"):
        read_schedule(write(tmp_path, named, index))
    same, _ = read_schedule(write(tmp_path, named | {"set_alpha_to_one": False}, index))
    assert same.clean_alpha_squared == bare.clean_alpha_squared
    with pytest.raises(ValueError, match=r"_class_name of model_index\.json is 'EDMEulerScheduler'"):
        read_schedule(write(tmp_path, named, {"scheduler": ["diffusers", "EDMEulerScheduler"]}))


RELEASED: dict[str, tuple[dict[str, Any], str]] = {
    # As their repositories have them, but for _diffusers_version.
    "DiT-XL-2-256": (
        {
            "_class_name": "DDIMScheduler",
            "beta_end": 0.02,
            "beta_schedule": "linear",
            "beta_start": 0.0001,
            "clip_sample": False,
            "num_train_timesteps": 1000,
            "prediction_type": "epsilon",
            "set_alpha_to_one": True,
            "steps_offset": 0,
            "trained_betas": None,
        },
        "1000 timesteps, grid leading; decoding ends without noise",
    ),
    "stable-diffusion-2-1-base": (
        {
            "_class_name": "PNDMScheduler",
            "beta_end": 0.012,
            "beta_schedule": "scaled_linear",
            "beta_start": 0.00085,
            "clip_sample": False,
            "num_train_timesteps": 1000,
            "prediction_type": "epsilon",
            "set_alpha_to_one": False,
            "skip_prk_steps": True,
            "steps_offset": 1,
            "trained_betas": None,
        },
        "1000 timesteps, grid leading + 1; decoding ends at alpha^2 0.99915, the smallest trained noise, not without "
        "noise",
    ),
    "stable-diffusion-2 (Euler, with fields of the class before it)": (
        {
            "_class_name": "EulerDiscreteScheduler",
            "beta_end": 0.012,
            "beta_schedule": "scaled_linear",
            "beta_start": 0.00085,
            "clip_sample": False,
            "num_train_timesteps": 1000,
            "steps_offset": 1,
            "prediction_type": "v_prediction",
            "set_alpha_to_one": False,
            "skip_prk_steps": True,
            "trained_betas": None,
        },
        "1000 timesteps, grid linspace; decoding ends without noise",
    ),
    "sdxl-turbo's sampler": (
        {
            "_class_name": "EulerAncestralDiscreteScheduler",
            "beta_end": 0.012,
            "beta_schedule": "scaled_linear",
            "beta_start": 0.00085,
            "clip_sample": False,
            "interpolation_type": "linear",
            "steps_offset": 1,
            "num_train_timesteps": 1000,
            "prediction_type": "epsilon",
            "sample_max_value": 1.0,
            "set_alpha_to_one": False,
            "skip_prk_steps": True,
            "timestep_spacing": "trailing",
            "trained_betas": None,
        },
        "1000 timesteps, grid trailing; decoding ends without noise",
    ),
}


@pytest.mark.parametrize("name", sorted(RELEASED))
def test_released_folders_are_read(name: str, tmp_path: Path) -> None:
    config, expected = RELEASED[name]
    schedule, prediction = read_schedule(write(tmp_path, config))
    assert (str(schedule), prediction) == (expected, config["prediction_type"])


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"thresholding": True}, "thresholding is True, which is not carried out; valid: False"),
    ({"clip_sample": True}, "clip_sample is True"),
    ({"clip_sample": 0}, "clip_sample is 0"),
    ({"use_karras_sigmas": True}, "use_karras_sigmas is True"),
    ({"use_exponential_sigmas": True}, "use_exponential_sigmas is True"),
    ({"use_beta_sigmas": True}, "use_beta_sigmas is True"),
    ({"use_lu_lambdas": True}, "use_lu_lambdas is True"),
    ({"use_flow_sigmas": True}, "use_flow_sigmas is True"),
    ({"use_dynamic_shifting": True}, "use_dynamic_shifting is True"),
    ({"timestep_type": "continuous"}, "timestep_type is 'continuous'"),
    ({"sigma_min": 0.03}, "sigma_min is 0.03"),
    ({"lambda_min_clipped": -5.1}, r"lambda_min_clipped is -5\.1"),
    ({"shift_terminal": 0.1}, "shift_terminal is 0.1"),
    ({"predict_epsilon": False}, "predict_epsilon is False"),
    ({"prediction_type": "flow_prediction"}, "prediction_type is 'flow_prediction'; valid: epsilon, v_prediction"),
    ({"prediction_type": None}, "prediction_type is None"),
    ({"beta_schedule": "laplace"}, "beta_schedule is 'laplace'; valid: linear"),
    ({"timestep_spacing": "karras"}, "timestep_spacing is 'karras'; valid: leading, trailing, linspace"),
    ({"rescale_betas_zero_snr": 1}, "rescale_betas_zero_snr is 1; valid: True, False"),
    ({"rescale_betas_zero_snr": True}, "prediction_type epsilon, which says nothing without signal"),
    ({"set_alpha_to_one": "no"}, "set_alpha_to_one is 'no'; valid: True, False"),
    ({"num_train_timesteps": 1000.0}, r"num_train_timesteps is 1000\.0; valid: a whole number"),
    ({"num_train_timesteps": True}, "num_train_timesteps is True"),
    ({"steps_offset": -1}, "steps_offset is -1; valid: a whole number from 0 to 999"),
    ({"steps_offset": 1000}, "steps_offset is 1000"),
    ({"beta_start": "0.02"}, "beta_start is '0.02'; valid: a number"),
    ({"beta_start": True}, "beta_start is True"),
    ({"beta_end": math.nan}, "NaN is no number"),
    ({"beta_start": 0.03}, r"beta_start is 0\.03 and beta_end 0\.02; valid: ascending"),
    ({"trained_betas": [0.1, 0.2]}, "trained_betas has 2 numbers; valid: num_train_timesteps, which is 1000"),
    ({"trained_betas": [0.1, True]}, "trained_betas is no list of numbers"),
    ({"snr_shift_scale": 3.0}, "the field 'snr_shift_scale' is unknown"),
    ({"timestep_scaling": 10.0}, "the field 'timestep_scaling' is unknown"),
    ({"sigma_data": 0.5}, "the field 'sigma_data' is unknown"),
    ({"shift": 3.0}, "the field 'shift' is unknown"),
]


@pytest.mark.parametrize(("change", "message"), WRONG, ids=[json.dumps(change) for change, _ in WRONG])
def test_what_is_not_carried_out_is_refused_by_name(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        read_schedule(write(tmp_path, {"_class_name": "DDIMScheduler", "clip_sample": False} | change))


def test_zero_snr_is_refused_where_the_class_has_none(tmp_path: Path) -> None:
    config = {"_class_name": "PNDMScheduler", "prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    with pytest.raises(ValueError, match="rescale_betas_zero_snr is True"):
        read_schedule(write(tmp_path, config))


def test_the_first_steps_of_a_grid_beyond_the_training_are_refused(tmp_path: Path) -> None:
    config = {"_class_name": "PNDMScheduler", "steps_offset": 1}
    schedule, _ = read_schedule(write(tmp_path, config))
    with pytest.raises(ValueError, match=r"num_steps: 1000 with the model's steps_offset 1 ends at timestep 1000"):
        schedule.times(1000)
    assert schedule.times(500)[-1] == 999
    solver, _ = read_schedule(write(tmp_path, {"_class_name": "UniPCMultistepScheduler"}))
    with pytest.raises(ValueError, match=r"num_steps: 1000 is outside 1\.\.999"):
        solver.times(1000)


@pytest.mark.parametrize(
    ("name", "spacing"),
    [
        ("DDIMScheduler", "leading"),
        ("DDIMScheduler", "trailing"),
        # diffusers' DDIM steps by T // n whatever its grid; of first order DPM-Solver++ is DDIM on its own.
        ("DPMSolverMultistepScheduler", "linspace"),
    ],
)
@pytest.mark.parametrize("zero_snr", [False, True])
def test_a_path_is_the_samplers_own(name: str, spacing: str, zero_snr: bool, tmp_path: Path) -> None:
    """First-order steps on a network that predicts v, as diffusers takes them."""
    config = {"_class_name": name, "clip_sample": False, "prediction_type": "v_prediction", "solver_order": 1}
    config |= {"timestep_spacing": spacing, "rescale_betas_zero_snr": zero_snr, "set_alpha_to_one": False}
    schedule, _ = read_schedule(write(tmp_path, config))
    theirs = own(name, config)
    theirs.set_timesteps(20)

    def network(x_t: torch.Tensor, t: float) -> torch.Tensor:
        return 0.5 * x_t.roll(1, -1) + math.sin(t / 200)

    def eps(x_t: torch.Tensor, t: float) -> torch.Tensor:
        alpha, sigma = (scale.item() for scale in schedule.alpha_sigma(torch.tensor([t])))
        return alpha * network(x_t, t) + sigma * x_t

    x_t = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    expected = x_t.clone()
    for t in theirs.timesteps:
        expected = theirs.step(network(expected, float(t)), t, expected).prev_sample
    found = decode(eps, x_t, GaussianModel(torch.zeros(1, 8), torch.ones(8), schedule), schedule.times(20))
    # Where diffusers begins without any signal, ours begins with 2^-12 of it.
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-2 if zero_snr and spacing != "leading" else 2e-5)
