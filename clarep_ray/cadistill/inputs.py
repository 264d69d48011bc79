"""Everything a training reads, opened and checked before anything is started."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from clarep_ray import dotted
from clarep_ray.cadistill import students
from clarep_ray.cadistill.batches import Inputs
from clarep_ray.cadistill.diffusion_teacher import DiffusionTeacher, RepFusionHead
from clarep_ray.cadistill.learner import AttentionHead, Head, Learner, ProjectionHead, RegressorHead
from clarep_ray.cadistill.losses import MIN_DEBIASED
from clarep_ray.cadistill.methods import MAP_SIDE, METHODS
from clarep_ray.cadistill.teachers import Teacher, check_teacher, load_teacher, teacher_sha256
from clarep_ray.config import TEACHERS, DistillConfig
from clarep_ray.data.clarep_store import ClarepStore, open_clareps
from clarep_ray.data.picture_rows import Pictures, open_pictures
from clarep_ray.models import build, weights_sha256


@dataclass(frozen=True)
class Opened:
    """Inputs of a training, pictures to measure accuracy on, and the sha256 of everything that is no setting."""

    inputs: Inputs
    val: Pictures
    sha256: dict[str, str]

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.inputs.images.class_names

    def fingerprint(self, config: DistillConfig) -> str:
        """Return what a training that may be continued has in common: its settings and its inputs."""
        return dotted.fingerprint(dotted.fingerprint_fields(config) | self.sha256)


def open_inputs(config: DistillConfig) -> Opened:
    """Return everything a training reads.

    Raises ValueError where a picture, the CLAReps, stored features or the teacher cannot be used.
    """
    method = METHODS[config.method]
    students.check_name(config.student.name)
    size = config.augment.source_size
    teacher_hash = _check_teacher(config)
    images = open_pictures(config.data, size)
    val = open_pictures(config.val, size, images.class_names, "val")
    store = _open_store(config, images.class_names)
    inputs = Inputs(
        images,
        store,
        pairing=config.clareps.pairing if method.clareps else "same_image",
        with_canonical=method.clareps,
        views=method.views,
    )
    inputs.steps_per_epoch(config.schedule.batch_size)
    if store is not None and inputs.pairing != "random":
        store.own_rows(images.labels, images.keys)  # names the first image that has none
    if config.loss.cka == "debiased" and config.schedule.batch_size < MIN_DEBIASED:
        raise ValueError(f"schedule.batch_size: {config.schedule.batch_size} is below {MIN_DEBIASED} (debiased CKA)")
    found = {"data_sha256": images.sha256, "val_sha256": val.sha256, "store_sha256": store.sha256 if store else ""}
    return Opened(inputs, val, found | {"teacher_sha256": teacher_hash})


def _open_store(config: DistillConfig, class_names: tuple[str, ...]) -> ClarepStore | None:
    """Return CLAReps, or stored features of the training images; None where a method uses neither."""
    if METHODS[config.method].clareps:
        wanted = config.clareps
        return open_clareps(
            wanted.path, pictures=wanted.pictures, class_names=class_names, fraction=wanted.fraction, seed=wanted.seed
        )
    if config.method in TEACHERS and config.teacher.source == "features":
        return open_clareps(
            str(config.teacher.features), pictures=config.teacher.pictures, class_names=class_names, allow_missing=True
        )
    return None


def reads_diffusion(config: DistillConfig) -> bool:
    """Whether the training reads a diffusion model."""
    return config.method in TEACHERS and config.teacher.source == "diffusion"


def _check_teacher(config: DistillConfig) -> str:
    """Return the sha256 of a teacher that is read during training; empty for others."""
    if config.method not in TEACHERS or config.teacher.source == "features":
        return ""
    if config.teacher.source == "network":
        check_teacher(config.teacher.network)
        return teacher_sha256(config.teacher.network)
    return weights_sha256(config.teacher.diffusion)


def open_teacher(config: DistillConfig, class_names: tuple[str, ...]) -> Teacher | DiffusionTeacher | None:
    """Return the teacher that is read during training, on the CPU; None where there is none.

    Raises ValueError where it knows other classes.
    """
    if config.method not in TEACHERS or config.teacher.source == "features":
        return None
    if config.teacher.source == "network":
        teacher = load_teacher(config.teacher.network)
        if config.method in ("kd", "dkd") and teacher.num_classes != len(class_names):
            raise ValueError(
                f"teacher.network: it knows {teacher.num_classes} classes; the data has {len(class_names)}"
            )
        return teacher
    model = build(config.teacher.diffusion)
    if model.class_names and tuple(model.class_names) != class_names:
        raise ValueError(f"teacher.diffusion: it knows the classes {', '.join(model.class_names[:3])}, ...")
    if config.method in ("repfusion", "diffaug"):
        model.null_cond(1)  # raises where there is no unconditional branch
    return DiffusionTeacher(model, config.teacher)


def make_learner(config: DistillConfig, opened: Opened, teacher: Teacher | DiffusionTeacher | None) -> Learner:
    """Return the student with the method's head; initial weights follow from the seed, whatever the method."""
    student = students.make_student(architecture(config, opened.class_names), config.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed + 1)
        head = HEADS[METHODS[config.method].head](student, opened, teacher)
    return Learner(student, head)


def architecture(config: DistillConfig, class_names: tuple[str, ...]) -> students.Architecture:
    """Return the student's architecture."""
    return students.Architecture(class_names=class_names, **dotted.flatten(config.student))


def _teacher_width(opened: Opened, teacher: Teacher | DiffusionTeacher | None) -> int:
    if isinstance(teacher, DiffusionTeacher):
        return teacher.width
    if isinstance(teacher, Teacher):
        return teacher.num_features
    assert opened.inputs.store is not None, "a method with a regressor has a teacher"
    return opened.inputs.store.feature_dim


def _repfusion_head(
    student: students.Student, opened: Opened, teacher: Teacher | DiffusionTeacher | None
) -> RepFusionHead:
    assert isinstance(teacher, DiffusionTeacher), "the config asks for one"
    return RepFusionHead(teacher, student.num_features, len(opened.class_names))


HEADS: dict[str, Callable[[students.Student, Opened, Teacher | DiffusionTeacher | None], Head]] = {
    "none": lambda student, opened, teacher: Head(),
    "attention": lambda student, opened, teacher: AttentionHead(student.spatial, MAP_SIDE),
    "projection": lambda student, opened, teacher: ProjectionHead(student.num_features),
    "regressor": lambda student, opened, teacher: RegressorHead(student.num_features, _teacher_width(opened, teacher)),
    "repfusion": _repfusion_head,
}
