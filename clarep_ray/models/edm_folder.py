"""Folders of EDM's and EDM2's networks: config.json (sizes) and model.safetensors (released parameter names)."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from clarep_ray import dotted
from clarep_ray.data.durable import make_folder
from clarep_ray.data.inside import write_inside
from clarep_ray.data.plain_json import plain_json
from clarep_ray.data.records import shown
from clarep_ray.models.class_names import without_names
from clarep_ray.models.weight_files import few_tensors, load_tensors, read_sizes, write_tensors

GUIDE = "guide"
"""Folder, beside the weights, of an unconditional network that serves as the null branch."""
CONFIG, WEIGHTS = "config.json", "model.safetensors"

Network = TypeVar("Network", bound=nn.Module)


def load_network(folder: Path, kind: type[Network], sizes_kind: type[Any], precision: str) -> Network:
    """Return the network of a folder, its parameters in `precision` and its buffers in float32.

    Raises ValueError naming what is missing, unknown in config.json, or unexpected among the weights.
    """
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise ValueError(
                f"model.weights: {str(folder)!r} has no {name}; valid: a folder with {CONFIG} (sizes) and {WEIGHTS}, "
                "as jobs/convert.py makes it of a released .pkl"
            )
    try:
        state = load_tensors(folder / WEIGHTS)
        sizes = dotted.from_flat(sizes_kind, without_names(read_sizes(folder / CONFIG, len(state))))
        network = empty_network(kind, sizes, state)
    except Exception as error:  # sizes that make no network fail in many ways
        raise ValueError(f"model.weights: {str(folder)!r} holds no {kind.__name__}: {shown(str(error))}") from None
    network.load_state_dict(state, assign=True)
    cast_parameters(network, getattr(torch, precision))
    for module in network.modules():
        for name, buffer in module.named_buffers(recurse=False):
            module.register_buffer(name, buffer.float())
    return network


def cast_parameters(network: nn.Module, dtype: torch.dtype) -> None:
    """Cast the parameters and leave the buffers as they are."""
    for parameter in network.parameters():
        parameter.data = parameter.data.to(dtype)


def empty_network(kind: type[Network], sizes: Any, state: dict[str, Tensor]) -> Network:
    """Return a network without storage that takes this state; ValueError naming a parameter that does not fit."""
    with torch.device("meta"), few_tensors(len(state)):
        network = kind(sizes)
    expected = {name: tensor.shape for name, tensor in network.state_dict().items()}
    found = {name: tensor.shape for name, tensor in state.items()}
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if wrong:
        raise ValueError(f"parameter {wrong[0][:100]!r} is missing, unexpected or of another shape")
    return network


def save_network(state: dict[str, Tensor], sizes: Any, folder: Path) -> None:
    """Write sizes and parameters in the layout that `load_network` reads."""
    make_folder(folder)
    write_inside(folder, CONFIG, plain_json(asdict(sizes)))
    write_tensors(folder, WEIGHTS, state)
