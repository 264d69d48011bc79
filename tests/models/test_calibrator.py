"""The calibration actor: one SVD for every variant, and features as an extraction reads them."""

import numpy as np
import pytest
import torch

from clarep_ray.config import CalibrateConfig
from clarep_ray.data.spurious_digits import SpuriousDigits
from clarep_ray.dotted import override
from clarep_ray.models.calibrator import Calibrator
from clarep_ray.models.extractor import UnitExtractor
from clarep_ray.presets import CALIBRATE

CELL = {
    "layer": "transformer_blocks.3",
    "t": 600.0,
    "feature_layer": "transformer_blocks.2",
    "feature_t": 100.0,
    "windows": [4, 8],
    "fixed": [1, 3],
}
KEYS, LABELS = ["a", "b", "c"], [0, 5, 9]


@pytest.fixture(scope="module")
def config() -> CalibrateConfig:
    return override(CALIBRATE["digits_smoke"]().config, {"engine.micro_batch": 3})


@pytest.fixture(scope="module")
def calibrator(config: CalibrateConfig) -> Calibrator:
    return Calibrator(config)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    pictures = SpuriousDigits(split="test", count=3)
    return np.stack([pictures[i].image for i in range(3)])


def test_one_svd_gives_what_every_window_and_fixed_k_would_alone(
    config: CalibrateConfig, calibrator: Calibrator, images: np.ndarray
) -> None:
    found = calibrator.project(images, LABELS, KEYS, CELL)
    assert found["ok"].all()
    for name, changes in {
        "M=4": {"spectrum.num_directions": 4},
        "M=8": {"spectrum.num_directions": 8},
        "k=3": {"spectrum.num_directions": 8, "elbow.rule": "fixed", "elbow.num_removed": 3},
    }.items():
        alone = {"spectrum.tolerance": 1e-4, "inversion.project_t": 600.0, "features.feature_t": 100.0} | changes
        arrays, _ = UnitExtractor(override(config.extract_config(), alone)).run(images, LABELS, KEYS)
        assert found[f"{name}/k"].tolist() == arrays["num_removed"].tolist()
        np.testing.assert_allclose(found[f"{name}/label"], arrays["features"], atol=0.05)
        np.testing.assert_allclose(found[f"{name}/null"], arrays["null_features"], atol=0.05)
    assert found["k=1/k"].tolist() == [1, 1, 1]
    assert found["singular_values"].shape == (3, 8)
    assert found["M=4/read"].shape == (3, 1)
    np.testing.assert_array_equal(found["original/pictures"], images)


def test_the_feature_map_reads_what_an_extraction_reads(
    config: CalibrateConfig, calibrator: Calibrator, images: np.ndarray
) -> None:
    found = calibrator.feature_map(images, LABELS, KEYS, ["transformer_blocks.0", "transformer_blocks.2"], [0.0, 100.0])
    assert len(found) == 2 * 2 * 2
    cell = calibrator.project(images, LABELS, KEYS, CELL | {"windows": [4], "fixed": []})
    np.testing.assert_allclose(found["transformer_blocks.2/100/label"], cell["original/label"], atol=1e-5)
    np.testing.assert_allclose(found["transformer_blocks.2/100/null"], cell["original/null"], atol=1e-5)
    assert not np.allclose(found["transformer_blocks.2/100/null"], found["transformer_blocks.2/0/null"])


def test_two_stage_samples_do_not_depend_on_their_neighbours(calibrator: Calibrator) -> None:
    together = calibrator.two_stage(LABELS, KEYS, [300.0, 900.0])
    alone = calibrator.two_stage(LABELS[1:2], KEYS[1:2], [900.0])
    assert together["900/read"].shape == (3, 1)
    difference = together["900/pictures"][1].astype(int) - alone["900/pictures"][0]
    assert np.abs(difference).max() <= 1
    assert not np.array_equal(together["900/pictures"], together["300/pictures"])


def test_layer_means_read_many_layers_at_once(calibrator: Calibrator) -> None:
    model = calibrator.model
    x_t, cond = torch.randn(2, *model.latent_shape), model.cond(torch.tensor([1, 2]))
    means = model.layer_means(x_t, 100.0, cond, model.feature_layers)
    assert list(means) == list(model.feature_layers)
    for layer in model.feature_layers:
        torch.testing.assert_close(means[layer], model.pool(model.features(x_t, 100.0, cond, layer)))
