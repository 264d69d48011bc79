"""A model is never robust by logits or gradients that are no numbers."""

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from clarep_ray.robustness.attacks import build_attack
from tests.broken_models import NanSlope, Overflowing
from tests.robustness.conftest import Trained
from tests.robustness.test_attacks import AS_PUBLISHED, CONFIG, OURS, PUBLISHED

EVERY = [*((name, CONFIG) for name in (*OURS, "ensemble4")), *((name, AS_PUBLISHED) for name in PUBLISHED)]


class Broken(nn.Module):
    """One logit of every image is `bad`."""

    def __init__(self, model: nn.Module, bad: float) -> None:
        super().__init__()
        self.model, self.bad = model, bad

    def forward(self, images: Tensor) -> Tensor:
        logits = self.model(images).clone()
        logits[:, 9] = self.bad
        return logits


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize(("name", "config"), EVERY)
def test_no_image_is_robust(trained: Trained, name: str, config: object, bad: float) -> None:
    """Labels are the class that argmax gives: that of the broken logit, or 0 where the library's arithmetic spreads."""
    images = trained.images[:6]
    labels = torch.tensor([9, 9, 9, 9, 0, 0])
    result = build_attack(name, config)(Broken(trained.model, bad), images, labels, trained.keys[:6])  # type: ignore[arg-type]
    assert result.success.all()
    assert result.adversarial.isfinite().all()


@pytest.mark.parametrize("name", OURS)
def test_a_search_that_ends_in_them_has_found_something(trained: Trained, name: str) -> None:
    """Every image that the attack moves becomes brighter than the limit or falls; none may stand by a NaN."""
    images = trained.images[:20].clamp(0.02, 0.98)
    model = Overflowing(trained.model, float(images.mean((1, 2, 3)).max()) + 1e-4)
    result = build_attack(name, CONFIG)(model, images, trained.labels[:20], trained.keys[:20])
    answered = model(result.adversarial).isfinite().all(1)
    assert result.success[~answered].all()


@pytest.mark.parametrize("name", [name for name in OURS if name != "square"])
def test_gradients_that_are_none_make_no_images_of_nan(trained: Trained, name: str) -> None:
    """Zero where they are not finite: a budget without a direction is no success of the attack, and no NaN image."""
    few = dataclasses.replace(CONFIG, eps_255=1.0)
    result = build_attack(name, few)(
        NanSlope(trained.model), trained.images[:20], trained.labels[:20], trained.keys[:20]
    )
    assert result.adversarial.isfinite().all()
    fell = result.success & result.attacked
    assert (trained.model(result.adversarial).argmax(1) != trained.labels[:20])[fell].all()
