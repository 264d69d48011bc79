"""Adapters: every family of diffusion models behind `clarid.model.DiffusionModel`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from clarep_ray.config import ModelConfig

if TYPE_CHECKING:
    from clarep_ray.models.digits_dit import DigitsDit


def _digits_dit(config: ModelConfig) -> DigitsDit:
    from clarep_ray.models import digits_dit

    return digits_dit.build(config.weights)


def _digits_dit_folder(config: ModelConfig) -> Path:
    from clarep_ray.models import digits_dit

    return digits_dit.weights_folder(config.weights)


MODELS: dict[str, Callable[[ModelConfig], DigitsDit]] = {"digits_dit": _digits_dit}
WEIGHTS: dict[str, Callable[[ModelConfig], Path]] = {"digits_dit": _digits_dit_folder}


def build(config: ModelConfig) -> DigitsDit:
    """Return the model of a config, frozen, on the CPU; ValueError for an unknown name or missing weights."""
    return MODELS[_known(config.name)](config)


def absolute_weights(config: ModelConfig) -> str:
    """Return the config's weights as every process finds them: a shipped name, or an absolute path.

    Raises ValueError where there are none.
    """
    folder = WEIGHTS[_known(config.name)](config)
    return config.weights if folder.is_relative_to(Path(__file__).parent) else str(folder.absolute())


def weights_sha256(config: ModelConfig) -> str:
    """Return one sha256 over the names and bytes of the model's files."""
    folder = WEIGHTS[_known(config.name)](config)
    total = hashlib.sha256()
    for path in sorted(folder.glob("*.json")) + sorted(folder.glob("*.safetensors")):
        total.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def _known(name: str) -> str:
    if name not in MODELS:
        raise ValueError(f"model.name: {name!r} is unknown; valid: {', '.join(sorted(MODELS))}")
    return name
