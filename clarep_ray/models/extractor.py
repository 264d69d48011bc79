"""The extraction actor without Ray: pictures in, Canonical Samples and Features out, one work unit at a time."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clarep_ray import models
from clarep_ray.clarid.baselines import BASELINES
from clarep_ray.clarid.pipeline import OK, CLARepBatch, Inversion, clarid, inverted_noise
from clarep_ray.clarid.schedule import path_of
from clarep_ray.clarid.svd import SingularTriplets
from clarep_ray.config import INPUT, ExtractConfig, parse_extra
from clarep_ray.data.records import RejectReason
from clarep_ray.data.units import SPECTRUM_ARRAYS
from clarep_ray.models.adapter import Adapter
from clarep_ray.models.judges import load_judges
from clarep_ray.models.quality_gate import QualityGate

Arrays = dict[str, NDArray[Any]]


class UnitExtractor:
    """A model with a run's settings; `run` does not depend on which units were done before.

    Threads, deterministic kernels and full float32 precision are set for the whole process.
    """

    def __init__(self, config: ExtractConfig, device: str = "cpu") -> None:
        set_deterministic(config.engine.num_threads)
        self.config = config
        self.device = torch.device(device)
        self.model = models.build(config.model).to(self.device)
        judges = config.gate.classifiers if config.gate.enabled else ()
        self.classifiers = load_judges(judges, self.model.classes, device)

    def configured(self, config: ExtractConfig) -> UnitExtractor:
        """Return an extractor with other settings that shares this one's model."""
        other = copy.copy(self)
        other.config = config
        return other

    def encode(self, images: NDArray[np.uint8]) -> Tensor:
        """Return clean latents of pictures (n, h, w, 3)."""
        return encode_images(self.model, images)

    def run(
        self,
        images: NDArray[np.uint8],
        labels: Sequence[int],
        keys: Sequence[str],
        resumed: Mapping[str, NDArray[Any]] | None = None,
    ) -> tuple[Arrays, list[dict[str, Any]]]:
        """Return the arrays and one record (status, elbow method) for each of n pictures (n, h, w, 3).

        `labels` are condition numbers: the class, or with several prompts `label + n * classes`; `keys` are the
        pictures', from which their random streams follow. With `gate.enabled` the records say what the quality gate
        found.
        """
        if not self.config.gate.enabled:
            return self._run(images, labels, keys, resumed)
        grid = self.model.schedule.times(self.config.inversion.num_steps)
        gate = QualityGate(self.config, grid, len(self.model.classes), self.classifiers)
        return gate.run(lambda config, *rest: self.configured(config)._run(*rest), images, labels, keys, resumed)

    def _run(
        self,
        images: NDArray[np.uint8],
        labels: Sequence[int],
        keys: Sequence[str],
        resumed: Mapping[str, NDArray[Any]] | None,
    ) -> tuple[Arrays, list[dict[str, Any]]]:
        """Return what `run` does before a gate.

        The pictures go through in micro-batches of exactly `engine.micro_batch` rows; the last one is filled up
        with the first pictures again, so that no result depends on how many came along.
        """
        size, total = self.config.engine.rows_per_call, len(images)
        parts: list[tuple[Arrays, list[dict[str, Any]]]] = []
        for start in range(0, total, size):
            padded = [(start + i) % total for i in range(size)]
            earlier = {name: array[padded] for name, array in resumed.items()} if resumed is not None else None
            batch = self._batch(images[padded], [labels[i] for i in padded], [keys[i] for i in padded], earlier)
            parts.append(self._collect(batch, images[padded], min(size, total - start), lonely=total == 1))
        arrays = {name: np.concatenate([part[0][name] for part in parts]) for name in parts[0][0]} if parts else {}
        return arrays, [record for part in parts for record in part[1]]

    def _batch(
        self,
        images: NDArray[np.uint8],
        labels: Sequence[int],
        keys: Sequence[str],
        earlier: Mapping[str, NDArray[Any]] | None,
    ) -> CLARepBatch:
        x_0 = self._latents(images)
        resumed = self._resumed(earlier, x_0) if earlier is not None else None
        arguments = self.model, x_0, torch.tensor(labels), self.config, keys
        if self.config.needs_spectrum:
            return clarid(*arguments, resumed)
        return BASELINES[self.config.output.what](*arguments)

    def _resumed(self, earlier: Mapping[str, NDArray[Any]], x_0: Tensor) -> tuple[Inversion, SingularTriplets]:
        kept = {name: torch.from_numpy(np.ascontiguousarray(earlier[name])).to(self.device) for name in SPECTRUM_ARRAYS}
        x_t = kept.pop("x_t")
        told = inverted_noise(self.model, x_0, x_t, path_of(self.model.schedule, self.config.inversion)[-1].item())
        return Inversion(x_t, None, kept.pop("round_trip_error"), *told), SingularTriplets(**kept)

    def _latents(self, images: NDArray[np.uint8]) -> Tensor:
        if self.config.data.source == "noise":  # there is no picture to encode
            return torch.zeros(len(images), *self.model.latent_shape, device=self.device)
        return self.encode(images)

    def _collect(
        self, batch: CLARepBatch, images: NDArray[np.uint8], count: int, lonely: bool
    ) -> tuple[Arrays, list[dict[str, Any]]]:
        """Return the first `count` rows as NumPy arrays and records; the rest is padding."""
        arrays = {"features": batch.canonical_features, **spectrum_arrays(batch)}
        if batch.canonical_samples is not None:
            arrays["samples"] = self.to_images(batch.canonical_samples)
        if batch.null_features is not None:
            arrays["null_features"] = batch.null_features
        for name, (latents, features, null_features) in batch.extras.items():
            arrays[f"{name}/samples"] = torch.from_numpy(images) if name == INPUT else self.to_images(latents)
            arrays[f"{name}/features"] = features
            if null_features is not None:
                arrays[f"{name}/null_features"] = null_features
        if not self.config.output.keep_spectrum:
            arrays = {name: array for name, array in arrays.items() if name not in ("x_t", "right_vectors")}
        status = batch.status[:count]
        if lonely and status[0] == OK and uses_other_image(self.config):
            status = [RejectReason.NO_OTHER_IMAGE.value]
        methods = [{"elbow_method": elbow.method} for elbow in batch.removal.elbows] if batch.removal else [{}] * count
        records = [
            {"status": OK if state == OK else "rejected", "reason": None if state == OK else state, **method}
            for state, method in zip(status, methods, strict=False)
        ]
        return {name: tensor[:count].detach().cpu().numpy() for name, tensor in arrays.items()}, records

    def to_images(self, latents: Tensor) -> Tensor:
        """Return uint8 pictures (b, h, w, 3); a non-finite one, rejected anyway, becomes black."""
        return decode_images(self.model, latents)


def encode_images(model: Adapter, images: NDArray[np.uint8]) -> Tensor:
    """Return clean latents of pictures (n, h, w, 3)."""
    pixels = torch.from_numpy(images).to(model.device).permute(0, 3, 1, 2).float() / 127.5 - 1
    return model.encode(pixels)


def decode_images(model: Adapter, latents: Tensor) -> Tensor:
    """Return uint8 pictures (b, h, w, 3) of clean latents; a non-finite one becomes black."""
    pixels = torch.nan_to_num(model.decode(latents), nan=-1.0)
    return ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def uses_other_image(config: ExtractConfig) -> bool:
    """Say whether a projection of the run needs another image's directions."""
    if config.output.what != "canonical":
        return False
    extras = (parse_extra(name) for name in config.output.extras)
    return "other_image" in {config.projection.mode} | {extra.mode for extra in extras if extra}


def set_deterministic(num_threads: int) -> None:
    """Fix what could make equal inputs give other bits: threads, kernels, reduced precision."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(num_threads)
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def spectrum_arrays(batch: CLARepBatch) -> dict[str, Tensor]:
    """Return what the inversion and the spectrum say, as far as there was one."""
    arrays: dict[str, Tensor] = {}
    if batch.inversion is not None:
        names = ("x_t", "round_trip_error", "noise_std", "noise_outside")
        arrays |= {name: getattr(batch.inversion, name) for name in names}
    if batch.triplets is not None:
        arrays |= {name: getattr(batch.triplets, name) for name in SPECTRUM_ARRAYS if hasattr(batch.triplets, name)}
    if batch.removal is not None:
        margins = [elbow.margin for elbow in batch.removal.elbows]
        arrays["elbow_margin"] = torch.tensor(margins, dtype=torch.float64)
        arrays |= {"num_removed": batch.removal.num_removed, "ambiguous": batch.removal.ambiguous}
    if batch.norm_ratio is not None:
        arrays["norm_ratio"] = batch.norm_ratio
    return arrays
