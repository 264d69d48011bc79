"""Outputs of the original networks of EDM and EDM2, computed once with the same arbitrary weights and input."""

from typing import Any

import pytest
import torch
from torch import nn

from clarep_ray.models.edm2_network import Edm2Architecture, Edm2Network
from clarep_ray.models.edm_networks import EdmArchitecture, EdmNetwork

COMMON: dict[str, Any] = {
    "img_resolution": 16,
    "label_dim": 3,
    "channel_mult": (1, 2),
    "num_blocks": 1,
    "attn_resolutions": (8,),
}
SONG = {"model_type": "SongUNet", "model_channels": 16}
NCSN = {
    "embedding_type": "fourier",
    "encoder_type": "residual",
    "channel_mult_noise": 2,
    "resample_filter": (1, 3, 3, 1),
}
NETWORKS = {
    "adm": lambda: EdmNetwork(EdmArchitecture(**COMMON, model_channels=64)),
    "ddpmpp": lambda: EdmNetwork(EdmArchitecture(**COMMON, **SONG)),
    "ncsnpp": lambda: EdmNetwork(EdmArchitecture(**COMMON, **SONG, **NCSN)),
    "edm2": lambda: Edm2Network(Edm2Architecture(**COMMON, model_channels=32, channels_per_head=16)),
}
ORIGINAL = {
    "adm": ([0.15262, -1.16472, 1.07483, -0.51976, -1.84337], 0.95679),
    "ddpmpp": ([0.90177, 0.798, -1.12549, 0.57262, 0.59892], 0.8321),
    "ncsnpp": ([0.90045, 0.79741, -1.13158, 0.58301, 0.55723], 0.82672),
    "edm2": ([-0.10172, -0.38385, 0.20805, -0.05687, 0.13315], 0.42862),
}
"""Every 307th value, and the standard deviation of all."""


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def fill(network: nn.Module) -> None:
    """Draw every parameter and frequency from the number of its name in alphabetical order."""
    state = {name: value for name, value in network.state_dict().items() if not name.endswith("resample_filter")}
    for number, name in enumerate(sorted(state)):
        value = state[name]
        value.copy_(draw(number, *value.shape) * (value[0].numel() ** -0.5 if value.ndim > 1 else 0.5))


@pytest.mark.parametrize("name", list(NETWORKS))
def test_the_output_is_that_of_the_original_network(name: str) -> None:
    network = NETWORKS[name]().eval()
    with torch.no_grad():
        fill(network)
        x = draw(99, 2, 3 if name != "edm2" else 4, 16, 16)
        output = network(x, torch.tensor([0.3, -1.0]), torch.eye(3)[:2])
    values, std = ORIGINAL[name]
    assert output.flatten()[::307].tolist()[:5] == pytest.approx(values, abs=3e-5)
    assert output.std().item() == pytest.approx(std, abs=3e-5)
