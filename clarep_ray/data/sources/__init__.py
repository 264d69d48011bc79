"""List the inputs of a run: folders, WebDataset tars, Parquet files, CIFAR-10's batches, the embedded set, noise.

A source lists `Listed` rows without reading images, and reads the bytes of one row. Rows come in a fixed order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from clarep_ray.config import DataConfig
from clarep_ray.data.class_list import ClassList, match
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


def open_source(config: DataConfig, known: ClassList | Sequence[str] | None, reader: str = "the model") -> Source:
    """Return the source of a config; `known` are the classes of the model that reads it, None for its own."""
    source = SOURCES[config.source](config, known.names if isinstance(known, ClassList) else tuple(known or ()))
    source.classes, source.match = ClassList.of_names(source.class_names), None
    if isinstance(known, ClassList) and source.class_names:
        source.match = match(source.classes, known, f"data.source: {config.source!r}", reader)
    return source
