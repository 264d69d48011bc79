"""Batches of a training: what the global batch of a step holds follows from the seed and the step alone."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from clarep_ray.cadistill.augment import augment, plain
from clarep_ray.cadistill.mixing import mix, share, soft_targets
from clarep_ray.cadistill.schedule import Stages
from clarep_ray.config import AugmentRecipe, DistillConfig
from clarep_ray.data.clarep_store import ClarepStore, Pairing, draw_partners
from clarep_ray.data.picture_rows import Pictures
from clarep_ray.data.pixels import WholeImage
from clarep_ray.seeding import numpy_generator, torch_generator

STAGE = "distill"
AHEAD = 2
"""Batches per thread that are prepared before they are asked for."""


@dataclass(frozen=True)
class Batch:
    """One worker's share of a global batch; what a method has no use for has a width of 0.

    `pixels` are in [0, 1]: `views` augmentations of every image, the first of all, then the second of all; in a second
    stage one.
    `canonical` are the Canonical Samples, `features` the stored features: of row i's Canonical Sample, or of image i
    itself. `targets` are the classes' shares, `draws` numbers in [0, 1), three for each image.
    """

    pixels: Float[Tensor, " v 3 s s"]
    labels: Int[Tensor, " b"]
    targets: Float[Tensor, " b c"]
    canonical: Float[Tensor, " k 3 s s"]
    features: Float[Tensor, " b e"]
    draws: Float[Tensor, " b 3"]

    def to(self, device: torch.device) -> Batch:
        return Batch(**{item.name: getattr(self, item.name).to(device) for item in fields(self)})


@dataclass(frozen=True)
class Inputs:
    """What a training reads: images, and the store that CLAReps or stored features come from, if any.

    `pairing` says which row of the store belongs to an image; `with_canonical`, whether its picture is used as well.
    """

    images: Pictures
    store: ClarepStore | None = None
    pairing: Pairing = "random"
    with_canonical: bool = False
    views: int = 1

    def steps_per_epoch(self, batch_size: int) -> int:
        """Return the whole batches in an epoch; ValueError where there is none."""
        if batch_size > len(self.images):
            raise ValueError(f"schedule.batch_size: {batch_size} is more than the {len(self.images)} training images")
        return len(self.images) // batch_size

    def batch(self, config: DistillConfig, step: int, rank: int = 0, world: int = 1) -> Batch:
        """Return a worker's share of the global batch of a step.

        The order of an epoch, partners and augmentation follow from the seed, the epoch and each image, so that neither
        the number of workers nor an interruption changes them.
        """
        size = config.schedule.batch_size
        epoch, position = divmod(step, self.steps_per_epoch(size))
        rows = _order(config.seed, epoch, len(self.images))[position * size : (position + 1) * size]
        partners = self._partners(config, step, rows)
        draws = torch.rand((size, 3), generator=torch_generator(config.seed, f"draws/{step}", STAGE))
        mine = share(size, rank, world, config.augment.mixes)
        return self._load(config, epoch, step, rows[mine], partners[mine], draws[torch.from_numpy(mine)])

    def _partners(self, config: DistillConfig, step: int, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        if self.store is None:
            return np.zeros(len(rows), np.int64)
        keys = [self.images.keys[row] for row in rows]
        generator = numpy_generator(config.seed, f"partners/{step}", STAGE)
        return draw_partners(self.store, self.images.labels[rows], keys, self.pairing, generator)

    def _load(
        self,
        config: DistillConfig,
        epoch: int,
        step: int,
        rows: NDArray[np.int64],
        partners: NDArray[np.int64],
        draws: Tensor,
    ) -> Batch:
        numbers = rows.tolist()
        second = Stages.of(config, self.steps_per_epoch(config.schedule.batch_size)).in_second(step)
        recipe = (config.second_stage.recipe if second else None) or config.augment.recipe
        names = [f"view{view}/{epoch}" for view in range(1 if second else self.views)]
        pixels = torch.cat([self._views(config, recipe, name, rows) for name in names])
        labels = torch.from_numpy(self.images.labels[rows])
        num_classes, smoothing = len(self.images.classes), config.loss.label_smoothing
        targets = soft_targets(labels, num_classes, smoothing)
        if config.augment.mixes:
            pixels, targets = mix(pixels, labels, config.augment, num_classes, smoothing, config.seed, step)
        side = config.student.image_size
        canonical, features = torch.zeros(0, 3, side, side), torch.zeros(len(numbers), 0)
        if self.store is not None:
            # A stored feature stays as it is where its picture is mirrored: it was read once, of the picture as it was.
            features = torch.from_numpy(self.store.features(partners))
            if self.with_canonical:
                canonical = self._canonical(config, epoch, self.store.images(partners), numbers)
        return Batch(pixels, labels, targets, canonical, features, draws)

    def _views(self, config: DistillConfig, recipe: AugmentRecipe, name: str, rows: NDArray[np.int64]) -> Tensor:
        return torch.stack(
            [_augmented(self.images.whole(row), recipe, config, f"{name}/{row}") for row in rows.tolist()]
        )

    def _canonical(
        self, config: DistillConfig, epoch: int, images: NDArray[np.uint8], numbers: Sequence[int]
    ) -> Tensor:
        if not config.augment.canonical:
            return torch.stack([plain(image, config.student.image_size) for image in images])
        # The stream is the image's, not the CLARep's: one that is drawn twice in a batch is seen in two ways.
        names = [f"canonical/{epoch}/{row}" for row in numbers]
        recipe = config.augment.recipe
        return torch.stack([_augmented(each, recipe, config, name) for each, name in zip(images, names, strict=True)])


def _augmented(
    image: NDArray[np.uint8] | WholeImage, recipe: AugmentRecipe, config: DistillConfig, name: str
) -> Tensor:
    stream = torch_generator(config.seed, name, STAGE)
    return augment(image, recipe, config.student.image_size, stream)


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    """Return the images in the order of an epoch."""
    return torch.randperm(count, generator=torch_generator(seed, f"order/{epoch}", STAGE)).numpy()


def prefetched(make: Callable[[int], Batch], start: int, stop: int, threads: int) -> Iterator[Batch]:
    """Yield `make(step)` for every step in order, prepared ahead by threads."""
    pool = ThreadPoolExecutor(threads)
    waiting: deque[Future[Batch]] = deque()
    following = iter(range(start, stop))
    try:
        for step in following:
            waiting.append(pool.submit(make, step))
            if len(waiting) >= AHEAD * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
