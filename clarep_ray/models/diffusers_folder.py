"""Components of a diffusers folder, each loaded by a class of our choice, from safetensors, without the network."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from clarep_ray.data.records import shown
from clarep_ray.models.weight_files import check_fits, read_sizes, stored_shapes

FORMER_CLASSES = {"DiTTransformer2DModel": "Transformer2DModel"}
"""Class -> what diffusers called it, together with others, before; `norm_type` tells them apart."""
NAMES_CODE = (
    *("attn_implementation", "_attn_implementation", "_attn_implementation_internal", "kernel_config", "use_kernels"),
    *("experts_implementation", "_experts_implementation", "_experts_implementation_internal", "quantization_config"),
)
PLAIN = ("eager", "sdpa", False)
"""Settings of configs that name kernels of the Hub or other packages, and their values that name none."""
CONVERT = "convert .bin weights once: save_pretrained(folder, safe_serialization=True) in an environment you trust"


def load_component(
    kind: Any, weights: str, name: str, precision: str, valid: Mapping[str, tuple[Any, ...]] | None = None
) -> nn.Module:
    """Return `weights/name` as a `kind`, which must be a diffusers or transformers model class.

    Raises ValueError naming what is missing: the folder, its config.json, or weights in safetensors; or that
    the config describes another network than the weights are of, another class, or other settings than the `valid`
    ones, the first of which is the default: what asks for inputs or units that an adapter does not give.
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
    _check_class(kind, config, folder)
    _refuse_code(config, folder)
    for field, values in (valid or {}).items():
        if config.get(field, values[0]) not in values:
            raise ValueError(
                f"model.weights: {str(folder / 'config.json')!r}: {field} is {shown(repr(config[field]))}; valid: "
                f"{', '.join(map(str, values))}"
            )
    check_fits(lambda: _empty(kind, config), shapes, f"model.weights: {str(folder / 'config.json')!r}")
    # diffusers would otherwise advise on every load to install accelerate, which does nothing for weights on the CPU
    settings = {"low_cpu_mem_usage": False} if _is_diffusers(kind) else {}
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
                **settings,
            )
        if found["missing_keys"]:  # the libraries leave them random
            raise ValueError(f"parameter {min(found['missing_keys'])!r} is missing")
        return network
    except Exception as error:  # the libraries raise many kinds for what does not fit
        raise ValueError(f"model.weights: {str(folder)!r} holds no {kind.__name__}: {shown(str(error))}") from None


def _is_diffusers(kind: Any) -> bool:
    return hasattr(kind, "from_config")


def _empty(kind: Any, config: dict[str, Any]) -> nn.Module:
    """Return the network that a config describes: a diffusers class builds itself, a transformers one needs its own."""
    return kind.from_config(config) if _is_diffusers(kind) else kind(kind.config_class(**config))


def _check_class(kind: Any, config: Mapping[str, Any], folder: Path) -> None:
    """Raise ValueError where a config names another class, whose weights may fit and mean something else."""
    valid = kind.__name__
    former = config.get("_class_name") == FORMER_CLASSES.get(valid, valid)
    if former and config.get("norm_type", "ada_norm_zero") == "ada_norm_zero":
        return
    found = config.get("_class_name") if _is_diffusers(kind) else config.get("architectures")
    named = found[0] if isinstance(found, list) and found else found
    if found is not None and str(named).removeprefix("Flax") != valid:
        raise ValueError(f"model.weights: {str(folder)!r} is of the class {shown(str(named))!r}; valid: {valid}")


def _refuse_code(config: Mapping[str, Any], folder: Path) -> None:
    """Raise ValueError where a config, at any depth, names code: the libraries would fetch kernels and quantisers."""
    for field, value in config.items():
        if field in NAMES_CODE and value is not None and value not in PLAIN:
            raise ValueError(
                f"model.weights: {str(folder / 'config.json')!r}: {field} is {shown(repr(value))}; valid: a config "
                "without it: it names code"
            )
        if isinstance(value, Mapping):
            _refuse_code(value, folder)


def square_side(size: Any, where: str) -> int:
    """Return the side of a config's `sample_size`, a number or two equal ones; ValueError for anything else."""
    sides = size if isinstance(size, list | tuple) else [size]
    first = sides[0] if sides else None
    if not isinstance(first, int) or isinstance(first, bool) or first < 1 or len({*sides}) != 1:
        raise ValueError(f"model.weights: {where}/config.json: sample_size is {shown(repr(size))}; valid: one side")
    return first
