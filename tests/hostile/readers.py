"""Every reader of the product as a function of one path, by what it reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

Reader = Callable[[Path], Any]


def pictures() -> dict[str, Reader]:
    """Readers of encoded pictures."""
    from clarep_ray.data.pixels import decode_image, open_rgb

    return {
        "decode_image": lambda path: decode_image(path.read_bytes(), 16),
        "open_rgb": lambda path: open_rgb(path.read_bytes()),
    }


def containers() -> dict[str, Reader]:
    """Readers of files that hold pictures and labels, and of outputs. Ray Data is imported, as in its workers."""
    from clarep_ray.cluster.runtime import prepare_environment

    prepare_environment()
    import pyarrow.parquet as pq
    import ray.data  # noqa: F401  (its types of Parquet columns unpickle)

    from clarep_ray.analysis.gallery.sweep_table import read_sweep
    from clarep_ray.data.cifar10 import read_batch
    from clarep_ray.data.clarep_index import INDEX_SCHEMA
    from clarep_ray.data.manifest import InputManifest
    from clarep_ray.data.parquet_files import read_table
    from clarep_ray.data.selection import read_class_files
    from clarep_ray.data.shards import read_npy, read_shard, sha256_file
    from clarep_ray.data.sources.image_labels import read_image_labels
    from clarep_ray.data.sources.imagenet_devkit import read_meta
    from clarep_ray.data.tar_index import tar_index
    from clarep_ray.data.verdicts import VERDICT

    return {
        "tar_index": tar_index,
        "read_shard": lambda path: list(read_shard(path)),
        "webdataset": lambda path: inputs("webdataset", path),
        "parquet": lambda path: inputs("parquet", path),
        "index": lambda path: read_table(path, sha256_file(path), INDEX_SCHEMA).to_pylist(),
        "input manifest": lambda path: InputManifest(path, sha256_file(path)).digest(),
        "verdicts": lambda path: read_table(path, sha256_file(path), VERDICT).to_pylist(),
        "plain pyarrow": lambda path: pq.read_table(path).to_pylist(),
        "cifar10": read_batch,
        "npy": lambda path: read_npy(path.read_bytes()),
        "labels file": lambda path: read_image_labels(str(path)),
        "classes file": lambda path: read_class_files([f"@{path}"]),
        "shard list": lambda path: inputs("webdataset", path, f"@{path}"),
        "meta.mat": read_meta,
        "cifar10_c labels": cifar10_c,
        "sweep": lambda path: read_sweep(path.parent),
    }


def cifar10_c(path: Path) -> None:
    """Read the labels of CIFAR-10-C in the folder that holds `path`."""
    from clarep_ray.config import BenchmarksConfig
    from clarep_ray.robustness.benchmarks.cifar import Cifar10C

    Cifar10C(BenchmarksConfig(cifar10_c=str(path.parent), partial=True))


def inputs(source: str, path: Path, data_path: str | None = None) -> None:
    """Freeze the folder that holds `path` and decode its rows, as planning and the decode stage do."""
    from clarep_ray.config import DataConfig
    from clarep_ray.data.manifest import freeze
    from clarep_ray.data.selection import select
    from clarep_ray.data.sources import open_source
    from clarep_ray.data.units import decode_unit

    config = DataConfig(source=source, path=data_path or str(path.parent))  # type: ignore[arg-type]
    opened = open_source(config, None)
    decode_unit(opened, freeze(opened, select(opened.rows(), config)), 8, config)


def weights() -> dict[str, Reader]:
    """Readers of folders with networks."""
    import warnings

    warnings.simplefilter("ignore")
    import logging

    import torch

    torch.set_num_threads(1)
    logging.disable(logging.ERROR)
    from clarep_ray import models
    from clarep_ray.config import ModelConfig
    from clarep_ray.models.students import load_student
    from clarep_ray.models.timm_folder import load_timm

    def family(name: str) -> Reader:
        return lambda path: models.build(ModelConfig(name=name, weights=str(path)))

    from clarep_ray.data.calibration_file import read_calibration
    from clarep_ray.models import dit_checkpoint, edm_convert, uvit
    from clarep_ray.models.stable_diffusion import read_prompts

    def prompts(path: Path) -> Any:
        return read_prompts(ModelConfig(name="stable_diffusion", weights="tiny", prompts=str(path)))

    files: dict[str, Reader] = {
        "convert dit": lambda path: dit_checkpoint.convert(path, path.with_name("out")),
        "convert uvit": lambda path: uvit.convert(path, path.with_name("out")),
        "convert edm": lambda path: edm_convert.convert(path, path.with_name("out")),
        "calibration": lambda path: read_calibration(str(path)),
        "prompts": prompts,
    }
    families = {name: family(name) for name in ("digits_dit", "class_unet", "uvit", "edm", "stable_diffusion")}
    return families | files | {"student": load_student, "timm": lambda path: load_timm(path, "classifier.weights")}


def everything() -> dict[str, Reader]:
    """All of them, in one process."""
    return pictures() | containers() | weights()
