"""Does a diffusion model denoise images better with their labels than with others? If not, which order would fit?

The diffusion classifier's idea (Li et al. 2023), paired: every label sees the same noise. If the labels stood in an
order that has nothing to do with the model's, an image's own label would be any of those that were tried with equal
chance. How often such draws do as well as the labels do is therefore an exact test, whatever the model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    """Whether so few images could have passed at all, and other images of their classes agree."""
    likely: str | None
    """An order under which the labels would fit, where they do not as they are; pairs that look exchanged."""

    @property
    def fits(self) -> bool:
        return self.chance <= CHANCE


def labels_to_try(own: Int[Tensor, " b"], num_classes: int, seed: int) -> Int[Tensor, "b labels"]:
    """Return the labels that are tried on each image, its own first; all of them where there are few.

    Of more classes: those that the usual mistakes lead to, those of the other images, then drawn ones.
    """
    count = min(MAX_LABELS, num_classes)
    drawn = torch.randperm(num_classes, generator=torch_generator(seed, "labels", "health")).tolist()
    rows: list[list[int]] = []
    for label in own.tolist():
        mistaken = [place(label, num_classes) for place in ORDERS.values()]
        others = [*mistaken, *own.tolist(), *drawn] if count < num_classes else range(num_classes)
        rows.append([*dict.fromkeys([label, *others])][:count])
    return torch.tensor(rows)


def judge_labels(
    errors: Float[Tensor, "b labels"],
    tried: Int[Tensor, "b labels"],
    names: Sequence[str],
    seed: int,
    again: Callable[[], tuple[Float[Tensor, "n labels"], list[int]]] | None = None,
) -> LabelOrder:
    """Return what the errors of the labels that were tried say; the first of each row is the image's own.

    An order that no usual mistake explains, and exchanged classes, must show on other images of the same classes, whose
    errors `again` returns, with the rows that they repeat: images that look like other classes each for a reason of its
    own, such as a background, are no wrong labels.
    """
    own, best = torch.zeros(len(errors), dtype=torch.long), errors.argmin(1)
    chance = _chance(errors, own, seed)
    likely, decidable = None, float(errors.shape[1]) ** -len(errors) <= CHANCE
    if chance <= CHANCE:
        if again is not None and _exchanged(errors, tried, share=0.0):
            repeated, rows = again()
            pairs = _exchanged(torch.cat([errors, repeated]), torch.cat([tried, tried[rows]]), share=0.5)
            likely = ", ".join(f"{names[a]} and {names[b]} look exchanged" for a, b in sorted(pairs)[:4]) or None
    elif decidable:
        likely = _usual_mistake(errors, tried, len(names), seed)
        if likely is None and tried.shape[1] == len(names):
            likely = _looks(tried[:, 0].tolist(), tried.gather(1, best[:, None])[:, 0].tolist(), names)
            if again is not None:
                repeated, rows = again()
                decidable = _chance(repeated, best[rows], seed) <= CHANCE
    return LabelOrder(
        chance=chance,
        first=int((best == 0).sum()),
        advantage=float((errors[:, 1:].mean(1) - errors[:, 0]).mean()) if errors.shape[1] > 1 else 0.0,
        decidable=decidable,
        likely=likely,
    )


def _chance(errors: Float[Tensor, "b labels"], columns: Int[Tensor, " b"], seed: int) -> float:
    """Return how often labels that are drawn at random denoise as well as the given columns."""
    generator = torch_generator(seed, "order", "health")
    drawn = torch.randint(errors.shape[1], (DRAWS, len(errors)), generator=generator)
    sums = errors.gather(1, drawn.T).sum(0)
    reached = errors.gather(1, columns[:, None]).sum()
    return (1 + int((sums <= reached + 1e-12).sum())) / (1 + DRAWS)


def _usual_mistake(errors: Tensor, tried: Tensor, num_classes: int, seed: int) -> str | None:
    """Return the usual mistake under which the labels fit; the bar is lowered by the number of those tried."""
    own = tried[:, 0].tolist()
    moved: dict[tuple[int, ...], str] = {}
    for name, place in ORDERS.items():
        moved.setdefault(tuple(place(label, num_classes) for label in own), name)
    moved.pop(tuple(own), None)
    found = {
        name: _chance(errors, (tried == torch.tensor(labels)[:, None]).long().argmax(1), seed)
        for labels, name in moved.items()
    }
    name = min(found, key=lambda name: found[name], default=None)
    return name if name is not None and found[name] <= CHANCE / len(found) else None


def _looks(own: Sequence[int], look: Sequence[int], names: Sequence[str]) -> str:
    pairs = dict.fromkeys((a, b) for a, b in zip(own, look, strict=True) if a != b)
    return "images look like other classes: " + ", ".join(f"{names[a]} like {names[b]}" for a, b in [*pairs][:8])


def _exchanged(errors: Tensor, tried: Tensor, share: float) -> set[tuple[int, int]]:
    """Return the pairs of labels whose images look like the other's, by that share of the usual advantage or more."""
    usual = float((errors[:, 1:].mean(1) - errors[:, 0]).median())
    look: dict[int, int] = {}
    for label in tried[:, 0].unique().tolist():
        of_label = tried[:, 0] == label
        mean, labels = errors[of_label].mean(0), tried[of_label][0]
        best = int(mean.argmin())
        if best and float(mean[0] - mean[best]) >= share * usual:
            look[label] = int(labels[best])
    return {(a, b) for a, b in look.items() if a < b and look.get(b) == a}


def _from_text_order(label: int, num_classes: int) -> int:
    return sorted(range(num_classes), key=str)[label]


def _to_text_order(label: int, num_classes: int) -> int:
    return sorted(range(num_classes), key=str).index(label)


ORDERS: dict[str, Callable[[int, int], int]] = {
    "label + 1": lambda label, num_classes: (label + 1) % num_classes,
    "label - 1": lambda label, num_classes: (label - 1) % num_classes,
    "the number at the label's place of numbers sorted as text": _from_text_order,
    "the label's place among numbers sorted as text": _to_text_order,
    "the label counted from the end": lambda label, num_classes: num_classes - 1 - label,
}
"""Usual mistakes: what the model knows a class by, of the label that was given."""
