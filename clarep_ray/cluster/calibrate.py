"""Calibrate a model on Ray Data: two-stage samples, feature map, window sweep, interaction; resumable."""

from __future__ import annotations

import json
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from clarep_ray import dotted, models
from clarep_ray.analysis.calibration import Draws, draw_classes
from clarep_ray.clarid.calibration import spread_times
from clarep_ray.clarid.schedule import path_to
from clarep_ray.cluster import runtime
from clarep_ray.cluster.calibrate_pieces import FEATURES, JUDGED, TWO_STAGE, CalibrateStage, CalibrationContext, Item
from clarep_ray.cluster.code_hash import code_sha256
from clarep_ray.cluster.extract import worker_counts
from clarep_ray.cluster.plan import Plan, check_output, check_settings, make_plan
from clarep_ray.config import CALIBRATION_PARTS, CalibrateConfig, SaturationConfig
from clarep_ray.data.durable import make_folder
from clarep_ray.data.inside import make_folders_inside
from clarep_ray.data.records import InputRow
from clarep_ray.data.store import WORK, OutputStore
from clarep_ray.models.adapter import Adapter
from clarep_ray.models.classifiers import absolute_classifiers, classifiers_sha256
from clarep_ray.models.judges import check_judges
from clarep_ray.seeding import numpy_generator

INSTEAD_OF = {
    "interaction.layers": "spectrum.layer",
    "interaction.times": "inversion.project_t",
    "feature_map.layers": "features.layer",
    "feature_map.times": "features.feature_t",
}
"""Setting of the values that are tried -> the extraction's own whose place they take."""
CALIBRATION_CODE = ("cluster.calibrate_pieces", "analysis.calibration")
"""What decides which pieces there are, and what follows from them."""


@dataclass(frozen=True)
class Session:
    """A checked calibration: frozen input, class draws, grid, and the context of its workers."""

    config: CalibrateConfig
    plan: Plan
    context: CalibrationContext
    draws: Draws
    rows: list[InputRow]
    """Inputs whose class is in a draw, under the first of their prompts."""
    grid: Tensor
    """The inversion's sampling grid."""
    sampling_grid: Tensor
    """The grid of two-stage sampling."""
    layers: tuple[str, ...]
    """Feature layers to try."""
    readings: tuple[str, ...]
    """How features can be read: with the label and, where there is an unconditional branch, without it."""
    class_names: tuple[str, ...]
    labels: tuple[str, ...]
    """How the labels of the data, and of each judge, became the model's; one line each."""


def open_session(config: CalibrateConfig, write: bool = True) -> Session:
    """Check everything, open the output and return the session; nothing expensive has been done yet.

    Unless `write`, nothing is written.

    Raises ValueError naming what is wrong, ResumeRefused where the output belongs to another run.
    """
    plan = make_plan(config.extract_config())
    config = _absolute_paths(config, plan)
    model = models.build(config.model)
    _check(model, config)
    draws = draw_classes(np.array([row.label for row in plan.rows]), config.draws, config.seed)
    wanted = {label for chosen in draws for label in chosen}
    sampled = set(_sampled_labels(config, len(model.classes)) if "saturation" in config.parts else ())
    judges = check_judges(config.classifiers, model.classes, wanted | sampled)
    plan = replace(plan, fields=plan.fields | _own_fields(config))
    store = OutputStore(Path(config.output))
    if not check_output(plan, store) and write:
        make_folder(store.root)
        make_folders_inside(store.root, WORK)
        store.write_run(plan.fields, dotted.flatten(config))
    return Session(
        config=config,
        plan=plan,
        context=CalibrationContext(
            config=dotted.flatten(config),
            output=config.output,
            image_size=plan.image_size,
            class_names=plan.class_names,
            run_id=uuid.uuid4().hex[:12],
        ),
        draws=draws,
        rows=[row for row in plan.rows if row.label in wanted and row.prompt == 0 and not row.reason],
        grid=model.schedule.times(config.inversion.num_steps),
        sampling_grid=model.schedule.times(config.saturation.num_steps),
        layers=config.feature_map.layers or model.feature_layers,
        readings=model.readings,
        class_names=model.classes.names,
        labels=(*plan.notes, *(f"judge {line}" for line in judges)),
    )


def _absolute_paths(config: CalibrateConfig, plan: Plan) -> CalibrateConfig:
    """Return the config with the plan's absolute paths, for workers have working folders of their own."""
    paths = {name: value for name, value in dotted.flatten(plan.config).items() if name.startswith(("data.", "model."))}
    judges = absolute_classifiers(config.classifiers)
    return dotted.override(config, paths | {"output": plan.config.output.path, "classifiers": judges})


def _own_fields(config: CalibrateConfig) -> dict[str, Any]:
    return dotted.fingerprint_fields(config) | {
        "classifiers_sha256": classifiers_sha256(config.classifiers),
        "calibration_code_sha256": code_sha256(CALIBRATION_CODE, ("cluster.calibrate", "cluster.calibrate_scores")),
    }


def _check(model: Adapter, config: CalibrateConfig) -> None:
    """Raise ValueError for whatever one of the parts could not do."""
    if "saturation" in config.parts and not _can_forget_the_class(model):
        others = " ".join(part for part in CALIBRATION_PARTS if part != "saturation")
        raise ValueError(
            f"parts: {config.model.name} has no unconditional branch, which `saturation` needs; valid: --parts "
            f"{others}, with inversion.project_t as given"
        )
    if model.prompts_per_class > 1:
        raise ValueError(
            f"model.prompts: {config.model.prompts!r} has {model.prompts_per_class} prompts for every class, of which "
            "a calibration would read the first alone; valid: one for every class"
        )
    check_judges(config.classifiers, model.classes, wanted=())
    extract = config.extract_config()
    widest = max((*config.window.windows, config.spectrum.num_directions))
    wider = "window.windows" if widest > config.spectrum.num_directions else "spectrum.num_directions"
    wide = {"spectrum.num_directions": widest, "spectrum.max_products": widest + 600}
    check_settings(model, dotted.override(extract, wide), {"spectrum.num_directions": wider})
    for name, field in INSTEAD_OF.items():
        for value in dotted.flatten(config)[name]:
            check_settings(model, dotted.override(extract, {field: value}), {field: name})
    _check_times(model, config.saturation)


def _check_times(model: Adapter, settings: SaturationConfig) -> None:
    try:
        grid = model.schedule.times(settings.num_steps)
        for t in settings.times:
            path_to(grid, t)
    except ValueError as error:
        raise ValueError(f"saturation.num_steps or saturation.times: {error}") from None


def _can_forget_the_class(model: Adapter) -> bool:
    try:
        model.null_cond(1)
    except ValueError:
        return False
    return True


def judged_items(session: Session) -> list[Item]:
    """Return the pieces of what the judges read in the originals; none where nothing is judged."""
    judged = session.config.classifiers and any(part != "features" for part in session.config.parts)
    return [{"group": JUDGED} | piece for piece in _image_pieces(session, session.rows)] if judged else []


def two_stage_items(session: Session, switches: Sequence[float]) -> list[Item]:
    """Return the pieces of two-stage sampling: micro-batches over classes and draws."""
    settings, size = session.config.saturation, session.config.engine.rows_per_call
    labels = _sampled_labels(session.config, len(session.class_names))
    # One of each class after the other, so that the first part shows many classes.
    jobs = [(int(label), f"{label}/{number}") for number in range(settings.images_per_class) for label in labels]
    return [
        {"group": TWO_STAGE, "number": number, "switches": list(switches)}
        | {"labels": [label for label, _ in chunk], "keys": [key for _, key in chunk]}
        for number, chunk in enumerate(_chunks(jobs, size))
    ]


def _sampled_labels(config: CalibrateConfig, num_classes: int) -> list[int]:
    """Return the classes of two-stage sampling, ascending."""
    labels, most = np.arange(num_classes), config.saturation.num_classes
    if most is not None and most < num_classes:
        generator = numpy_generator(config.seed, "saturation", "classes")
        labels = np.sort(generator.choice(labels, most, replace=False))
    return labels.tolist()


def feature_items(session: Session, times: Sequence[float]) -> list[Item]:
    """Return the pieces of the feature map: micro-batches of images, every layer and time at once."""
    work = {"group": FEATURES, "layers": list(session.layers), "times": list(times)}
    return [work | piece for piece in _image_pieces(session, session.rows)]


def cell_items(session: Session, group: str, cell: Mapping[str, Any]) -> list[Item]:
    """Return the pieces of one (Jacobian layer, t_e): micro-batches of images, every variant at once."""
    most, seen, rows = session.config.projected_per_class, Counter[int](), list[InputRow]()
    for row in session.rows:
        seen[row.label] += 1
        if most is None or seen[row.label] <= most:
            rows.append(row)
    return [{"group": group, "cell": dict(cell)} | piece for piece in _image_pieces(session, rows)]


def _image_pieces(session: Session, rows: Sequence[InputRow]) -> list[Item]:
    chunks = _chunks(rows, session.config.engine.rows_per_call)
    return [{"number": number, "rows": [asdict(row) for row in chunk]} for number, chunk in enumerate(chunks)]


def _chunks(rows: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (rows[start : start + size] for start in range(0, len(rows), size))


def feature_times(session: Session) -> tuple[float, ...]:
    """Return the timesteps of the feature map."""
    settings = session.config.feature_map
    return settings.times or spread_times(session.grid, settings.num_times)


def run_items(session: Session, items: Sequence[Item], say: Callable[[str], None]) -> None:
    """Do the pieces whose parts are not on disk yet; ValueError where no picture of a group can be read."""
    todo = [item for item in items if not session.context.parts.has(item["group"], item["number"])]
    if not todo:
        if items:
            say(f"all {len(items)} pieces are done; nothing left to do")
        return
    say(f"{len(items) - len(todo)} of {len(items)} pieces are done")
    workers = worker_counts(session.plan.config, runtime.connect(), len(todo))
    began = last = time.monotonic()
    for done, _ in enumerate(_stream(session.context, todo, workers), 1):
        if time.monotonic() - last >= 10 or done == len(todo):
            last = time.monotonic()
            left = (last - began) / done * (len(todo) - done)
            say(f"{done}/{len(todo)} pieces  {left:.0f} s left")
    for group in dict.fromkeys(item["group"] for item in items):
        session.context.parts.names(group)  # raises where there is none


def _stream(context: CalibrationContext, items: Sequence[Item], workers: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Stream pieces of work through the model actors and yield one report for each."""
    import ray

    runtime.quiet_ray_data()
    rows = [{"item": json.dumps(item)} for item in items]
    pieces = ray.data.from_items(rows, override_num_blocks=len(rows))
    reports = pieces.map_batches(
        CalibrateStage,
        fn_constructor_args=(context,),
        batch_size=1,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=workers["num_actors"], max_tasks_in_flight_per_actor=2),
        num_cpus=workers["cpus_per_actor"],
        num_gpus=workers["gpus_per_actor"],
    )
    yield from reports.iter_rows()
