"""What an attack is: pictures and labels in, a verdict per picture out.

Pixels are in [0, 1] here, as budgets are given on that scale; the model normalises inside itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, cast, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from clarep_ray.models.answers import answers_of
from clarep_ray.robustness.calls import ModelCalls
from clarep_ray.seeding import torch_generator


@dataclass(frozen=True)
class AttackResult:
    """Verdicts of a batch, on the device of its images.

    `adversarial` are the pictures as the attack leaves them (the original where it failed or was not needed);
    `success` says that the model's answer for them is wrong, as it is where a logit is not finite; `attacked` is
    false where the answer was wrong from the beginning, which costs nothing; the two counts are gradients and forward
    passes without one, per picture.
    """

    adversarial: Float[Tensor, " b c h w"]
    success: Bool[Tensor, " b"]
    attacked: Bool[Tensor, " b"]
    num_gradients: Int[Tensor, " b"]
    num_queries: Int[Tensor, " b"]


@runtime_checkable
class Attack(Protocol):
    """An attack with all its settings; `name` is its column in tables."""

    @property
    def name(self) -> str: ...

    def __call__(
        self, model: nn.Module, images: Float[Tensor, " b c h w"], labels: Int[Tensor, " b"], keys: Sequence[str]
    ) -> AttackResult:
        """Attack pictures in [0, 1]; `keys` name them and, with the attack's seed, its random draws.

        Leaves model, images and the global random state as they are. Raises ValueError for wrong shapes or ranges.
        """
        ...


@dataclass(frozen=True)
class Targets:
    """The pictures that are still classified right, and who they are."""

    images: Float[Tensor, " n c h w"]
    labels: Int[Tensor, " n"]
    keys: tuple[str, ...]
    seed: int

    def generators(self, stage: str) -> list[torch.Generator]:
        """Return one CPU generator per picture for a stage of an attack."""
        return [torch_generator(self.seed, key, f"attack/{stage}") for key in self.keys]

    def uniform(self, stage: str) -> Float[Tensor, " n c h w"]:
        """Return noise in [-1, 1] of the pictures' shape that depends on key, seed and stage alone."""
        shape = self.images.shape[1:]
        drawn = [torch.rand(shape, generator=generator) for generator in self.generators(stage)]
        return (2 * torch.stack(drawn) - 1).to(self.images)

    def subset(self, rows: Int[Tensor, " k"]) -> Targets:
        """Return the pictures of these row numbers."""
        return Targets(self.images[rows], self.labels[rows], tuple(of_rows(self.keys, rows)), self.seed)


@dataclass
class Found:
    """What a search has reached so far: the pictures and which of them fool the model."""

    adversarial: Float[Tensor, " n c h w"]
    success: Bool[Tensor, " n"]

    @staticmethod
    def nothing(images: Float[Tensor, " n c h w"]) -> Found:
        return Found(images.clone(), torch.zeros(len(images), dtype=torch.bool, device=images.device))

    def note(self, rows: Int[Tensor, " k"], pictures: Float[Tensor, " k c h w"], fooled: Bool[Tensor, " k"]) -> None:
        """Keep those of the pictures, given for these rows, that fool the model."""
        self.adversarial[rows[fooled]] = pictures[fooled]
        self.success[rows[fooled]] = True

    def remaining(self) -> Int[Tensor, " k"]:
        """Return the row numbers that no picture has fooled yet."""
        return (~self.success).nonzero()[:, 0]


@dataclass(frozen=True, kw_only=True)
class SampleAttack(ABC):
    """An attack of ours: pictures that are wrong from the beginning are left alone, and none knows of the others.

    With `padded` the network sees exactly `micro_batch` rows in every call, so that not even rounding depends on
    which pictures are attacked together.
    """

    seed: int = 0
    micro_batch: int | None = None
    padded: bool = False

    @property
    @abstractmethod
    def name(self) -> str: ...

    @abstractmethod
    def search(self, calls: ModelCalls, targets: Targets) -> Found:
        """Look for adversarial pictures; every target is classified right at first."""

    def min_classes(self) -> int:
        """Return the least number of classes that the attack is defined for."""
        return 2

    def __call__(
        self, model: nn.Module, images: Float[Tensor, " b c h w"], labels: Int[Tensor, " b"], keys: Sequence[str]
    ) -> AttackResult:
        check_inputs(images, labels, keys)
        calls = ModelCalls(model, self.micro_batch, self.padded)
        with as_evaluated(model):
            clean = calls.logits(images, torch.arange(len(images), device=images.device))
            if clean.shape[1] < self.min_classes():
                raise ValueError(
                    f"{self.name}: {clean.shape[1]} classes are not valid; valid: {self.min_classes()} or more"
                )
            right = (answers_of(clean) == labels).nonzero()[:, 0]
            calls.start(right, len(images))
            adversarial, success = images.clone(), torch.ones_like(labels, dtype=torch.bool)
            if len(right):
                targets = Targets(images[right].detach(), labels[right], tuple(of_rows(keys, right)), self.seed)
                found = self.search(calls, targets)
                adversarial[right], success[right] = found.adversarial, found.success
        attacked = torch.zeros_like(success)
        attacked[right] = True
        gradients, queries = calls.counts()
        return AttackResult(adversarial, success, attacked, gradients, queries)


def check_inputs(images: Tensor, labels: Tensor, keys: Sequence[str]) -> None:
    """Raise ValueError where images are outside [0, 1] or the three do not belong together."""
    if images.ndim != 4 or not images.is_floating_point():
        raise ValueError(f"images: {tuple(images.shape)} {images.dtype} is not valid; valid: floats (b, c, h, w)")
    if not len(images) == len(labels) == len(keys):
        raise ValueError(f"keys: {len(images)} images, {len(labels)} labels and {len(keys)} keys; valid: equally many")
    if len(images) and not (images.min() >= 0 and images.max() <= 1):
        raise ValueError(
            f"images: {float(images.min()):.4g} to {float(images.max()):.4g} is not valid; valid: 0 to 1, "
            "the normalisation is the model's own"
        )


def of_rows(keys: Sequence[str], rows: Tensor) -> list[str]:
    """Return the keys of these row numbers."""
    return [keys[row] for row in cast("list[int]", rows.tolist())]


@contextmanager
def as_evaluated(model: nn.Module) -> Generator[None]:
    """Put the model into eval mode and give every one of its modules its own mode back afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
