"""Evaluate robustness on Ray Data: one or two classifiers, trust checks, benchmarks and attacks; resumable."""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import nn

from clarep_ray import dotted
from clarep_ray.cluster import runtime
from clarep_ray.cluster.evaluate_units import (
    CLEAN,
    TRUST,
    EvaluateStage,
    EvaluationContext,
    Unit,
    read_stage,
    view_of,
)
from clarep_ray.cluster.extract import PROGRESS_EVERY_S, TASK_CPUS, worker_counts
from clarep_ray.cluster.identity import check_same_run, environment_fields
from clarep_ray.config import EvaluateConfig
from clarep_ray.data.durable import make_folder
from clarep_ray.data.inside import make_folders_inside
from clarep_ray.data.records import RejectedImage
from clarep_ray.data.store import WORK, OutputStore
from clarep_ray.data.views import View
from clarep_ray.models.classifiers import SHIPPED, classifiers_sha256, load_classifier
from clarep_ray.robustness.attack import Attack, SampleAttack
from clarep_ray.robustness.attacks import build_attack
from clarep_ray.robustness.benchmarks import Benchmark, Row, open_benchmark
from clarep_ray.robustness.ensemble import Ensemble
from clarep_ray.robustness.evaluate import clean_columns, require_attackable
from clarep_ray.robustness.reading import FIELD, as_benchmark, match_classifier, protocol
from clarep_ray.robustness.torchattacks_as_published import require_torchattacks
from clarep_ray.tracking import in_submitted_job

PACKAGES = ("torch", "numpy", "pillow", "scipy", "scikit-learn", "safetensors", "timm")
"""Libraries whose version can change a verdict."""
CODE = ("cluster.evaluate_units",)
"""Our own modules of which the same is true, by what they do or import."""
PATHS = ("image_folder", "cifar10", "cifar10_c", "imagenet", "imagenet_c", "imagenet_a", "imagenet_real", "backgrounds")
TRIED_ROWS = 16


@dataclass(frozen=True)
class Session:
    """A checked evaluation: the classifiers' names, opened benchmarks, sizes of their slices, the workers' context."""

    config: EvaluateConfig
    fields: dict[str, Any]
    names: tuple[str, ...]
    """What the classifiers are called in tables."""
    benchmarks: dict[str, Benchmark]
    sizes: dict[tuple[str, str], int]
    """Pictures of (benchmark, slice)."""
    labels: dict[str, dict[str, str]]
    """{classifier: {benchmark: how its labels became the benchmark's, and which logits compete}}."""
    views: dict[str, View]
    """How each classifier sees images, by its name."""
    stored: dict[str, int]
    """Shorter side of an image of each benchmark that is published at its final size [pixels]."""
    context: EvaluationContext

    @property
    def fingerprint(self) -> str:
        return dotted.fingerprint(self.fields)


def open_session(config: EvaluateConfig, write: bool = True) -> Session:
    """Check classifiers, benchmarks and attacks, open the output and return the session.

    Unless `write`, nothing is written.

    Raises ValueError naming what is wrong, ResumeRefused where the output belongs to another run.
    """
    if in_submitted_job() and not Path(config.output).is_absolute():
        raise ValueError(
            f"output: {config.output!r} is relative, and a submitted job runs in a temporary copy of the working "
            "folder; valid: an absolute path that every node sees"
        )
    if (there := runtime.resources_here()) is not None:
        worker_counts(config, there, num_units=1)
    packages = PACKAGES
    if config.attacks.implementation == "torchattacks":
        require_torchattacks()
        packages = (*PACKAGES, "torchattacks")
    config = _absolute_paths(config)
    weights = config.classifier.all_weights
    hashes = [classifiers_sha256([name], FIELD) for name in weights]
    if len(set(hashes)) < len(hashes):
        raise ValueError(f"classifier.compared: {weights[1]!r} is the classifier itself; valid: another one")
    benchmarks = {name: open_benchmark(name, config.benchmarks) for name in config.benchmarks.names}
    rows = {name: _frozen(benchmark, name in config.attacked) for name, benchmark in benchmarks.items()}
    views, stored, labels = _check(config, benchmarks)
    fields = dotted.fingerprint_fields(config) | environment_fields(packages, CODE)
    fields |= dict(zip(("classifier_sha256", "compared_sha256"), hashes, strict=False))
    fields |= {f"input_sha256.{name}": digest for name, (digest, _) in rows.items()}
    fields |= {name: view.text for name, view in zip(("classifier_view", "compared_view"), views, strict=False)}
    store = OutputStore(Path(config.output))
    if not check_same_run(fields, store, "output") and write:
        make_folder(store.root)
        make_folders_inside(store.root, WORK)
        store.write_run(fields, dotted.flatten(config))
    names = _names(weights)
    return Session(
        config=config,
        fields=fields,
        names=names,
        benchmarks=benchmarks,
        sizes={(name, part): size for name, (_, sizes) in rows.items() for part, size in sizes.items()},
        labels=dict(zip(names, labels, strict=True)),
        views=dict(zip(names, views, strict=True)),
        stored=stored,
        context=EvaluationContext(dotted.flatten(config), config.output, uuid.uuid4().hex[:12], views),
    )


def _absolute_paths(config: EvaluateConfig) -> EvaluateConfig:
    """Return the config with absolute paths, for workers have working folders of their own."""
    flat = dotted.flatten(config)
    names = ("output", "classifier.weights", "classifier.compared", *(f"benchmarks.{name}" for name in PATHS))
    paths = {name: flat[name] for name in names if flat[name] and flat[name] != SHIPPED}
    return dotted.override(config, {name: str(Path(path).absolute()) for name, path in paths.items()})


def _names(weights: Sequence[str]) -> tuple[str, ...]:
    """Return the last folders of the weights' paths, as many as tell them apart."""
    depth = 1
    while len({Path(name).parts[-depth:] for name in weights}) < len(weights):
        depth += 1
    return tuple("/".join(Path(name).parts[-depth:]) for name in weights)


def _frozen(benchmark: Benchmark, attacked: bool) -> tuple[str, dict[str, int]]:
    """Return one sha256 over keys and labels of all pictures, and how many each slice has; nothing is decoded."""
    total, sizes = hashlib.sha256(), dict[str, int]()
    for part in benchmark.slices():
        rows = benchmark.rows(part)
        if attacked:
            require_attackable(benchmark, rows)
        if not rows:
            raise ValueError(
                f"benchmarks.names: {benchmark.name} has no image in its slice {part!r}; valid: one or more"
            )
        sizes[part] = len(rows)
        for row in rows:
            total.update(f"{part}\0{row.key}\0{row.labels}\n".encode())
    return total.hexdigest(), sizes


def _check(
    config: EvaluateConfig, benchmarks: Mapping[str, Benchmark]
) -> tuple[tuple[View, ...], dict[str, int], list[dict[str, str]]]:
    """Return what an evaluation must know of classifiers and benchmarks before anything is read.

    These are how each classifier sees images, the side of images of benchmarks that are stored at their final size, and
    for each classifier how its labels became each benchmark's. Raises ValueError for a classifier that cannot read a
    benchmark, or an attack that its classes do not allow.
    """
    weights = config.classifier.all_weights
    matches = [{name: match_classifier(each, benchmark) for name, benchmark in benchmarks.items()} for each in weights]
    models = [load_classifier(each) for each in weights]
    try:
        views = tuple(view_of(model, config.benchmarks) for model in models)
    except ValueError as error:
        raise ValueError(f"benchmarks.{error}") from None
    stored = dict[str, int]()
    for name, benchmark in benchmarks.items():
        opened = _readable(benchmark, views)
        if benchmark.stored_at_final_size:
            stored[name] = min(opened[0][1].size)
        for which, model, view, found in zip(weights, models, views, matches, strict=True):
            _check_reads(which, as_benchmark(model, found[name]), benchmark, view, opened)
    for name in config.attacks.names:
        for target in config.attacked:
            _check_attack(build_attack(name, config.attacks), benchmarks[target])
    return views, stored, [{name: protocol(each) for name, each in found.items()} for found in matches]


def _check_reads(
    weights: str, model: nn.Module, benchmark: Benchmark, view: View, opened: Sequence[tuple[Row, Image.Image]]
) -> None:
    """Raise ValueError for a classifier that cannot read a benchmark, or answers none of a few of its images."""
    for row, image in opened:
        pixels = view.of(image, benchmark.stored_at_final_size)
        try:
            columns = clean_columns(model, benchmark, [row], np.stack([pixels]))
        except (AssertionError, RuntimeError, ValueError) as error:
            raise ValueError(
                f"classifier.weights: {weights!r} cannot read the images {pixels.shape} of {benchmark.name}: {error}"
            ) from None
        if not columns["non_finite"].any():
            return
    raise ValueError(no_answers(weights, benchmark.name, len(opened)))


def no_answers(weights: str, benchmark: str, images: int) -> str:
    """Say that a classifier answers nothing."""
    return (
        f"classifier.weights: {weights!r} answers none of {images} images of {benchmark}: all have a logit that is not "
        "finite (NaN or infinite); valid: weights without such numbers"
    )


def _readable(benchmark: Benchmark, views: Sequence[View]) -> list[tuple[Row, Image.Image]]:
    """Return a few of the first images of the first slice that every classifier can be given, as they are stored."""
    part, found = benchmark.slices()[0], list[tuple[Row, Image.Image]]()
    for row in benchmark.rows(part)[:TRIED_ROWS]:
        try:
            opened = benchmark.open(row)
            for view in views:
                view.of(opened, benchmark.stored_at_final_size)
        except RejectedImage:
            continue
        found.append((row, opened))
    if not found:
        raise ValueError(f"{benchmark.name}: not one of the first {TRIED_ROWS} images of {part!r} can be read")
    return found


def _check_attack(attack: Attack, benchmark: Benchmark) -> None:
    members = attack.members if isinstance(attack, Ensemble) else (attack,)
    for member in members:
        least = member.min_classes() if isinstance(member, SampleAttack) else 2
        if benchmark.num_classes < least:
            raise ValueError(
                f"attacks.names: {member.name} needs {least} classes or more; {benchmark.name} has "
                f"{benchmark.num_classes}"
            )


def trust_units(session: Session) -> list[Unit]:
    """Return a unit of trust checks for each classifier, on the first benchmark that is attacked."""
    config = session.config
    if not config.trust.enabled or not config.attacked:
        return []
    benchmark, count = config.attacked[0], config.trust.num_samples
    part = session.benchmarks[benchmark].slices()[0]
    chunk: dict[str, Any] = {"seed": 0, "count": count, "start": 0, "stop": min(count, session.sizes[benchmark, part])}
    roles = range(len(session.names))
    return [Unit(role=role, benchmark=benchmark, part=part, attack=TRUST, **chunk) for role in roles]


def verdict_units(session: Session) -> list[Unit]:
    """Return the units of answers and attacks; those of a slice come one after another."""
    units: list[Unit] = []
    for (benchmark, part), size in session.sizes.items():
        for attack, seed, count in _treatments(session.config, benchmark):
            total = min(size, count or size)
            for start in range(0, total, session.config.engine.unit_size):
                stop = min(start + session.config.engine.unit_size, total)
                shared: dict[str, Any] = {"seed": seed, "count": count, "start": start, "stop": stop}
                units += [
                    Unit(role=role, benchmark=benchmark, part=part, attack=attack, **shared)
                    for role in range(len(session.names))
                ]
    return units


def _treatments(config: EvaluateConfig, benchmark: str) -> Iterator[tuple[str, int, int | None]]:
    """Yield attack, seed and number of pictures of everything that is done with a benchmark."""
    yield CLEAN, 0, None
    if benchmark in config.attacked:
        for attack in config.attacks.names:
            for seed in config.attacks.seeds:
                yield attack, seed, config.attacks.count_of(attack)


def run_units(session: Session, units: Sequence[Unit], say: Callable[[str], None]) -> dict[str, float]:
    """Do the units whose files are not on disk yet; return pictures and seconds."""
    for name, benchmark in session.benchmarks.items():
        for note in benchmark.notes():
            say(f"{name}: {note}")
    done = session.context.parts.names()
    todo = [unit for unit in units if unit.name not in done]
    if not todo:
        if units:
            say(f"all {len(units)} units are done; nothing left to do")
        return {"pictures": 0.0, "wall_s": 0.0}
    say(f"{len(units) - len(todo)} of {len(units)} units are done")
    workers = worker_counts(session.config, runtime.connect(), len(todo))
    began = last = time.monotonic()
    pictures, total = 0, sum(unit.stop - unit.start for unit in todo)
    for number, report in enumerate(_stream(session.context, todo, workers), 1):
        pictures += report["count"]
        if time.monotonic() - last >= PROGRESS_EVERY_S or number == len(todo):
            last = time.monotonic()
            rate = pictures / max(last - began, 1e-9)
            say(f"{number}/{len(todo)} units  {rate:.1f} pictures/s  {(total - pictures) / rate:.0f} s left")
    return {"pictures": float(pictures), "wall_s": time.monotonic() - began}


def _stream(context: EvaluationContext, units: Sequence[Unit], workers: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Stream units through readers and model actors and yield one report for each."""
    import ray

    runtime.quiet_ray_data()
    actors = workers["num_actors"]
    rows = [{"unit": json.dumps(asdict(unit))} for unit in units]
    # One row and one block per unit, as in an extraction: a unit is what is read, attacked and written as a whole.
    read = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        partial(read_stage, context=context),
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=TASK_CPUS,
        compute=ray.data.TaskPoolStrategy(size=min(2 * actors, len(rows))),
    )
    reports = read.map_batches(
        EvaluateStage,
        fn_constructor_args=(context,),
        batch_size=1,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(
            size=actors, max_tasks_in_flight_per_actor=context.evaluate_config.engine.units_in_flight
        ),
        num_cpus=workers["cpus_per_actor"],
        num_gpus=workers["gpus_per_actor"],
    )
    yield from reports.iter_rows()
