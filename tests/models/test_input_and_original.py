"""`input` is the image as it was read, `original` what the model holds of it: two images where it works on latents."""

import numpy as np
import pytest

from clarep_ray.analysis.figures import COLUMN_TITLES, SHEET_COLUMNS
from clarep_ray.analysis.gallery.samples import picture_meaning
from clarep_ray.data.pictures import read_pictures
from clarep_ray.dotted import override
from clarep_ray.models.extractor import UnitExtractor
from clarep_ray.presets import EXTRACT


@pytest.mark.parametrize(("preset", "size", "same"), [("dit_xl_256_smoke", 32, False), ("digits_smoke", 16, True)])
def test_original_is_the_input_for_models_of_pixels_alone(preset: str, size: int, same: bool) -> None:
    changes = {"output.extras": ("input", "original"), "engine.micro_batch": 2, "data.digits.count": 3, "data.limit": 3}
    config = override(EXTRACT[preset]().config, changes)
    images = read_pictures(config.data, size).images
    arrays, records = UnitExtractor(config).run(images, [0, 1, 2], ["a", "b", "c"])
    assert {record["status"] for record in records} == {"ok"}
    np.testing.assert_array_equal(arrays["input/samples"], images)
    assert np.array_equal(arrays["original/samples"], images) == same
    np.testing.assert_array_equal(arrays["input/features"], arrays["original/features"])
    assert (arrays["norm_ratio"] > 0).all()
    assert (arrays["norm_ratio"] < 1).all()


def test_pages_and_sheets_call_them_what_they_are() -> None:
    assert picture_meaning("input", 3.0) == "the image as it was read: decoded, resized and cropped"
    assert "decode(encode(image))" in picture_meaning("original", 3.0)
    assert SHEET_COLUMNS[:2] == ("input", "original")
    assert COLUMN_TITLES["input"] == "input"
