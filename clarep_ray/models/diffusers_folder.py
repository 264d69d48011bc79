"""Components of a diffusers folder, each loaded by a class of our choice, from safetensors, without the network."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import torch
from torch import nn

from clarep_ray.data.records import shown
from clarep_ray.models.weight_files import check_fits, read_sizes, stored_shapes

CONVERT = "convert .bin weights once: save_pretrained(folder, safe_serialization=True) in an environment you trust"


def load_component(kind: Any, weights: str, name: str, precision: str) -> nn.Module:
    """Return `weights/name` as a `kind`, which must be a diffusers or transformers model class.

    Raises ValueError naming what is missing: the folder, its config.json, or weights in safetensors; or that
    the config describes another network than the weights are of.
    """
    folder = Path(weights) / name
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"model.weights: {weights!r} has no {name}/config.json; valid: a diffusers folder with {name}/"
        )
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ValueError(f"model.weights: {str(folder)!r} has no .safetensors weights; {CONVERT}")
    shapes = {f"{path.name}:{key}": shape for path in files for key, shape in stored_shapes(path).items()}
    config = read_sizes(folder / "config.json", len(shapes))
    check_fits(lambda: _empty(kind, config), shapes, f"model.weights: {str(folder / 'config.json')!r}")
    try:
        # transformers reports its progress on stderr; what goes wrong is raised
        with contextlib.redirect_stderr(io.StringIO()):
            network, found = kind.from_pretrained(
                str(folder),
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                torch_dtype=getattr(torch, precision),
                output_loading_info=True,
            )
        if found["missing_keys"]:  # the libraries leave them random
            raise ValueError(f"parameter {min(found['missing_keys'])!r} is missing")
        return network
    except Exception as error:  # the libraries raise many kinds for what does not fit
        raise ValueError(f"model.weights: {str(folder)!r} holds no {kind.__name__}: {shown(str(error))}") from None


def _empty(kind: Any, config: dict[str, Any]) -> nn.Module:
    """Return the network that a config describes: a diffusers class builds itself, a transformers one needs its own."""
    return kind.from_config(config) if hasattr(kind, "from_config") else kind(kind.config_class(**config))
