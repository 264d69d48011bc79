"""The calibration actor without Ray: one model, three kinds of work on micro-batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from clarep_ray.clarid.calibration import two_stage
from clarep_ray.clarid.pipeline import OK, noised
from clarep_ray.config import CalibrateConfig
from clarep_ray.data.units import SPECTRUM_ARRAYS
from clarep_ray.dotted import override
from clarep_ray.models.answers import NO_ANSWER
from clarep_ray.models.extractor import UnitExtractor
from clarep_ray.models.judges import load_judges
from clarep_ray.seeding import torch_generator

Arrays = dict[str, NDArray[Any]]


class Calibrator:
    """A model with a calibration's settings; arrays say what was found, by names that the report knows."""

    def __init__(self, config: CalibrateConfig, device: str = "cpu") -> None:
        self.config = config
        self.extractor = UnitExtractor(config.extract_config(), device)
        self.model = self.extractor.model
        judged = any(part != "features" for part in config.parts)
        self.classifiers = load_judges(config.classifiers if judged else (), self.model.classes, self.model.device)

    def two_stage(self, labels: Sequence[int], keys: Sequence[str], switches: Sequence[float]) -> Arrays:
        """Return what the classifiers read in samples for every t_e of `switches`, and the pictures."""
        settings = self.config.saturation
        draws = [torch_generator(self.config.seed, key, "two_stage") for key in keys]
        noise = torch.stack([torch.randn(self.model.latent_shape, generator=draw) for draw in draws])
        found: Arrays = {}
        for t, latents in two_stage(
            self.model,
            torch.tensor(labels),
            noise.to(self.model.device),
            settings.num_steps,
            switches,
            settings.guidance_scale,
        ):
            pictures = self.extractor.to_images(latents).cpu().numpy()
            # A sample of NaN is shown as a black image, in which a classifier reads some class all the same.
            lost = ~latents.isfinite().flatten(1).all(1).cpu().numpy()
            found[f"{t:g}/read"] = np.where(lost[:, None], NO_ANSWER, self._read(pictures))
            found[f"{t:g}/pictures"] = pictures
        return found

    def judge(self, images: NDArray[np.uint8]) -> Arrays:
        """Return what the classifiers read in the originals, as an extraction reads them from the input."""
        return {"read": self._read(images)}

    def feature_map(
        self,
        images: NDArray[np.uint8],
        labels: Sequence[int],
        keys: Sequence[str],
        layers: Sequence[str],
        times: Sequence[float],
    ) -> Arrays:
        """Return the spatial means of every layer at every time, under both readings."""
        x_0 = self.extractor.encode(images)
        conditions = {reading: self._condition(reading, labels) for reading in self.model.readings}
        found: Arrays = {}
        for t in times:
            x_t = noised(self.model, x_0, t, [torch_generator(self.config.seed, key, "features") for key in keys])
            for reading, cond in conditions.items():
                for layer, means in self.model.layer_means(x_t, t, cond, layers).items():
                    found[f"{layer}/{t:g}/{reading}"] = means.cpu().numpy()
        return found

    def project(
        self,
        images: NDArray[np.uint8],
        labels: Sequence[int],
        keys: Sequence[str],
        cell: dict[str, Any],
    ) -> Arrays:
        """Return features, k and readings of every variant of a cell, all from one SVD of each sample.

        `cell` has `layer`, `t`, `feature_layer`, `feature_t`, `windows` (adaptive k) and `fixed` (fixed k). One with
        `map_of` also gets that variant's feature map, over `layers` and `times`, under `canonical/`.
        """
        widest = max(cell["windows"])
        base: dict[str, Any] = {
            "spectrum.layer": cell["layer"],
            "inversion.project_t": cell["t"],
            "features.layer": cell["feature_layer"],
            "features.feature_t": cell["feature_t"],
            "output.keep_spectrum": True,
            "spectrum.num_directions": widest,
            "spectrum.max_products": max(self.config.spectrum.max_products, widest),
        }
        variants: dict[str, dict[str, Any]] = {f"M={widest}": {"output.extras": ("original",)}}
        variants |= {f"M={m}": {"spectrum.num_directions": m} for m in cell["windows"] if m != widest}
        variants |= {f"k={k}": {"elbow.rule": "fixed", "elbow.num_removed": k} for k in cell["fixed"]}
        found: Arrays = {"ok": np.ones(len(images), bool)}
        resumed: Arrays | None = None
        for name, changes in variants.items():
            arrays, records = self._variant(base | changes).run(images, labels, keys, resumed)
            if resumed is None:
                resumed = {array: arrays[array] for array in SPECTRUM_ARRAYS}
                found |= _features(arrays, "original", "original/") | {
                    "original/read": self._read(arrays["original/samples"]),
                    "original/pictures": arrays["original/samples"],
                    "singular_values": arrays["singular_values"],
                }
            found |= _features(arrays, name, "") | {
                f"{name}/read": self._read(arrays["samples"]),
                f"{name}/pictures": arrays["samples"],
                f"{name}/k": arrays["num_removed"],
            }
            found["ok"] &= np.array([record["status"] == OK for record in records])
        if "map_of" in cell:
            pictures = found[f"{cell['map_of']}/pictures"]
            maps = self.feature_map(pictures, labels, keys, cell["layers"], cell["times"])
            found |= {f"canonical/{name}": means for name, means in maps.items()}
        return found

    def _variant(self, changes: dict[str, Any]) -> UnitExtractor:
        return self.extractor.configured(override(self.extractor.config, changes))

    def _condition(self, reading: str, labels: Sequence[int]) -> Any:
        return self.model.cond(torch.tensor(labels)) if reading == "label" else self.model.null_cond(len(labels))

    def _read(self, pictures: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Return the class that each classifier reads in each image, or NO_ANSWER, shape (n, classifiers)."""
        nothing = np.zeros((len(pictures), 0), np.int64)
        return np.concatenate([nothing, *(judge.predict(pictures)[:, None] for judge in self.classifiers)], 1)


def _features(arrays: Arrays, name: str, prefix: str) -> Arrays:
    found = {f"{name}/label": arrays[f"{prefix}features"]}
    if f"{prefix}null_features" in arrays:
        found[f"{name}/null"] = arrays[f"{prefix}null_features"]
    return found
