"""Accuracy of a student on pictures."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from clarep_ray.cadistill.augment import plain, to_tensor
from clarep_ray.cadistill.gathering import sum_over_workers, world_size
from clarep_ray.cadistill.students import Student
from clarep_ray.data.picture_rows import Pictures
from clarep_ray.models.answers import answers_of

EVAL_BATCH = 250


def accuracy(student: Student, pictures: Pictures, rank: int = 0, world: int = 1) -> float:
    """Return the share of images whose class is right, each worker taking its part; leaves eval mode on.

    An image with a logit that is not finite is wrong.
    """
    student.eval()
    if world_size() > 1:  # batch normalisation: DDP makes rank 0's statistics everyone's, but a step late
        for buffer in student.buffers():
            dist.broadcast(buffer, 0)
    device = student.mean.device
    right = torch.zeros((), dtype=torch.float64, device=device)
    with torch.no_grad():
        for pixels, labels in batches(pictures, student.architecture.image_size, rank, world):
            right += (answers_of(student(pixels.to(device)).float()) == labels.to(device)).sum()
    return sum_over_workers(right).item() / len(pictures)


def batches(pictures: Pictures, side: int, rank: int = 0, world: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (pixels in [0, 1], labels) of a worker's part in order, not augmented."""
    rows = np.arange(len(pictures))[rank::world]
    for start in range(0, len(rows), EVAL_BATCH):
        chosen = rows[start : start + EVAL_BATCH]
        yield (
            torch.stack([plain(to_tensor(pictures.read(row)), side) for row in chosen.tolist()]),
            torch.from_numpy(pictures.labels[chosen]),
        )
