"""What an image costs, counted: operations of one evaluation of a full-size network, and evaluations of a preset."""

from collections.abc import Callable

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from clarep_ray import models
from clarep_ray.cluster.cost import _evaluations
from clarep_ray.dotted import override
from clarep_ray.models.full_size import TOKENS, dit_xl_network, sd21_network
from clarep_ray.models.uvit import UvitArchitecture, UvitNetwork
from clarep_ray.presets import EXTRACT

LATENTS = {"dit_xl_256": (4, 32, 32), "uvit_256": (4, 32, 32), "sd21": (4, 96, 96)}


def _operations(build: Callable[[], nn.Module], *arguments: torch.Tensor, **more: torch.Tensor) -> float:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        build()(*arguments, **more)
    return counter.get_total_flops() / 1e9


def gflop_per_evaluation(preset: str) -> float:
    """Return the 10^9 additions and multiplications of one forward pass of one image; computes nothing."""
    with torch.device("meta"):
        x_t, timestep, label = torch.empty(1, *LATENTS[preset]), torch.zeros(1), torch.zeros(1, dtype=torch.long)
        if preset == "dit_xl_256":
            return _operations(lambda: dit_xl_network(28), x_t, timestep=timestep.long(), class_labels=label)
        if preset == "uvit_256":
            return _operations(lambda: UvitNetwork(UvitArchitecture()), x_t, timestep, label)
        prompt = torch.empty(1, TOKENS, 1024)
        return _operations(lambda: sd21_network(2), x_t, timestep, encoder_hidden_states=prompt)


def evaluations(preset: str) -> float:
    """Return the evaluations that `--dry-run` names for an image of a preset."""
    config = EXTRACT[preset]().config
    model = models.build(override(config, {"model.weights": "tiny"}).model)
    return sum(_evaluations(config, model, torch.Size(LATENTS[preset]).numel()).values())


if __name__ == "__main__":
    for name in LATENTS:
        gflop, count = gflop_per_evaluation(name), evaluations(name)
        print(f"{name}: {gflop:.0f} GFLOP x {count:.0f} evaluations = {gflop * count / 1000:.0f} TFLOP an image")
