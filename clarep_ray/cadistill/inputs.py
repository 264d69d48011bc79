"""Everything a training reads, opened and checked before anything is started."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from clarep_ray import dotted
from clarep_ray.cadistill.augment import RECIPES
from clarep_ray.cadistill.batches import Inputs
from clarep_ray.cadistill.diffusion_teacher import DiffusionTeacher, RepFusionHead
from clarep_ray.cadistill.learner import AttentionHead, Head, Learner, ProjectionHead, RegressorHead
from clarep_ray.cadistill.losses import MIN_DEBIASED
from clarep_ray.cadistill.methods import MAP_SIDE, METHODS, OWN_READING
from clarep_ray.cadistill.teachers import Teacher, check_teacher, load_teacher, teacher_sha256
from clarep_ray.config import TEACHERS, DistillConfig
from clarep_ray.data.clarep_store import ClarepStore, open_clareps
from clarep_ray.data.class_list import ClassList, ClassMismatch, Match, match
from clarep_ray.data.manifest import names_sha256
from clarep_ray.data.picture_rows import Pictures, check_apart, open_pictures
from clarep_ray.data.records import shown
from clarep_ray.data.views import View
from clarep_ray.models import build, students, weights_sha256
from clarep_ray.models.adapter import Adapter


@dataclass(frozen=True)
class Opened:
    """Inputs of a training, pictures to measure accuracy on, and the sha256 of everything that is no setting."""

    inputs: Inputs
    val: Pictures
    sha256: dict[str, str]
    labels: tuple[str, ...]
    """How the labels of the validation pictures, and of CLAReps, became those of the training set; one line each."""

    @property
    def classes(self) -> ClassList:
        return self.inputs.images.classes

    def fingerprint(self, config: DistillConfig) -> str:
        """Return what a training that may be continued has in common: its settings and its inputs."""
        return dotted.fingerprint(dotted.fingerprint_fields(config) | self.sha256)


def open_inputs(config: DistillConfig) -> Opened:
    """Return everything a training reads.

    Raises ValueError where a picture, the CLAReps, stored features or the teacher cannot be used.
    """
    method = METHODS[config.method]
    students.check_name(config.student.name)
    teacher_hash = _check_teacher(config)
    images = open_pictures(config.data, training_view(config))
    val = open_pictures(config.val, architecture(config, images.classes).view, images.classes, "val")
    check_apart(images, val)
    store = _open_store(config, images.classes)
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
    found |= {"teacher_sha256": teacher_hash, "label_map_sha256": names_sha256(images.class_names)}
    matches = {"val": val.match, "CLAReps": store.match if store else None}
    lines = tuple(f"{name}: {each.describe()}" for name, each in matches.items() if each is not None)
    return Opened(inputs, val, found, lines)


def training_view(config: DistillConfig) -> View | None:
    """Return how training images are made before they are augmented; None where crops are taken from the whole.

    Raises ValueError where one stage would take crops from the whole image and the other not.
    """
    first, second = config.augment.recipe, config.second_stage.recipe or config.augment.recipe
    whole = RECIPES[first].smallest is not None
    if whole != (RECIPES[second].smallest is not None):
        valid = ", ".join(name for name, recipe in RECIPES.items() if whole == (recipe.smallest is not None))
        raise ValueError(f"second_stage.recipe: {second!r} is not valid after {first!r}; valid: {valid}")
    if whole:
        return None
    return View(image_size=config.augment.source_size, resize=config.augment.source_size)


def _open_store(config: DistillConfig, classes: ClassList) -> ClarepStore | None:
    """Return CLAReps, or stored features of the training images; None where a method uses neither."""
    if METHODS[config.method].clareps:
        wanted = config.clareps
        return open_clareps(
            wanted.path, pictures=wanted.pictures, class_names=classes, fraction=wanted.fraction, seed=wanted.seed
        )
    if config.method in TEACHERS and config.teacher.source == "features":
        return open_clareps(
            str(config.teacher.features), pictures=config.teacher.pictures, class_names=classes, allow_missing=True
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
    return weights_sha256(config.teacher.diffusion, "teacher.diffusion")


def open_teacher(config: DistillConfig, classes: ClassList) -> Teacher | DiffusionTeacher | None:
    """Return the teacher that is read during training, on the CPU; None where there is none.

    Its logits are, and labels that it is read with become, those of the training set's `classes`. Raises ValueError
    where it lacks one of them.
    """
    if config.method not in TEACHERS or config.teacher.source == "features":
        return None
    if config.teacher.source == "network":
        teacher = load_teacher(config.teacher.network)
        if config.method in ("kd", "dkd"):
            teacher.choose_logits(
                _match_all_of(classes, teacher.classes, f"teacher.network {config.teacher.network!r}")
            )
        return teacher
    model = build(config.teacher.diffusion, "teacher.diffusion")
    if config.method in OWN_READING:
        _check_reads_without_labels(config, model)
        return DiffusionTeacher(model, config.teacher)
    if "label" not in model.readings:
        raise ValueError(f"teacher.diffusion: it has no classes, and {config.method} reads it with labels")
    if model.prompts_per_class > 1:
        raise ValueError(
            f"teacher.diffusion.prompts: {model.prompts_per_class} prompts for each class, and an image is read with "
            "one; valid: one prompt for each"
        )
    return DiffusionTeacher(model, config.teacher, _match_all_of(classes, model.classes, "teacher.diffusion"))


def _check_reads_without_labels(config: DistillConfig, model: Adapter) -> None:
    """Raise ValueError for a model that must be told a class, or for prompts, which would not be read."""
    given = config.teacher.diffusion
    if given.prompts is not None:
        raise ValueError(f"teacher.diffusion.prompts: {given.prompts!r} is not read by {config.method}; valid: None")
    try:
        model.null_cond(1)
    except ValueError:
        raise ValueError(
            f"teacher.diffusion: {given.name} {given.weights!r} must be told a class, and {config.method} reads "
            "without one (it would give the answer away); valid: a model without classes or with a null branch"
        ) from None


def _match_all_of(classes: ClassList, known: ClassList, teacher: str) -> Match:
    """Return which label of a teacher's each of a training set's is; ClassMismatch where it lacks one."""
    found = match(classes, known, "data", teacher)
    if found.missing:
        raise ClassMismatch(
            f"{teacher} lacks {len(found.missing)} classes of the data, first: {shown(found.missing[0])!r}; it has "
            f"{known}; data: {classes}"
        )
    return found


def make_learner(config: DistillConfig, opened: Opened, teacher: Teacher | DiffusionTeacher | None) -> Learner:
    """Return the student with the method's head; initial weights follow from the seed, whatever the method."""
    student = students.make_student(architecture(config, opened.classes), config.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed + 1)
        head = HEADS[METHODS[config.method].head](student, opened, teacher)
    return Learner(student, head)


def architecture(config: DistillConfig, classes: ClassList) -> students.Architecture:
    """Return the student's architecture."""
    return students.Architecture(class_names=classes.names, named=classes.named, **dotted.flatten(config.student))


def _teacher_width(opened: Opened, teacher: Teacher | DiffusionTeacher | None) -> int:
    if isinstance(teacher, DiffusionTeacher):
        return teacher.width(labelled=True)
    if isinstance(teacher, Teacher):
        return teacher.num_features
    assert opened.inputs.store is not None, "a method with a regressor has a teacher"
    return opened.inputs.store.feature_dim


def _repfusion_head(
    student: students.Student, opened: Opened, teacher: Teacher | DiffusionTeacher | None
) -> RepFusionHead:
    assert isinstance(teacher, DiffusionTeacher), "the config asks for one"
    return RepFusionHead(teacher, student.num_features, len(opened.classes))


HEADS: dict[str, Callable[[students.Student, Opened, Teacher | DiffusionTeacher | None], Head]] = {
    "none": lambda student, opened, teacher: Head(),
    "attention": lambda student, opened, teacher: AttentionHead(student.spatial, MAP_SIDE),
    "projection": lambda student, opened, teacher: ProjectionHead(student.num_features),
    "regressor": lambda student, opened, teacher: RegressorHead(student.num_features, _teacher_width(opened, teacher)),
    "repfusion": _repfusion_head,
}
