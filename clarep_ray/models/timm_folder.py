"""timm models from folders as the Hugging Face hub has them: config.json and model.safetensors."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from torch import nn

from clarep_ray.data.records import shown
from clarep_ray.data.views import MAX_SIDE, View
from clarep_ray.models.weight_files import check_fits, read_sizes, stored_shapes

CONFIG, WEIGHTS = "config.json", "model.safetensors"


def load_timm(folder: Path, field: str) -> nn.Module:
    """Return the model of a folder with its weights, on the CPU.

    Raises ValueError, naming the config field and the folder, for a damaged file, an architecture that timm does not
    know, or weights of another network.
    """
    from timm import create_model

    where = f"{field}: {str(folder)!r}"
    try:
        shapes = stored_shapes(folder / WEIGHTS)
        check_timm_config(folder, field, len(shapes))
        check_fits(lambda: create_model(f"local-dir:{folder}", pretrained=False), shapes, "its config.json")
        network: Any = create_model(f"local-dir:{folder}", pretrained=True)
        if network.num_classes != network.pretrained_cfg["num_classes"]:  # timm would leave the last layer random
            raise ValueError(f"it has {network.num_classes} classes, and its config.json names another number")
        return network
    except Exception as error:  # timm and torch raise many kinds for what does not fit
        raise ValueError(f"{where} holds no timm model: {shown(str(error))}") from None


def check_timm_config(folder: Path, field: str, num_tensors: int) -> dict[str, Any]:
    """Return a folder's config.json; ValueError where it names no architecture or a size that cannot be."""
    config = read_sizes(folder / CONFIG, num_tensors)
    cfg = config.get("pretrained_cfg", {})
    if not isinstance(config.get("architecture"), str) or not isinstance(cfg, dict):
        raise ValueError(f"{field}: {str(folder / CONFIG)!r} names no architecture")
    return config


def timm_view(network: nn.Module, folder: Path, field: str) -> View:
    """Return how a model's own config has test images resized and cut, as timm's own evaluation does it.

    Raises ValueError, naming the config field and the folder, for a config that no `View` can follow.
    """
    from timm.data.config import resolve_data_config

    data = resolve_data_config(model=network)
    channels, height, width = data["input_size"]
    try:
        if channels != 3 or height != width:
            raise ValueError(f"input_size: {data['input_size']} is not valid; valid: (3, side, side)")
        resize = math.floor(height / data["crop_pct"])
        if resize > MAX_SIDE:
            raise ValueError(f"input_size and crop_pct: images of {resize} pixels are not valid; valid: {MAX_SIDE}")
        mode = data.get("crop_mode") or "center"
        return View(image_size=height, resize=resize, interpolation=data["interpolation"], mode=mode)
    except (ValueError, ArithmeticError, TypeError) as error:
        raise ValueError(f"{field}: {str(folder / CONFIG)!r}: {error}") from None
