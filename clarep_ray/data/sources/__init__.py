"""List the inputs of a run: folders, WebDataset tars, Parquet files, CIFAR-10's batches, the embedded set, noise.

A source lists `Listed` rows without reading images, and reads the bytes of one row. Rows come in a fixed order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from clarep_ray.config import DataConfig
from clarep_ray.data.sources.folders import FlatFolder, ImageFolder
from clarep_ray.data.sources.listed import UNKNOWN, Listed, Source
from clarep_ray.data.sources.numbered import Cifar10, EmbeddedDigits, Noise
from clarep_ray.data.sources.parquet import Parquet
from clarep_ray.data.sources.webdataset import WebDataset

__all__ = ["SOURCES", "UNKNOWN", "Listed", "Source", "open_source"]

SOURCES: dict[str, Callable[[DataConfig, Sequence[str]], Source]] = {
    "spurious_digits": EmbeddedDigits,
    "image_folder": ImageFolder,
    "flat_folder": FlatFolder,
    "webdataset": WebDataset,
    "parquet": Parquet,
    "cifar10": Cifar10,
    "noise": Noise,
}


def open_source(config: DataConfig, known_classes: Sequence[str]) -> Source:
    """Return the source of a config; `known_classes` are the model's class names, empty if it has none."""
    return SOURCES[config.source](config, known_classes)
