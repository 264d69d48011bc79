"""Presets of every job: name -> function that returns a complete config with the origin of its values."""

from clarep_ray.presets.baselines import BASELINES
from clarep_ray.presets.calibrate import CALIBRATE
from clarep_ray.presets.distill import DISTILL
from clarep_ray.presets.evaluate import EVALUATE
from clarep_ray.presets.extract import EXTRACT as CANONICAL
from clarep_ray.presets.preset import Origin, Preset, origin_table, with_own_output
from clarep_ray.presets.sweeps import CADISTILL_SWEEPS, CLARID_SWEEPS, Sweep
from clarep_ray.presets.train_cdm import TRAIN_CDM

EXTRACT = {
    name: make if name == "digits" else with_own_output(make, "output.path")
    for name, make in (CANONICAL | BASELINES).items()
}
"""The default preset, `digits`, writes to `outputs/extract`, every other one to `outputs/NAME`."""

__all__ = [
    "CADISTILL_SWEEPS",
    "CALIBRATE",
    "CLARID_SWEEPS",
    "DISTILL",
    "EVALUATE",
    "EXTRACT",
    "TRAIN_CDM",
    "Origin",
    "Preset",
    "Sweep",
    "origin_table",
]
