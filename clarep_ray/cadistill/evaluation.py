"""Accuracy of a student on images, made and counted as an evaluation makes and counts them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor

from clarep_ray.cadistill.gathering import sum_over_workers, world_size
from clarep_ray.data.picture_rows import Pictures
from clarep_ray.errors import TrainingDiverged
from clarep_ray.models.answers import NO_ANSWER, answers_of
from clarep_ray.models.students import Student

EVAL_BATCH = 250


@dataclass(frozen=True)
class Validation:
    """Share of images whose class is right [0..1], and how many were answered by no numbers, which are wrong."""

    accuracy: float
    not_finite: int


def validate(student: Student, pictures: Pictures, rank: int = 0, world: int = 1, threads: int = 1) -> Validation:
    """Return what a student makes of images, each worker taking its part; leaves eval mode on.

    `threads` of each worker decode. Raises TrainingDiverged where not one image has finite logits.
    """
    student.eval()
    if world_size() > 1:  # batch normalisation: DDP makes rank 0's statistics everyone's, but a step late
        for buffer in student.buffers():
            dist.broadcast(buffer, 0)
    device = student.mean.device
    counts = torch.zeros(2, dtype=torch.float64, device=device)
    with torch.no_grad():
        for pixels, labels in batches(pictures, rank, world, threads):
            answers = answers_of(student(pixels.to(device)).float())
            counts += torch.stack([(answers == labels.to(device)).sum(), (answers == NO_ANSWER).sum()])
    found, missing = sum_over_workers(counts).tolist()
    if missing == len(pictures):
        raise TrainingDiverged(f"not one of {len(pictures)} validation images has finite logits")
    return Validation(found / len(pictures), int(missing))


def accuracy(student: Student, pictures: Pictures) -> float:
    """Return the share of images whose class is right, as `validate`."""
    return validate(student, pictures).accuracy


def batches(
    pictures: Pictures, rank: int = 0, world: int = 1, threads: int = 1
) -> Iterator[tuple[Float[Tensor, " b 3 s s"], Int[Tensor, " b"]]]:
    """Yield (pixels in [0, 1], labels) of a worker's part in order, not augmented."""
    rows = np.arange(len(pictures))[rank::world]
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(rows), EVAL_BATCH):
            chosen = rows[start : start + EVAL_BATCH]
            images = torch.from_numpy(np.stack(list(pool.map(pictures.read, chosen.tolist()))))
            yield images.permute(0, 3, 1, 2).float() / 255, torch.from_numpy(pictures.labels[chosen])
