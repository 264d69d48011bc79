"""What fits is plain arithmetic on a measured line; the measurement sees the images of a batch."""

import pytest

from clarep_ray.dotted import override
from clarep_ray.models.batch_memory import BatchMemory, fitting_batch, probe_memory
from clarep_ray.presets import EXTRACT

GB = 1e9


def test_the_line_goes_through_two_batches() -> None:
    memory = BatchMemory.through({1: 3 * 10**9, 3: 4 * 10**9})
    assert (memory.base, memory.per_image) == (pytest.approx(2.5 * GB), pytest.approx(0.5 * GB))
    assert memory.of(12) == pytest.approx(8.5 * GB)


@pytest.mark.parametrize(
    ("free", "unit_size", "chosen"),
    [
        (15 * GB, 24, 8),  # ten fit into 80 %, but three batches of eight do what ten, ten and four do
        (15 * GB, 10, 10),
        (15 * GB, 11, 6),
        (100 * GB, 24, 24),  # never more than there are
        (3.76 * GB, 24, 1),  # 80 % of it is one image's
        (100 * GB, 1, 1),
    ],
)
def test_the_fewest_batches_with_the_least_padding(free: float, unit_size: int, chosen: int) -> None:
    assert fitting_batch(BatchMemory(2 * GB, 1 * GB), free, unit_size) == chosen


def test_images_that_cost_nothing_all_fit_and_a_model_that_does_not_is_named() -> None:
    assert fitting_batch(BatchMemory(1 * GB, -10.0), 15 * GB, 24) == 24
    for free in (3.7 * GB, 1 * GB):
        with pytest.raises(ValueError, match=r"engine\.micro_batch: None is not valid: one image takes 2\.00 GB \+"):
            fitting_batch(BatchMemory(2 * GB, 1 * GB), free, 24)


def test_more_images_take_more_memory_in_a_batch_of_their_own() -> None:
    config = override(EXTRACT["digits"]().config, {"engine.micro_batch": None})
    memory, free = probe_memory(config, "cpu", (2, 34))
    latent_bytes = 3 * 16 * 16 * 4
    basis = 2 * config.spectrum.max_products * latent_bytes  # of each image, at the least
    assert basis < memory.per_image < 20 * basis
    assert memory.base < free
    after, _ = probe_memory(config, "cpu", (1, 2))
    assert after.per_image > basis, "what the larger batch left free does not hide a smaller one"
