"""A training of seconds: few digits of 16 pixels, and extractions written by hand."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from clarep_ray.cadistill.inputs import Opened, make_learner, open_inputs, open_teacher
from clarep_ray.cadistill.training import AnyTeacher, Distiller
from clarep_ray.config import DistillConfig
from clarep_ray.data.clarep_index import finish
from clarep_ray.data.manifest import write_manifest
from clarep_ray.data.pixels import encode_png
from clarep_ray.data.records import InputRow, safe_key
from clarep_ray.data.shards import npy_bytes, shard_bytes
from clarep_ray.data.spurious_digits import CLASS_NAMES, SpuriousDigits
from clarep_ray.data.store import OutputStore
from clarep_ray.dotted import override
from clarep_ray.models.students import Architecture, make_student, save_student

NUM_IMAGES, DIM = 48, 6
HALF = (0.5, 0.5, 0.5)
SMALL: dict[str, Any] = {
    "data.digits.count": NUM_IMAGES,
    "val.digits.count": 30,
    "schedule.batch_size": 12,
    "schedule.epochs": 2,
    "second_stage.epochs": 1,
    "augment.recipe": "crop_flip",
    "tracking.enabled": False,
    "teacher.num_times": 4,
    "teacher.diffusion.weights": "rho10",
}


def write_clareps(folder: Path, count: int = NUM_IMAGES, seed: int = 1) -> str:
    """Write an extraction of the training digits: pictures that are their own, random features."""
    store = OutputStore(folder)
    store.prepare()
    digits = SpuriousDigits(split="train", count=count, seed=seed)
    rows, samples = [], {}
    rng = np.random.default_rng(0)
    for number in range(count):
        picture, name = digits[number], f"train-{number:06d}"
        known = {"ordinal": number, "id": name, "key": safe_key(name), "source": "none", "offset": number, "size": 0}
        more = {"sha256": f"{number:064x}", "label": picture.label, "class_name": CLASS_NAMES[picture.label]}
        rows.append(InputRow(**known, **more))
        png, own, raw = encode_png(picture.image), *(npy_bytes(rng.normal(size=DIM).astype(np.float32)) for _ in "ab")
        members = {"png": png, "feature.npy": own, "original.png": png, "original.feature.npy": raw}
        samples[safe_key(name)] = {**members, "cls": str(picture.label).encode(), "json": b"{}"}
    manifest = write_manifest(rows, folder / "input.parquet", count)
    entries = [{"key": row.key, "status": "ok", "reason": None} for row in rows]
    store.commit(0, {"shards": shard_bytes(samples)}, {"rows": entries, "num_ok": count})
    finish(store, manifest, "train", {"fingerprint": "f" * 64})
    return str(folder)


def write_teacher(folder: Path) -> str:
    """Write a teacher with random weights."""
    save_student(
        make_student(Architecture(name="small_cnn", class_names=CLASS_NAMES, image_size=16, mean=HALF, std=HALF), 9),
        folder,
    )
    return str(folder)


SOURCES = {
    "class_token": "network",
    "at": "network",
    "kd": "network",
    "dkd": "network",
    "repfusion": "diffusion",
    "diffaug": "diffusion",
}


def small_config(files: Path, method: str = "vanilla", **changes: Any) -> DistillConfig:
    """Return a small training; `files` holds `clareps` and `teacher`."""
    paths = {"clareps.path": str(files / "clareps"), "teacher.features": str(files / "clareps")}
    paths |= {"teacher.network": str(files / "teacher"), "teacher.source": SOURCES.get(method, "features")}
    renamed = {name.replace("__", "."): value for name, value in changes.items()}
    return override(DistillConfig(), {**SMALL, **paths, "method": method, **renamed})


def start(config: DistillConfig) -> tuple[Distiller, Opened, AnyTeacher]:
    """Return a training before its first step, with what it reads."""
    opened = open_inputs(config)
    teacher = open_teacher(config, opened.classes)
    learner = make_learner(config, opened, teacher)
    return Distiller.start(learner, config, opened.inputs.steps_per_epoch(config.schedule.batch_size)), opened, teacher


def digest(trainer: Distiller) -> str:
    """Return a hash of the weights."""
    total = hashlib.sha256()
    for name, value in trainer.learner.state_dict().items():
        total.update(name.encode() + value.numpy().tobytes())
    return total.hexdigest()
