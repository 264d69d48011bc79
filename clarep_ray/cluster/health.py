"""The health check of a job: on which images, where it runs, what is recorded of it, and when it stops the job."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from clarep_ray import models
from clarep_ray.clarid.schedule import path_of
from clarep_ray.cluster import runtime
from clarep_ray.cluster.workers import TASK_CPUS, gpus_per_actor
from clarep_ray.config import DistillConfig, HealthConfig, InversionConfig, ModelConfig
from clarep_ray.data.class_list import ClassList, match
from clarep_ray.data.derived import HEALTH, is_changed, record_derived, recorded
from clarep_ray.data.plain_json import plain_json, without_nan
from clarep_ray.data.records import RejectedImage, printable
from clarep_ray.data.sources import open_source
from clarep_ray.data.store import OutputStore, Store
from clarep_ray.data.units import decode_row
from clarep_ray.data.untrusted import MAX_JSON_BYTES, parse_json_object
from clarep_ray.models.health import OK, TOLERANCE, UNCHECKED, UNTRAINED, check_health, check_record

if TYPE_CHECKING:
    from clarep_ray.cadistill.inputs import Opened
    from clarep_ray.cluster.plan import Plan

SPARE = 4
"""So many images are opened for each one that is wanted, where images cannot be read."""

Images = tuple[NDArray[np.uint8], list[int], list[str]]
"""Images (n, h, w, 3), their labels and their keys: of as many classes as possible, then others of the same classes."""
Record = dict[str, Any]


def job_health(plan: Plan, store: Store, say: Callable[[str], None], alone: bool = False) -> Record | None:
    """Check the model of an extraction or a calibration once, record it in the output, say it, and return it.

    It runs where the actors will: on one of their GPUs, else here, as with `alone`. None where the check is off, or the
    output continues another one's spectra. Raises ValueError with `health.refuse` where something is wrong.
    """
    if not plan.config.health.enabled or plan.config.output.from_spectrum:
        return None
    gpus = 0.0 if alone else gpus_per_actor(plan.config, runtime.connect().get("GPU", 0.0))
    return _once(store, plan.config.health, plan.config.model, say, lambda: plan_health(plan, gpus))


def tell_plan(plan: Plan, say: Callable[[str], None] = print) -> None:
    """Check the model of a plan on this machine and say what was found; raises as `job_health` does."""
    if plan.config.health.enabled and not plan.config.output.from_spectrum:
        record = plan_health(plan)
        for line in health_lines(record):
            say(line)
        refuse(record, plan.config.health, plan.config.model)


def plan_health(plan: Plan, gpus: float = 0.0) -> Record:
    """Check the model of a plan on its images, on so many GPUs of the cluster, or here; writes and says nothing."""
    config = plan.config
    if config.data.source == "noise":
        return _unchecked("data.source is noise")
    images = _images_of(plan)
    return _ask(gpus, config.model, config.inversion, images, config.health, config.seed, config.engine.rows_per_call)


def teacher_health(config: DistillConfig, opened: Opened, say: Callable[[str], None]) -> Record | None:
    """Check the diffusion model that teaches, as `job_health` does; None where none does."""
    from clarep_ray.cadistill.inputs import OWN_READING, reads_diffusion

    if not (config.health.enabled and reads_diffusion(config)):
        return None
    if config.use_gpu:
        runtime.connect()

    def ask() -> Record:
        val = opened.val  # all of one size; training images may be whole ones
        images = _collected(val.labels.tolist(), val.keys, val.read, config.health.num_images)
        teacher, gpus = config.teacher, float(config.use_gpu)
        classes = None if config.method in OWN_READING else opened.classes
        return _ask(gpus, teacher.diffusion, teacher.num_times, images, config.health, config.seed, 8, classes)

    return _once(OutputStore(Path(config.output)), config.health, config.teacher.diffusion, say, ask)


def _once(
    store: Store,
    settings: HealthConfig,
    model: ModelConfig,
    say: Callable[[str], None],
    ask: Callable[[], Record],
) -> Record:
    record = read_health(store)
    if record is None:
        record = ask()
        put_health(store, record)
        if recorded(store) is not None:  # of a finished output, whose own one was damaged
            record_derived(store, [HEALTH])
    for line in health_lines(record):
        say(line)
    refuse(record, settings, model)
    return record


def put_health(store: Store, record: Record) -> None:
    """Write what the check found into the output of the job: it is done once."""
    store.put(HEALTH, plain_json(record))


def read_health(store: Store) -> Record | None:
    """Return what an earlier process recorded; None where there is nothing that can be read, or it was damaged."""
    if is_changed(store, HEALTH):
        return None
    try:
        where = f"{store.where}/{HEALTH}"
        return check_record(parse_json_object(store.read(HEALTH, MAX_JSON_BYTES), where), where)
    except (OSError, ValueError):
        return None


def refuse(record: Record, settings: HealthConfig, model: ModelConfig) -> None:
    """Raise ValueError where health.refuse is set and something is wrong; random weights may be what was asked for."""
    expected = record["verdict"] == UNTRAINED and model.weights == models.TINY
    if settings.refuse and not expected and record["verdict"] not in (OK, UNCHECKED):
        raise ValueError(f"health.refuse: {'; '.join(record['warnings'])}")


def health_lines(record: Record) -> list[str]:
    """Return what the check found as lines for people."""
    told = [f"health       {record['verdict']}"]
    if record.get("max_gain") is not None and "times" in record:
        labels = record["labels"]
        fits = (
            "no labels" if labels is None else f"{labels['first']} of {record['num_images']} fit their own label best"
        )
        told[0] += (
            f": {record['num_images']} images, {record['evaluations']} network evaluations, {record['seconds']:.1f} s; "
            f"the prediction could gain {record['max_gain']:.2g} at most (of a right model: {TOLERANCE:.2g}); "
            f"{fits}"
        )
    return [printable(line) for line in (*told, *(f"  warning    {text}" for text in record["warnings"]))]


def health_metrics(record: Record | None) -> dict[str, float]:
    """Return the check's numbers under names for tracking; none where there was no check."""
    if record is None:
        return {}
    labels = record.get("labels") or {}
    found = {
        "ok": float(record["verdict"] == OK),
        "warnings": float(len(record["warnings"])),
        "max_gain": record.get("max_gain"),
        "label_chance": labels.get("chance"),
        "label_advantage": labels.get("advantage"),
        "autoencoder_rms": (record.get("autoencoder") or {}).get("rms"),
        "evaluations": record.get("evaluations"),
        "seconds": record.get("seconds"),
    }
    return {f"health/{name}": float(value) for name, value in found.items() if value is not None}


def spread_rows(labels: Sequence[int]) -> Iterator[int]:
    """Yield rows: the first of classes far from each other, then of those between, then second ones."""
    rows: dict[int, list[int]] = defaultdict(list)
    for row, label in enumerate(labels):
        rows[label].append(row)
    # Halving steps: of a thousand classes the first eight are 0, 500, 250, 750, 125, ...
    classes = sorted(rows)
    order = [classes[place] for place in sorted(range(len(classes)), key=lambda place: _halved(place, len(classes)))]
    for number in range(max(map(len, rows.values()), default=0)):
        yield from (rows[label][number] for label in order if number < len(rows[label]))


def _halved(place: int, count: int) -> float:
    """Return a place's rank in van der Corput's order: its binary digits, mirrored."""
    bits = max(1, (count - 1).bit_length())
    return int(f"{place:0{bits}b}"[::-1], 2)


def _images_of(plan: Plan) -> Images:
    """Return images of the plan's input that can be read."""
    source = open_source(plan.config.data, None)
    rows = [row for row in plan.rows if row.prompt == 0 and not row.reason and row.label >= 0]

    def read(place: int) -> NDArray[np.uint8] | None:
        try:
            return decode_row(source, rows[place], plan.image_size, plan.config.data)
        except RejectedImage:
            return None

    labels, keys = [row.label for row in rows], [row.image_key for row in rows]
    return _collected(labels, keys, read, plan.config.health.num_images)


def _collected(
    labels: Sequence[int], keys: Sequence[str], read: Callable[[int], NDArray[np.uint8] | None], wanted: int
) -> Images:
    """Return as many images as wanted, of classes far from each other, and then one more of each of their classes."""
    images: dict[int, NDArray[np.uint8]] = {}

    def take(places: Iterator[int], most: int, tries: int) -> None:
        for place, _ in zip(places, range(tries), strict=False):
            image = read(place)
            if image is not None:
                images[place] = image
                most -= 1
            if most == 0:
                return

    take(spread_rows(labels), wanted, SPARE * wanted)
    left: dict[int, list[int]] = defaultdict(list)
    for place, label in enumerate(labels):
        if place not in images and len(left[label]) < SPARE:
            left[label].append(place)
    for label in [labels[place] for place in images]:
        spare = left.pop(label, [])
        take(iter(spare), 1, len(spare))
    stacked = np.stack([*images.values()]) if images else np.zeros((0, 1, 1, 3), np.uint8)
    return stacked, [int(labels[place]) for place in images], [keys[place] for place in images]


def _ask(
    gpus: float,
    model: ModelConfig,
    grid: InversionConfig | int,
    images: Images,
    settings: HealthConfig,
    seed: int,
    rows: int,
    classes: ClassList | None = None,
) -> Record:
    if not len(images[0]):
        return _unchecked("no image that was tried can be read")
    if not gpus:
        return _examine(model, grid, images, settings, seed, rows, classes)
    import ray

    task: Any = ray.remote(num_cpus=1.0 - TASK_CPUS, num_gpus=gpus, max_calls=1)(_examine)
    return ray.get(task.remote(model, grid, images, settings, seed, rows, classes))


def _examine(
    config: ModelConfig,
    grid: InversionConfig | int,
    images: Images,
    settings: HealthConfig,
    seed: int,
    rows: int,
    classes: ClassList | None = None,
) -> Record:
    """Build the model in this process and check it; the grid says which noisy time is the run's first.

    `classes` are what the images' labels stand for where these are not the model's own.
    """
    config = dataclasses.replace(config, compile=False)  # for so few calls that takes longer than it saves
    model = models.build(config).to("cuda" if torch.cuda.is_available() else "cpu")
    times = path_of(model.schedule, grid) if isinstance(grid, InversionConfig) else model.schedule.times(grid)
    pixels = torch.from_numpy(images[0])
    if pixels.shape[1] != model.image_size:  # a teacher reads other sizes as `DiffusionTeacher.latents` does
        side = (model.image_size, model.image_size)
        scaled = F.interpolate(pixels.permute(0, 3, 1, 2).float(), side, mode="bicubic", antialias=True)
        pixels = scaled.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as an actor's; small networks lose by more
    try:
        own = match(classes, model.classes, "data", "the teacher").labels if classes is not None else None
        labels = images[1] if own is None else [own[label] for label in images[1]]
        keys, first = images[2], min(settings.num_images, len(images[1]))
        others = [labels[:first].index(label) for label in labels[first:]]
        found = check_health(
            model,
            pixels[:first],
            labels[:first],
            keys[:first],
            seed=seed,
            num_times=settings.num_times,
            smallest=times[1].item(),
            rows=rows,
            others=(pixels[first:], keys[first:], others),
        )
    finally:
        torch.set_num_threads(threads)
    return without_nan(found)


def _unchecked(reason: str) -> Record:
    return {"verdict": UNCHECKED, "warnings": [], "reason": reason}
