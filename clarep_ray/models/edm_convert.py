"""Released EDM and EDM2 checkpoints (.pkl) to config.json and model.safetensors, without running their code."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from torch import nn

from clarep_ray.models.edm2_network import Edm2Architecture, Edm2Network
from clarep_ray.models.edm_folder import empty_network, save_network
from clarep_ray.models.edm_networks import EdmArchitecture, EdmNetwork
from clarep_ray.models.persistent_pickle import read_network, tensors

FOR_TRAINING = {"use_fp16", "sigma_min", "sigma_max", "dropout", "logvar_channels", "use_gradient_checkpointing"}
"""Recorded settings that change nothing at inference."""
SONG_DEFAULTS: dict[str, Any] = {
    "model_channels": 128,
    "channel_mult": (1, 2, 2, 2),
    "num_blocks": 4,
    "attn_resolutions": (16,),
}
"""Sizes that a DDPM++ or NCSN++ has where its file does not record them; ADM's are those of `EdmArchitecture`."""


@dataclass(frozen=True)
class _Wrapper:
    """The preconditioned network of a file: its class, and what lies inside it."""

    inside: str
    network: type[nn.Module]
    sizes: type[Any]


WRAPPERS = {
    "EDMPrecond": _Wrapper("model.", EdmNetwork, EdmArchitecture),
    "Precond": _Wrapper("unet.", Edm2Network, Edm2Architecture),
}


def convert(checkpoint: Path, folder: Path) -> EdmArchitecture | Edm2Architecture:
    """Write a released EDM or EDM2 network (.pkl) as `config.json` and `model.safetensors`; return its sizes.

    No code of the file runs: its pickle is read with a closed table of stand-ins. An unconditional network goes into
    the folder guide/ beside a conditional one, and a diffusers VAE into vae/ where there are latents. Raises
    ValueError where the file holds something else.
    """
    network = read_network(checkpoint)
    if network.kind not in WRAPPERS:
        raise ValueError(f"checkpoint: {str(checkpoint)!r} holds a {network.kind!r}; valid: {', '.join(WRAPPERS)}")
    wrapper = WRAPPERS[network.kind]
    try:
        sizes = _sizes(wrapper.sizes, network.state)
        inside = len(wrapper.inside)
        state = {name[inside:]: value for name, value in tensors(network) if name.startswith(wrapper.inside)}
        empty_network(wrapper.network, sizes, state)
    except Exception as error:  # sizes and states that make no network fail in many ways
        raise ValueError(f"checkpoint: {str(checkpoint)!r} holds no {wrapper.network.__name__}: {error}") from None
    save_network(state, sizes, folder)
    return sizes


def _sizes(kind: type[Any], state: Any) -> Any:
    """Return the sizes that the file records; ValueError for one that is not understood."""
    recorded: dict[str, Any] = dict(state["_init_kwargs"])
    if state["_init_args"]:
        raise ValueError(f"its sizes are recorded by position ({state['_init_args']!r}), not by name")
    known = {item.name for item in fields(kind)}
    unknown = sorted(recorded.keys() - known - FOR_TRAINING)
    if unknown:
        raise ValueError(f"it records {unknown[0]!r}; valid: {', '.join(sorted(known | FOR_TRAINING))}")
    stored = {name: _plain(value) for name, value in recorded.items() if name in known}
    defaults = SONG_DEFAULTS if stored.get("model_type") == "SongUNet" else {}
    return kind(**({"label_dim": 0} | defaults | stored))


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
