"""Does a diffusion model denoise images better with their labels than with others? If not, which order would fit?

The diffusion classifier's idea (Li et al. 2023), paired: every label sees the same noise. If the labels stood in an
order that has nothing to do with the model's, an image's own label would be any of those that were tried with equal
chance. How often such draws do as well as the labels do is therefore an exact test, whatever the model.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clarep_ray.seeding import torch_generator

MAX_LABELS = 12
"""Labels that are tried on each image; with no more classes than that, all of them."""
CHANCE = 0.01
"""Labels in an order of their own pass the test by chance this often."""
DRAWS = 20_000
"""Draws of the test."""


@dataclass(frozen=True)
class LabelOrder:
    """What the labels' errors say."""

    chance: float
    """How often labels in an unrelated order would fit as well [0..1]."""
    first: int
    """Images that their own label denoises best."""
    advantage: float
    """By how much of an image's mean error its own label is better than the mean of the others."""
    decidable: bool
    """Whether so few images could have passed at all."""
    likely: str | None
    """An order under which the labels would fit, where the labels themselves do not."""

    @property
    def fits(self) -> bool:
        return self.chance <= CHANCE


def labels_to_try(own: Int[Tensor, " b"], num_classes: int, count: int, seed: int) -> Int[Tensor, "b labels"]:
    """Return the labels that are tried on each image, its own first; all of them where there are at most `count`.

    Of more classes: those that the usual mistakes lead to, those of the other images, then drawn ones.
    """
    count = min(count, num_classes)
    drawn = torch.randperm(num_classes, generator=torch_generator(seed, "labels", "health")).tolist()
    rows: list[list[int]] = []
    for label in own.tolist():
        mistaken = [place(label, num_classes) for place in ORDERS.values()]
        others = [*mistaken, *own.tolist(), *drawn] if count < num_classes else range(num_classes)
        rows.append([*dict.fromkeys([label, *others])][:count])
    return torch.tensor(rows)


def judge_labels(
    errors: Float[Tensor, "b labels"], tried: Int[Tensor, "b labels"], num_classes: int, seed: int
) -> LabelOrder:
    """Return what the errors of the labels that were tried say; the first of each row is the image's own."""
    chance = _chance(errors, torch.zeros(len(errors), dtype=torch.long), seed)
    fits = chance <= CHANCE
    best = errors.argmin(1)
    distinct = [len(row.unique()) for row in errors]
    return LabelOrder(
        chance=chance,
        first=int((best == 0).sum()),
        advantage=float((errors[:, 1:].mean(1) - errors[:, 0]).mean()),
        decidable=math.prod(1 / count for count in distinct) <= CHANCE,
        likely=None if fits else _likely(errors, tried, num_classes, seed),
    )


def _chance(errors: Float[Tensor, "b labels"], columns: Int[Tensor, " b"], seed: int) -> float:
    """Return how often labels that are drawn at random denoise as well as the given columns."""
    generator = torch_generator(seed, "order", "health")
    drawn = torch.randint(errors.shape[1], (DRAWS, len(errors)), generator=generator)
    sums = errors.gather(1, drawn.T).sum(0)
    reached = errors.gather(1, columns[:, None]).sum()
    return (1 + int((sums <= reached + 1e-12).sum())) / (1 + DRAWS)


def _likely(errors: Tensor, tried: Tensor, num_classes: int, seed: int) -> str | None:
    """Return the best of the usual mistakes that would make the labels fit; else what the images look like."""
    found: dict[str, float] = {}
    known = {tuple(tried[:, 0].tolist())}
    for name, place in ORDERS.items():
        moved = torch.tensor([place(label, num_classes) for label in tried[:, 0].tolist()])
        if tuple(moved.tolist()) not in known:
            known.add(tuple(moved.tolist()))
            found[name] = _chance(errors, (tried == moved[:, None]).long().argmax(1), seed)
    name = min(found, key=lambda name: found[name], default=None)
    if name is not None and found[name] <= CHANCE / len(found):
        return name
    return None


def _one_up(label: int, num_classes: int) -> int:
    return (label + 1) % num_classes


def _one_down(label: int, num_classes: int) -> int:
    return (label - 1) % num_classes


def _from_text_order(label: int, num_classes: int) -> int:
    return sorted(range(num_classes), key=str)[label]


def _to_text_order(label: int, num_classes: int) -> int:
    return sorted(range(num_classes), key=str).index(label)


def _reversed(label: int, num_classes: int) -> int:
    return num_classes - 1 - label


ORDERS: dict[str, Callable[[int, int], int]] = {
    "one higher (label + 1)": _one_up,
    "one lower (label - 1)": _one_down,
    "numbers sorted as text, read back": _from_text_order,
    "numbers sorted as text": _to_text_order,
    "reversed": _reversed,
}
"""Usual mistakes: the label that the model knows a class by, of the label that was given."""
