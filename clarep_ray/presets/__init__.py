"""Presets of every job: name -> function that returns a complete config with the origin of its values."""

from clarep_ray.presets.calibrate import CALIBRATE
from clarep_ray.presets.extract import EXTRACT
from clarep_ray.presets.preset import Origin, Preset, origin_table
from clarep_ray.presets.train_cdm import TRAIN_CDM

__all__ = ["CALIBRATE", "EXTRACT", "TRAIN_CDM", "Origin", "Preset", "origin_table"]
