"""The shipped models: what they generate, and that the package stays small."""

from pathlib import Path

import pytest
import torch

from clarep_ray.analysis.model_card import NUM_SAMPLES, sample_digits
from clarep_ray.config import ModelConfig
from clarep_ray.models import digit_classifier
from clarep_ray.models.digits_dit import SHIPPED, SHIPPED_NAMES, build


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["rho10", "rho90"])
def test_conditional_samples_are_read_as_their_class(name: str) -> None:
    """500 samples without guidance, 25 DDIM steps, read by the independently trained classifier."""
    torch.set_num_threads(2)
    labels = torch.arange(NUM_SAMPLES) % 10
    images = sample_digits(build(ModelConfig(weights=name)), labels, num_steps=25)
    torch.set_num_threads(1)
    read = digit_classifier.load("digit").predict(images)
    assert (read == labels.numpy()).mean() >= 0.90
    assert (digit_classifier.load("background").predict(images) == labels.numpy()).mean() == pytest.approx(
        {"rho90": 0.9, "rho10": 0.1}[name], abs=0.06
    )


@pytest.mark.parametrize("name", SHIPPED_NAMES)
def test_cards_say_what_was_measured(name: str) -> None:
    card = (Path(SHIPPED) / name / "README.md").read_text()
    shares = {line.split("|")[1].strip(): float(line.split("|")[2]) for line in card.splitlines() if "guidance" in line}
    assert shares["digit is the class's, guidance 1"] >= 0.90
    assert shares["digit is the class's, guidance 3"] >= 0.99
    assert f"--preset {name}" in card


def test_all_weights_together_stay_below_five_megabytes() -> None:
    assert sum(path.stat().st_size for path in Path(SHIPPED).rglob("*") if path.is_file()) < 5e6
