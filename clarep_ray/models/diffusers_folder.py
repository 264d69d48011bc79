"""Components of a diffusers folder, each loaded by a class of our choice, from safetensors, without the network."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import torch
from torch import nn

CONVERT = "convert .bin weights once: save_pretrained(folder, safe_serialization=True) in an environment you trust"


def load_component(kind: Any, weights: str, name: str, precision: str) -> nn.Module:
    """Return `weights/name` as a `kind`, which must be a diffusers or transformers model class.

    Raises ValueError naming what is missing: the folder, its config.json, or weights in safetensors.
    """
    folder = Path(weights) / name
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"model.weights: {weights!r} has no {name}/config.json; valid: a diffusers folder with {name}/"
        )
    if not list(folder.glob("*.safetensors")):
        raise ValueError(f"model.weights: {str(folder)!r} has no .safetensors weights; {CONVERT}")
    # transformers reports its progress on stderr; what goes wrong is raised
    with contextlib.redirect_stderr(io.StringIO()):
        return kind.from_pretrained(
            str(folder), use_safetensors=True, local_files_only=True, torch_dtype=getattr(torch, precision)
        )


def imagenet_names(num_classes: int) -> tuple[str, ...]:
    """Return the sorted WordNet ids of ImageNet-1k for 1000 classes, else numbers."""
    if num_classes != 1000:
        return tuple(map(str, range(num_classes)))
    from timm.data.imagenet_info import ImageNetInfo

    return tuple(ImageNetInfo().label_names())
