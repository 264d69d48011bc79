import numpy as np
import pytest

from clarep_ray.analysis.judges import change_outside, judge, originals_of
from clarep_ray.config import DigitsConfig

CONFLICT = DigitsConfig(split="conflict", count=100, seed=5)


@pytest.fixture(scope="module")
def originals():
    return originals_of(CONFLICT, list(range(100)))


def test_originals_keep_their_digit_and_their_background(originals) -> None:
    verdict = judge(np.stack([picture.image for picture in originals]), originals)
    assert verdict.class_kept >= 0.95
    assert verdict.background_kept >= 0.98
    assert verdict.background_typical <= 0.02
    assert verdict.change_outside == 0


def test_another_class_on_its_own_background_is_seen(originals) -> None:
    shifted = originals[1:] + originals[:1]
    different = np.mean([a.label != b.label for a, b in zip(originals, shifted, strict=True)])
    verdict = judge(np.stack([picture.image for picture in shifted]), originals)
    assert verdict.class_kept <= 1 - different + 0.05


def test_change_outside_counts_pixels_by_the_mask(originals) -> None:
    digit, ground = originals[0], originals[1]
    images = np.stack([digit.image, ground.image])
    images[0][digit.mask] = 255 - images[0][digit.mask]
    assert change_outside(images[:1], [digit]) == 0
    images[1][~ground.mask] = 255 - images[1][~ground.mask]
    assert change_outside(images[1:], [ground]) == 1
