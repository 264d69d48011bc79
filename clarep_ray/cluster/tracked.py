"""How the run of each job begins in MLflow: its name, its settings, its tags and what it reads."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clarep_ray import dotted, tracking
from clarep_ray.cluster.calibrate import Session as Calibration
from clarep_ray.cluster.evaluate import Session as Evaluation
from clarep_ray.cluster.extract import Extraction
from clarep_ray.config import DataConfig, DistillConfig, ExtractConfig, TrackingConfig, TrainCdmConfig

SHOWN = 4
"""Digits of the fingerprint in a run's name, behind what fits into MLflow's lists: two runs of one preset differ."""


def start_extraction(extraction: Extraction, title: str, parent: str | None = None) -> tracking.Run:
    """Open, or continue, the run of an extraction; `title` is the preset, and what sets it apart in a group."""
    plan, config = extraction.plan, extraction.plan.config
    tags = {"preset": title.partition(" ")[0], "model": config.model.name, "what": config.output.what}
    tags |= {"output": extraction.store.where}
    run = _start(config, f"extract {title}", extraction.store.desk, "extract", plan.fingerprint, tags, parent)
    _tell_data(run, config.data, plan.fields["input_sha256"], "extraction")
    return run


def start_controls(config: ExtractConfig, preset: str) -> tracking.Run:
    """Open, or continue, the run that a comparison of projection controls nests its extractions in."""
    mark = dotted.fingerprint(dotted.fingerprint_fields(config))
    tags = {"preset": preset, "model": config.model.name}
    return _start(config, f"controls {preset}", Path(config.output.path).absolute(), "controls", mark, tags)


def start_calibration(session: Calibration, preset: str) -> tracking.Run:
    """Open, or continue, the run of a calibration."""
    config, plan = session.config, session.plan
    tags = {"preset": preset, "model": config.model.name}
    run = _start(config, f"calibrate {preset}", Path(config.output), "calibrate", plan.fingerprint, tags)
    _tell_data(run, config.data, plan.fields["input_sha256"], "calibration")
    return run


def start_evaluation(session: Evaluation, preset: str) -> tracking.Run:
    """Open, or continue, the run of an evaluation."""
    config, names = session.config, session.names
    tags = {"preset": preset, "classifiers": ", ".join(names)}
    title = f"evaluate {' and '.join(names)}"
    run = _start(config, title, Path(config.output), "evaluate", session.fingerprint, tags)
    for name in session.benchmarks:
        where = str(getattr(config.benchmarks, name, None) or name)
        run.dataset(name, session.fields[f"input_sha256.{name}"], where, "evaluation")
    return run


def start_cdm(config: TrainCdmConfig, mark: str, data_sha256: str) -> tracking.Run:
    """Open, or continue, the run of a diffusion model's training."""
    title, tags = f"train_cdm {config.network}", {"model": config.network}
    run = _start(config, title, Path(config.output).absolute(), "train_cdm", mark, tags)
    _tell_data(run, config.data, data_sha256, "training")
    return run


def start_student(
    config: DistillConfig, mark: str, sha256: Mapping[str, str], parent: str | None = None, row: str | None = None
) -> tracking.Run:
    """Open, or continue, the run of a student's training; `sha256` names what it reads, as `Opened` does.

    `row` is what the training is called in a comparison; elsewhere it goes by its method.
    """
    title, tags = f"{row or config.method} seed {config.seed}", _student_tags(config)
    run = _start(config, title, Path(config.output).absolute(), "distill", mark, tags, parent)
    _tell_data(run, config.data, sha256["data_sha256"], "training")
    _tell_data(run, config.val, sha256["val_sha256"], "validation")
    if sha256["store_sha256"]:
        run.dataset("clareps", sha256["store_sha256"], config.clareps.path or "", "CLAReps")
    return run


def start_students(config: DistillConfig, job: str, seeds: Sequence[int]) -> tracking.Run:
    """Open, or continue, the run that trainings over several seeds are nested in; one training alone needs none."""
    if len(seeds) < 2:
        config = dataclasses.replace(config, tracking=dataclasses.replace(config.tracking, enabled=False))
    mark = dotted.fingerprint({**dotted.fingerprint_fields(config), "seed": list(seeds)})
    title = f"{config.method if job == 'distill' else job} {len(seeds)} seeds"
    root = Path(config.output).absolute()
    return _start(config, title, root, f"{job}_seeds", mark, _student_tags(config))


def _student_tags(config: DistillConfig) -> dict[str, str]:
    return {"method": config.method, "model": config.student.name}


def _start(
    config: Any,
    title: str,
    output: Path,
    job: str,
    fingerprint: str,
    tags: Mapping[str, str],
    parent: str | None = None,
) -> tracking.Run:
    settings: TrackingConfig = config.tracking
    name = f"{title} {fingerprint[:SHOWN]}"
    run = tracking.start_run(settings, name, output, job=job, fingerprint=fingerprint, parent=parent, tags=tags)
    run.params(dotted.flatten(config))
    return run


def _tell_data(run: tracking.Run, data: DataConfig, digest: str, context: str) -> None:
    run.dataset(data.source, digest, data.path or f"{data.source} of this package", context)
