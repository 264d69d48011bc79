"""Mixup and CutMix of a batch, the same for any number of workers."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from timm.data.mixup import Mixup
from torch import Tensor

from clarep_ray.config import AugmentConfig
from clarep_ray.seeding import stream_seed

DRAWING = threading.Lock()
"""Several loader threads mix at a time, and NumPy's global stream is one for all."""


def share(batch_size: int, rank: int, world: int, paired: bool) -> NDArray[np.int64]:
    """Return the places of the global batch that a worker takes.

    Every world-th place; `paired`, with each place i also batch_size - 1 - i: timm mixes those two, and reversing
    such a share pairs them as reversing the whole batch does.
    """
    places = np.arange(batch_size)
    owner = np.minimum(places, batch_size - 1 - places) if paired else places
    return places[owner % world == rank]


class OwnMixup(Mixup):
    """timm's Mixup and CutMix by batch, where a picture keeps the larger part of itself.

    The other half of the draws would be the same mixture under the other picture's number; here a picture's own label,
    partner and Canonical Feature always belong to most of what the student sees.
    """

    def _params_per_batch(self) -> tuple[float, bool]:
        lam, use_cutmix = super()._params_per_batch()  # type: ignore[no-untyped-call]
        return max(float(lam), 1 - float(lam)), bool(use_cutmix)


def mix(
    pixels: Float[Tensor, " b 3 h w"],
    labels: Int[Tensor, " b"],
    config: AugmentConfig,
    num_classes: int,
    smoothing: float,
    seed: int,
    step: int,
) -> tuple[Float[Tensor, " b 3 h w"], Float[Tensor, " b c"]]:
    """Return mixed pixels and the classes' shares; what is mixed how follows from seed and step alone."""
    options: dict[str, Any] = {"mixup_alpha": config.mixup, "cutmix_alpha": config.cutmix}
    mixer = OwnMixup(**options, num_classes=num_classes, label_smoothing=smoothing)
    with DRAWING:
        before = np.random.get_state()
        np.random.seed(stream_seed(seed, f"mix/{step}", "distill") % 2**32)  # timm draws from NumPy's global stream
        try:
            return mixer(pixels.clone(), labels)  # type: ignore[no-any-return]
        finally:
            np.random.set_state(before)


def soft_targets(labels: Int[Tensor, " b"], num_classes: int, smoothing: float) -> Float[Tensor, " b c"]:
    """Return the classes' shares of unmixed pictures, with label smoothing."""
    shares = torch.full((len(labels), num_classes), smoothing / num_classes)
    shares[torch.arange(len(labels)), labels] += 1 - smoothing
    return shares
