"""What the health check says of right models and of the same models with one setting spoiled."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from torch import Tensor

from clarep_ray import models
from clarep_ray.clarid.schedule import DiscreteSchedule, scaled_linear_schedule
from clarep_ray.config import HealthBenchmarkConfig, ModelConfig
from clarep_ray.data.spurious_digits import SpuriousDigits
from clarep_ray.measured import Cell, Table
from clarep_ray.models.adapter import NetworkAdapter
from clarep_ray.models.health import OK, check_health

COLUMNS = {
    "model": "",
    "setting": "",
    "verdict": "",
    "gain": ".3g",
    "own label best": "",
    "chance": ".2g",
    "said": "",
}
VAE_SCALE = 0.18215
Made = tuple[UInt8[Tensor, "b h w 3"], list[int]]
"""Images and their labels; the second half are others of the same classes."""
Spoil = Callable[[NetworkAdapter, Made], tuple[NetworkAdapter, Made]]


def run(config: HealthBenchmarkConfig) -> list[Table]:
    """Return one row for the shipped models over all seeds, for every spoiled setting, and for every tiny family."""
    rows: list[tuple[Cell, ...]] = []
    for weights in config.weights:
        model = models.build(ModelConfig(weights=weights))
        assert isinstance(model, NetworkAdapter)
        split = "test" if weights == "rho90" else "random_background"
        right = [ask(model, digits(seed, split), seed) for seed in range(config.seeds)]
        rows.append(right_row(weights, right))
        rows += [row(weights, name, ask(*spoil(model, digits(0, split)), 0)) for name, spoil in SPOILED_DIGITS.items()]
    for name in models.MODELS:
        tiny: Any = models.build_tiny(name)
        rows.append(row(name, "random weights", ask(tiny, resized(digits(0, "test"), tiny.image_size), 0)))
    notes = [
        "gain: by how much the best combination of prediction and x_t errs less, the largest over six noise levels; a "
        "right model's is at most a third. chance: how often drawn labels fit the images as well as theirs."
    ]
    return [Table(COLUMNS, rows, notes, "health")]


def ask(model: NetworkAdapter, made: Made, seed: int, smallest: float | None = None) -> dict[str, Any]:
    """Check the model on images with their labels, as a job of this seed would."""
    images, labels = made
    keys, first = [str(number) for number in range(len(labels))], len(labels) // 2
    others = images[first:], keys[first:], list(range(first))
    return check_health(
        model, images[:first], labels[:first], keys[:first], seed=seed, num_times=6, smallest=smallest, others=others
    )


def right_row(model: str, found: list[dict[str, Any]]) -> tuple[Cell, ...]:
    """Return the row of a right model: its worst gain and chance over all sets of images."""
    alarms = sum(each["verdict"] != OK for each in found)
    first = sum(each["labels"]["first"] for each in found)
    return (
        model,
        f"right, {len(found)} sets of images",
        f"{alarms} false alarms" if alarms else OK,
        max(each["max_gain"] for each in found),
        f"{first} of {sum(each['num_images'] for each in found)}",
        max(each["labels"]["chance"] for each in found),
        "",
    )


def row(model: str, setting: str, found: dict[str, Any]) -> tuple[Cell, ...]:
    """Return a row; of the warnings only what they take for the cause."""
    labels = found["labels"]
    said = "; ".join(
        text.partition(": " if text.startswith("at t") else "draws: ")[2] or text for text in found["warnings"]
    )
    first = f"{labels['first']} of {found['num_images']}"
    return model, setting, found["verdict"], found["max_gain"], first, labels["chance"], said


def digits(seed: int, split: str) -> Made:
    """Return eight of the embedded images, of eight classes, and eight others of these."""
    rows: dict[int, list[Any]] = {}
    for each in SpuriousDigits(split=split, count=200, seed=seed):  # type: ignore[arg-type]
        rows.setdefault(each.label, []).append(each)
    chosen = [of_class[number] for number in range(2) for of_class in [*rows.values()][:8]]
    return torch.from_numpy(np.stack([each.image for each in chosen])), [each.label for each in chosen]


def resized(made: Made, side: int) -> Made:
    """Return the images with another side [pixels]."""
    pixels = F.interpolate(made[0].permute(0, 3, 1, 2).float(), (side, side), mode="bilinear")
    return pixels.to(torch.uint8).permute(0, 2, 3, 1), made[1]


def changed(model: NetworkAdapter, **changes: Any) -> NetworkAdapter:
    """Return a copy of the adapter on the same network with other attributes or methods."""
    other = copy.copy(model)
    for name, value in changes.items():
        setattr(other, name, value)
    return other


def relabelled(place: Callable[[int], int]) -> Spoil:
    """Return a spoil that gives every image of a label another label."""
    return lambda model, made: (model, (made[0], [place(label) for label in made[1]]))


def scaled(factor: float) -> Spoil:
    """Return a spoil whose latents are `factor` times what the network was trained on."""

    def spoil(model: NetworkAdapter, made: Made) -> tuple[NetworkAdapter, Made]:
        encode, decode = model.encode, model.decode
        return changed(model, encode=lambda x: encode(x) * factor, decode=lambda x: decode(x / factor)), made  # type: ignore[no-any-return]

    return spoil


def clock(place: Callable[[float], float]) -> Spoil:
    """Return a spoil whose network is told another time."""

    def spoil(model: NetworkAdapter, made: Made) -> tuple[NetworkAdapter, Made]:
        forward = model.forward
        return changed(model, forward=lambda x, t, cond: forward(x, place(t), cond)), made

    return spoil


def set_to(**changes: Any) -> Spoil:
    """Return a spoil with other attributes of the adapter: its schedule, or what its prediction is read as."""
    return lambda model, made: (changed(model, **changes), made)


def cosine_schedule() -> DiscreteSchedule:
    """Return the schedule of Nichol & Dhariwal (2021)."""
    t = torch.linspace(0, 1, 1001, dtype=torch.float64)
    squares = torch.cos((t + 0.008) / 1.008 * torch.pi / 2) ** 2
    return DiscreteSchedule(torch.cumprod(1 - (1 - squares[1:] / squares[:-1]).clamp(max=0.999), 0))


DRAWN = (5, 6, 1, 2, 0, 8, 9, 3, 4, 7)
SPOILED: dict[str, Spoil] = {
    "labels one higher": relabelled(lambda label: (label + 1) % 10),
    "labels one lower": relabelled(lambda label: (label - 1) % 10),
    "labels in another order": relabelled(lambda label: DRAWN[label]),
    "classes 1 and 2 exchanged": relabelled(lambda label: {1: 2, 2: 1}.get(label, label)),
    "latents 0.18215 times": scaled(VAE_SCALE),
    "latents 5.49 times": scaled(1 / VAE_SCALE),
    "latents twice": scaled(2.0),
    "latents half": scaled(0.5),
    "negatives": lambda model, made: (model, (255 - made[0], made[1])),
    "pixels of half the range": lambda model, made: (model, (127 + made[0] // 2, made[1])),
}
"""What can be spoiled of any model of ten classes."""
SPOILED_DIGITS: dict[str, Spoil] = SPOILED | {
    "v read as epsilon": set_to(prediction="epsilon"),
    "v read as x_0": set_to(prediction="sample"),
    "scaled_linear betas": set_to(schedule=scaled_linear_schedule()),
    "cosine schedule": set_to(schedule=cosine_schedule()),
    "clock in [0, 1]": clock(lambda t: t / 1000),
    "clock of 500 steps": clock(lambda t: t // 2),
    "clock 50 late": clock(lambda t: min(t + 50, 999)),
    "clock backwards": clock(lambda t: 999 - t),
}
"""And of the shipped ones: v-prediction on a thousand steps of linear betas."""
