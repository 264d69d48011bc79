"""List the inputs of a run: folders, WebDataset tars, Parquet files, CIFAR-10's batches, the embedded set, noise.

A source lists `Listed` rows without reading images, and reads the bytes of one row. Rows come in a fixed order.
"""

from __future__ import annotations

from collections.abc import Callable

from clarep_ray.config import DataConfig
from clarep_ray.config.checks import require
from clarep_ray.data.class_list import UNKNOWN, ClassList
from clarep_ray.data.sources.files import SPLIT_NAMES, absolute_data
from clarep_ray.data.sources.folders import FlatFolder, ImageFolder
from clarep_ray.data.sources.listed import Listed, Source
from clarep_ray.data.sources.numbered import Cifar10, EmbeddedDigits, Noise
from clarep_ray.data.sources.parquet import Parquet
from clarep_ray.data.sources.webdataset import WebDataset

__all__ = ["SOURCES", "UNKNOWN", "Listed", "Source", "absolute_data", "open_source"]

SOURCES: dict[str, Callable[[DataConfig, ClassList | None, str], Source]] = {
    "spurious_digits": EmbeddedDigits,
    "image_folder": ImageFolder,
    "flat_folder": FlatFolder,
    "webdataset": WebDataset,
    "parquet": Parquet,
    "cifar10": Cifar10,
    "noise": Noise,
}


NO_FILES = ("spurious_digits", "noise")


def check_effects(config: DataConfig) -> None:
    """Raise ValueError for a setting that was chosen and would be passed over: the user's own folder, say."""
    files = "data.source is one of files, such as image_folder"
    for name, where, counts in (
        ("path", files, config.source not in NO_FILES),
        ("labels_file", "data.source is flat_folder", config.source == "flat_folder"),
        ("image_column", "data.source is parquet", config.source == "parquet"),
        ("label_column", "data.source is parquet", config.source == "parquet"),
    ):
        value, default = getattr(config, name), getattr(DataConfig(), name)
        if value != default and not counts:
            raise ValueError(f"data.{name}: {value!r} has no effect; valid: {default!r}, or where {where}")


def open_source(config: DataConfig, known: ClassList | None, reader: str = "the model") -> Source:
    """Return the source of a config, its labels those of `known`: a model's classes, or a training set's.

    None: its own. `reader` is whose they are, for messages. Raises ValueError where the input cannot be used. Its
    `labels` and `rows` raise ClassMismatch where its classes and `known` cannot be matched.
    """
    splits = {"cifar10": ("train", "test"), "spurious_digits": (), "noise": (), "flat_folder": ()}
    valid = (None, *splits.get(config.source, tuple(SPLIT_NAMES)))
    there = f"{', '.join(map(str, valid))} (data.source is {config.source})"
    require(config.split in valid, "data.split", config.split, there)
    check_effects(config)
    return SOURCES[config.source](config, known, reader)
