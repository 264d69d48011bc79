"""What an evaluation does with one batch: answers without an attack, verdicts with one, as columns of a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from clarep_ray.models.answers import all_finite
from clarep_ray.robustness.attack import Attack, as_evaluated
from clarep_ray.robustness.attacks import Running
from clarep_ray.robustness.benchmarks import Benchmark, Row
from clarep_ray.robustness.calls import ModelCalls
from clarep_ray.seeding import stream_seed

Columns = dict[str, NDArray[Any]]
"""{column: (b,)}, one entry per picture; `key` and `label` name it."""


def to_unit_range(images: NDArray[np.uint8], device: torch.device | str = "cpu") -> Float[Tensor, " b 3 h w"]:
    """Return uint8 pictures (b, h, w, 3) as floats in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).to(device).float() / 255


def model_logits(
    model: nn.Module, images: Float[Tensor, " b 3 h w"], running: Running | None = None
) -> Float[Tensor, " b classes"]:
    """Return the logits of pictures in [0, 1], the model in eval mode for as long as that takes."""
    running = running or Running()
    with as_evaluated(model):
        calls = ModelCalls(model, running.micro_batch, running.padded)
        return calls.logits(images, torch.arange(len(images), device=images.device))


def clean_columns(
    model: nn.Module,
    benchmark: Benchmark,
    rows: Sequence[Row],
    images: NDArray[np.uint8],
    running: Running | None = None,
    device: torch.device | str = "cpu",
) -> Columns:
    """Return what the model answers for the images of some rows: key, label, prediction, correct, non_finite.

    `label` is the first of those that count as right. An image with a logit that is not finite is `non_finite`, and
    wrong. Raises ValueError where the model has another number of
    classes than the benchmark.
    """
    logits = model_logits(model, to_unit_range(images, device), running).cpu().numpy()
    answers = benchmark.predict(logits)
    right = [int(answer) in row.labels for row, answer in zip(rows, answers, strict=True)]
    return {
        **_named(rows),
        "prediction": answers,
        "correct": np.array(right, dtype=bool),
        "non_finite": np.asarray(~np.isfinite(logits).all(1)),
    }


def attack_columns(
    model: nn.Module,
    attack: Attack,
    benchmark: Benchmark,
    rows: Sequence[Row],
    images: NDArray[np.uint8],
    running: Running | None = None,
    device: torch.device | str = "cpu",
) -> Columns:
    """Return an attack's verdicts on the pictures of some rows, and what they cost.

    `robust` is false for an image that was wrong from the beginning, and where the attack leaves one with a logit that
    is not finite (`non_finite`); `linf_255` and `l2` say how far the adversarial image is (units of 1/255; pixels in
    [0, 1]). Raises ValueError for a benchmark whose answers are not the logits'.
    """
    require_attackable(benchmark, rows)
    pictures = to_unit_range(images, device)
    labels = torch.tensor([row.labels[0] for row in rows], device=device)
    result = attack(model, pictures, labels, [row.key for row in rows])
    answered = all_finite(model_logits(model, result.adversarial, running))
    moved = (result.adversarial - pictures).flatten(1)
    return {
        **_named(rows),
        "robust": (~result.success & answered).cpu().numpy(),
        "non_finite": (~answered).cpu().numpy(),
        "attacked": result.attacked.cpu().numpy(),
        "linf_255": (255 * moved.abs().amax(1)).cpu().numpy(),
        "l2": moved.norm(dim=1).cpu().numpy(),
        "num_gradients": result.num_gradients.numpy(),
        "num_queries": result.num_queries.numpy(),
    }


def require_attackable(benchmark: Benchmark, rows: Sequence[Row]) -> None:
    """Raise ValueError where an attack on the logits would not be one on the benchmark's answers."""
    plain = benchmark.answers == tuple(range(benchmark.num_classes))
    if not plain or len(benchmark.considered) != benchmark.num_classes or any(len(row.labels) != 1 for row in rows):
        raise ValueError(
            f"{benchmark.name}: cannot be attacked, since its answers are not the model's classes; valid: "
            "cifar10, cifar10_c, image_folder, imagenet, imagenet_a_full1000, imagenet_c, spurious_digits"
        )


def chosen_rows(rows: Sequence[Row], count: int | None, seed: int) -> list[Row]:
    """Return `count` rows, drawn by seed and key, in their order; all where count is None or more than there are."""
    if count is None or count >= len(rows):
        return list(rows)
    drawn = sorted(rows, key=lambda row: stream_seed(seed, row.key, "evaluate/choice"))[:count]
    kept = {row.key for row in drawn}
    return [row for row in rows if row.key in kept]


def _named(rows: Sequence[Row]) -> Columns:
    return {
        "key": np.array([row.key for row in rows], dtype=object),
        "label": np.array([row.labels[0] for row in rows], dtype=np.int64),
    }
