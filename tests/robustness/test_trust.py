"""Models that hide their gradients are caught, one that does not passes."""

import pytest
import torch
from torch import Tensor, nn

from clarep_ray.config import TrustConfig
from clarep_ray.errors import Untrusted
from clarep_ray.robustness.trust import Finding, require_trusted, trust_findings
from tests.robustness.conftest import Normalised, Trained

CONFIG = TrustConfig(eps_255=24.0, num_steps=8, num_restarts=3, num_queries=300)


class Masked(nn.Module):
    """The trained model behind something that spoils its gradients."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        raise NotImplementedError


class Quantised(Masked):
    def forward(self, images: Tensor) -> Tensor:
        return self.model((images * 8).round() / 8)


class Saturated(Masked):
    def forward(self, images: Tensor) -> Tensor:
        return 1000 * self.model(images)


class Probabilities(Masked):
    def forward(self, images: Tensor) -> Tensor:
        return self.model(images).softmax(1)


class Noisy(Masked):
    def forward(self, images: Tensor) -> Tensor:
        return self.model(images + 0.05 * torch.randn_like(images))


class Misleading(Masked):
    """The same answers, gradients that point the other way."""

    def forward(self, images: Tensor) -> Tensor:
        return self.model(2 * images.detach() - images)


class Broken(Masked):
    def forward(self, images: Tensor) -> Tensor:
        return self.model(images) * torch.nan


def findings(trained: Trained, model: nn.Module, *surrogates: nn.Module) -> dict[str, Finding]:
    images, labels, keys = trained.images[:64], trained.labels[:64], trained.keys[:64]
    return {f.name: f for f in trust_findings(model, images, labels, keys, CONFIG, surrogates=surrogates)}


def failed(trained: Trained, model: nn.Module, *surrogates: nn.Module) -> set[str]:
    return {name for name, finding in findings(trained, model, *surrogates).items() if not finding.passed}


def test_an_honest_model_passes_everything(trained: Trained, surrogate: Normalised) -> None:
    found = findings(trained, trained.model, surrogate)
    assert [name for name, finding in found.items() if not finding.passed] == []
    assert set(found) == {
        "finite_logits",
        "logits_not_probabilities",
        "deterministic",
        "cross_entropy_gradients",
        "margin_gradients",
        "more_steps_do_not_help_less",
        "one_start_is_enough",
        "budget_tells",
        "more_room_does_not_help_less",
        "unbounded_eps_reaches_zero",
        "black_box_not_stronger",
        "transfer_0_not_stronger",
    }
    assert found["unbounded_eps_reaches_zero"].numbers == {"robust": 0.0}
    assert require_trusted(list(found.values()), refuse=True) == []


@pytest.mark.parametrize(
    ("mask", "signs"),
    [
        (
            Quantised,
            {
                "margin_gradients",
                "cross_entropy_gradients",
                "unbounded_eps_reaches_zero",
                "black_box_not_stronger",
                "transfer_0_not_stronger",
            },
        ),
        (Saturated, {"cross_entropy_gradients"}),
        (Probabilities, {"logits_not_probabilities"}),
        (Noisy, {"deterministic"}),
        (
            Misleading,
            {"unbounded_eps_reaches_zero", "black_box_not_stronger", "transfer_0_not_stronger"},
        ),
    ],
)
def test_masked_models_are_caught(trained: Trained, mask: type[Masked], signs: set[str]) -> None:
    """The undefended twin is the other model of the transfer check."""
    assert signs <= failed(trained, mask(trained.model), trained.model)


def test_outputs_that_are_no_numbers_are_caught(trained: Trained) -> None:
    labels = torch.zeros(8, dtype=torch.long)  # the argmax of NaN
    (found,) = trust_findings(Broken(trained.model), trained.images[:8], labels, trained.keys[:8], CONFIG)
    assert (found.name, found.passed, found.numbers) == ("finite_logits", False, {"share_finite": 0.0})


def test_what_makes_figures_meaningless_is_refused(trained: Trained) -> None:
    found = list(findings(trained, Quantised(trained.model)).values())
    assert any(
        "margin_gradients: the model lets no gradient through" in line for line in require_trusted(found, refuse=False)
    )
    with pytest.raises(Untrusted, match=r"unbounded_eps_reaches_zero: .*robust"):
        require_trusted(found, True)
    only_warned = list(findings(trained, Probabilities(trained.model)).values())
    only_warned = [finding for finding in only_warned if finding.passed or finding.severity == "warn"]
    assert require_trusted(only_warned, True)


def test_a_model_that_knows_nothing_is_told_so(trained: Trained) -> None:
    wrong = (trained.model(trained.images[:4]).argmax(1) + 1) % 10
    with pytest.raises(ValueError, match="not one of 4 is classified right"):
        trust_findings(trained.model, trained.images[:4], wrong, trained.keys[:4], CONFIG)
