"""A training from its inputs to `result.json`, on one worker of several or alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from clarep_ray import dotted
from clarep_ray.cadistill.diffusion_teacher import DiffusionTeacher
from clarep_ray.cadistill.evaluation import validate
from clarep_ray.cadistill.inputs import Opened, make_learner, open_inputs, open_teacher
from clarep_ray.cadistill.teachers import Teacher
from clarep_ray.cadistill.training import Distiller, train_steps
from clarep_ray.config import DistillConfig
from clarep_ray.data.durable import make_folder
from clarep_ray.data.inside import read_inside, read_record_inside, write_inside
from clarep_ray.data.plain_json import json_line, plain_json
from clarep_ray.data.untrusted import Fields, check_fields, parse_json_object
from clarep_ray.models.checkpoints import check_checkpoints, load_newest, save_checkpoint
from clarep_ray.models.students import save_student

RESULT, METRICS, CHECKPOINTS, LAST, BEST = "result.json", "metrics.jsonl", "checkpoints", "last", "best"

RESULT_FIELDS: Fields = {
    "fingerprint": str,
    "method": str,
    "seed": int,
    "steps": int,
    "epochs": int,
    "config": dict,
    **dict.fromkeys(("data_sha256", "val_sha256", "store_sha256"), (str, type(None))),
    **{f"{name}.val_accuracy": float for name in (LAST, BEST)},
    "loss": (float, type(None)),
}
METRIC_FIELDS: Fields = {"epoch": int, "val_accuracy": float}
"""What `result.json` and a line of `metrics.jsonl` say at least, and of which type."""
MAX_METRICS_BYTES = 64 * 2**20

Wrap = Callable[[nn.Module], nn.Module]
Report = Callable[[dict[str, Any]], None]


def read_result(output: Path) -> dict[str, Any]:
    """Return what a finished training wrote last; empty where there is none, ValueError where it is something else."""
    return read_record_inside(output, RESULT, RESULT_FIELDS)


def read_metrics(output: Path) -> list[dict[str, Any]]:
    """Return what each epoch of a training came to; none where there is none, ValueError where it is something else."""
    try:
        lines = read_inside(output, METRICS, MAX_METRICS_BYTES).splitlines()
    except FileNotFoundError:
        return []
    where = str(output / METRICS)
    return [check_fields(parse_json_object(line, where), METRIC_FIELDS, where) for line in lines]


def prepare(config: DistillConfig) -> tuple[Opened, str, dict[str, Any]]:
    """Return inputs, fingerprint and, where it has finished already, the result of a training.

    Raises ValueError where an input cannot be used, the teacher knows other classes, or the output folder holds a
    training with another config or other inputs.
    """
    opened = open_inputs(config)
    mark = opened.fingerprint(config)
    output = Path(config.output).absolute()
    check_checkpoints(output / CHECKPOINTS, mark)
    finished = read_result(output)
    if finished.get("fingerprint") == mark:
        return opened, mark, finished
    make_learner(config, opened, open_teacher(config, opened.classes))  # what cannot be built fails here
    return opened, mark, {}


def run_training(
    config: DistillConfig,
    opened: Opened,
    mark: str,
    *,
    wrap: Wrap = lambda learner: learner,
    report: Report = lambda record: None,
    rank: int = 0,
    world: int = 1,
) -> None:
    """Train, or continue training, and write students, metrics and, last, the result (rank 0).

    `wrap` puts the learner on its device and averages gradients over workers; `report` is called by every worker after
    each checkpoint.
    """
    output = Path(config.output)
    make_folder(output)
    trainer, forward, teacher = _start(config, opened, wrap)
    load_newest(trainer, output / CHECKPOINTS, mark)
    for step in train_steps(trainer, forward, opened, teacher, rank, world):
        ended = step % trainer.stages.per_epoch == 0
        record: dict[str, Any] = {"step": step}
        if ended:
            found = validate(trainer.learner.student, opened.val, rank, world, config.loader_threads)
            record = trainer.close_epoch(found)
        if ended or step % config.checkpoint_every == 0:
            if rank == 0:
                _keep(trainer, output, mark, ended)
            report(record)
    if rank == 0:
        write_result(trainer, opened, output, mark, teacher)


def _start(
    config: DistillConfig, opened: Opened, wrap: Wrap
) -> tuple[Distiller, nn.Module, Teacher | DiffusionTeacher | None]:
    teacher = open_teacher(config, opened.classes)
    learner = make_learner(config, opened, teacher)
    if config.channels_last:
        learner.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if config.compile:
        learner.compile()
    forward = wrap(learner)
    trainer = Distiller.start(learner, config, opened.inputs.steps_per_epoch(config.schedule.batch_size))
    if teacher is not None:
        teacher = teacher.to(trainer.device)
    return trainer, forward, teacher


def _keep(trainer: Distiller, output: Path, mark: str, ended: bool) -> None:
    """Write what an epoch came to, the best student, and a checkpoint, in this order: the last covers the others."""
    if ended:
        write_inside(output, METRICS, b"".join(map(json_line, trainer.history)))
        if trainer.best is trainer.history[-1]:
            save_student(trainer.learner.student, output / BEST)
    save_checkpoint(trainer, output / CHECKPOINTS, mark)


def write_result(
    trainer: Distiller, opened: Opened, output: Path, mark: str, teacher: Teacher | DiffusionTeacher | None = None
) -> dict[str, Any]:
    """Write the last student and, last, `result.json`; return what that says."""
    save_student(trainer.learner.student, output / LAST)
    last, best = trainer.history[-1], trainer.best
    assert best is not None, "a training has epochs"
    record: dict[str, Any] = {"fingerprint": mark, **opened.sha256, "method": trainer.config.method}
    record |= {"seed": trainer.config.seed, "steps": trainer.step, "epochs": len(trainer.history)}
    told = ("val_accuracy", "val_not_finite", "epoch")
    for name, found in ((LAST, last), (BEST, best)):
        record[name] = {"student": str(output / name), **{key: found[key] for key in told if key in found}}
    record["view"] = asdict(trainer.learner.student.view)
    taught = () if teacher is None or teacher.match is None else (f"teacher: {teacher.match.describe()}",)
    record |= {"labels": [*opened.labels, *taught]}
    record |= {"loss": last["loss"], "config": dotted.flatten(trainer.config)}
    write_inside(output, RESULT, plain_json(record))
    return record


def train_alone(config: DistillConfig, report: Report = lambda record: None) -> dict[str, Any]:
    """Train in this process, on the CPU or the first GPU, and return the result; as `prepare` and `run_training`."""
    opened, mark, finished = prepare(config)
    if finished:
        return finished
    device = "cuda" if config.use_gpu else "cpu"
    run_training(config, opened, mark, wrap=lambda learner: learner.to(device), report=report)
    return read_result(Path(config.output))
