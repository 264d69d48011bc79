"""The embedded data is reproducible and its splits are what they say."""

import numpy as np
import pytest

from clarep_ray.data.spurious_digits import SPLITS, SpuriousDigits


def kinds_and_labels(**options: object) -> tuple[np.ndarray, np.ndarray]:
    pictures = SpuriousDigits(count=600, **options)  # type: ignore[arg-type]
    rows = [pictures[i] for i in range(len(pictures))]
    return np.array([row.background_kind for row in rows]), np.array([row.label for row in rows])


def test_backgrounds_follow_the_split() -> None:
    kinds, labels = kinds_and_labels(split="same_background")
    assert (kinds == labels).all()
    kinds, labels = kinds_and_labels(split="conflict")
    assert (kinds != labels).all()
    assert set(kinds) == set(range(10))
    kinds, labels = kinds_and_labels(split="random_background")
    assert 0.05 < (kinds == labels).mean() < 0.16
    assert (kinds_and_labels(split="foreground_only")[0] == -1).all()


@pytest.mark.parametrize("correlation", [0.1, 0.5, 0.9, 1.0])
def test_correlation_is_the_share_of_typical_backgrounds(correlation: float) -> None:
    kinds, labels = kinds_and_labels(split="train", correlation=correlation)
    assert abs((kinds == labels).mean() - correlation) < 0.06


def test_pictures_depend_on_seed_split_and_number_alone() -> None:
    short, long = SpuriousDigits(count=5), SpuriousDigits(count=50)
    assert np.array_equal(short[3].image, long[3].image)
    assert not np.array_equal(short[3].image, SpuriousDigits(count=5, seed=1)[3].image)
    assert not np.array_equal(short[3].image, SpuriousDigits(count=5, split="test")[3].image)


def test_mask_covers_the_digit_and_not_the_background() -> None:
    pictures = SpuriousDigits(split="foreground_only", count=50)
    for i in range(50):
        row = pictures[i]
        assert 0.05 < row.mask.mean() < 0.6
        assert row.image[row.mask].mean() > 4 * max(1, row.image[~row.mask].mean())


def test_train_and_test_use_different_scans() -> None:
    from clarep_ray.data.spurious_digits import _digit_scans

    train, test = _digit_scans(True)[0], _digit_scans(False)[0]
    assert len(train) + len(test) == 1797
    assert not {scan.tobytes() for scan in train} & {scan.tobytes() for scan in test}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "other"}, "'other' is unknown; valid: " + ", ".join(SPLITS)),
        ({"correlation": 1.5}, r"1\.5 is outside"),
        ({"image_size": 4}, "4 is below 8"),
        ({"count": -1}, "-1 is negative"),
    ],
)
def test_bad_settings_name_the_value(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SpuriousDigits(**options)  # type: ignore[arg-type]
