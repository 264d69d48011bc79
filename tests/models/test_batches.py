"""What a picture's results depend on: at one size of a batch on nothing beside it, to the bit; across sizes, little."""

from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from clarep_ray.data.pictures import read_pictures
from clarep_ray.dotted import override
from clarep_ray.models.extractor import UnitExtractor
from clarep_ray.presets import EXTRACT

SIZES = (1, 2, 3, 4, 5, 6, 8, 12, 16)
STEPS = {
    "inversion.num_steps": 6,
    "inversion.project_t": 498.0,
    "spectrum.num_directions": 3,
    "spectrum.tolerance": 0.1,
    "output.keep_spectrum": True,
    "output.extras": ("random@1", "unconditional@1"),
}
"""Every stage of the method on the shipped model, in a second: how good the spectrum is does not matter here."""
Arrays = dict[str, NDArray[Any]]


@lru_cache
def pictures() -> tuple[NDArray[np.uint8], list[int], list[str]]:
    config = EXTRACT["digits_smoke"]().config
    found = read_pictures(override(config, {"data.digits.count": 32, "data.limit": 32}).data, 16)
    return found.images, [int(label) for label in found.labels], [f"key-{number}" for number in range(32)]


@lru_cache
def extractor() -> UnitExtractor:
    return UnitExtractor(override(EXTRACT["digits_smoke"]().config, STEPS))


def results(rows: tuple[int, ...], size: int) -> Arrays:
    """Return the arrays of some pictures that go through together, in batches of one size."""
    images, labels, keys = pictures()
    configured = extractor().configured(override(extractor().config, {"engine.micro_batch": size}))
    chosen = list(rows)
    arrays, records = configured.run(images[chosen], [labels[row] for row in chosen], [keys[row] for row in chosen])
    assert {record["status"] for record in records} == {"ok"}
    return arrays


@pytest.mark.parametrize("size", [pytest.param(size, marks=[] if size == 3 else pytest.mark.nightly) for size in SIZES])
def test_neighbours_and_place_change_no_bit_of_any_stage(size: int) -> None:
    """Picture 0: first among some, last among others, and alone, where it is its own padding."""
    first = results(tuple(range(size)), size)
    last = results((*range(30, 31 - size, -1), 0), size)
    alone = results((0,), size)
    assert {"x_t", "round_trip_error", "singular_values", "right_vectors", "num_removed", "samples", "features"} < set(
        first
    )
    assert {"random@1/samples", "unconditional@1/features"} < set(first)
    for name, array in first.items():
        assert array[0].tobytes() == last[name][-1].tobytes() == alone[name][0].tobytes(), f"{name}, batches of {size}"


@pytest.mark.nightly
@pytest.mark.timeout(900)
def test_another_size_of_batch_changes_little() -> None:
    """Features by 1e-4 of their length, 99.9 % of the pixels by one step, and no number of removed directions."""
    reference = results(tuple(range(16)), 1)
    for size in (4, 8):
        found = results(tuple(range(16)), size)
        difference = np.linalg.norm(found["features"] - reference["features"], axis=1)
        worst = float((difference / np.linalg.norm(reference["features"], axis=1)).max())
        steps = np.abs(found["samples"].astype(int) - reference["samples"].astype(int))
        share = float((steps <= 1).mean())
        print(
            f"batches of {size} against 1: features {worst:.1e}, pixels within a step {share:.5f}, worst {steps.max()}"
        )
        assert np.array_equal(found["num_removed"], reference["num_removed"])
        assert worst <= 1e-4
        assert share >= 0.999
