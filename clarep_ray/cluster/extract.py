"""Run an extraction on Ray Data: resumable, every unit committed exactly once."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from clarep_ray import dotted
from clarep_ray.cluster import runtime
from clarep_ray.cluster.batch_choice import Choose, batch_here, batch_on_cluster
from clarep_ray.cluster.cost import bytes_per_sample, check_space
from clarep_ray.cluster.health import job_health, read_health
from clarep_ray.cluster.plan import Plan, check_output, make_plan
from clarep_ray.cluster.stages import ExtractStage, RunContext, commit_stage, decode_stage, units_here
from clarep_ray.cluster.workers import TASK_CPUS, worker_counts
from clarep_ray.config import ExtractConfig
from clarep_ray.data.clarep_index import finish
from clarep_ray.data.manifest import MANIFEST, STAMPS, InputManifest, write_manifest, write_stamps
from clarep_ray.data.owner import owned
from clarep_ray.data.store import Store, open_store
from clarep_ray.data.verify import Damage, withdraw
from clarep_ray.errors import PoisonedInput
from clarep_ray.tracking import Run

PROGRESS_EVERY_S, TRACKED_EVERY_S = 5.0, 60.0
"""How often progress is said, and how often it is told to MLflow."""


@dataclass
class Progress:
    """Counts of a running extraction, and the line that reports them."""

    total: int
    earlier: int = 0
    """Images of units that earlier processes did."""
    began: float = field(default_factory=time.monotonic)
    rows: int = 0
    ok: int = 0
    units: int = 0
    removed: list[int] = field(default_factory=list)
    poison: list[str] = field(default_factory=list[str])
    """Samples that kill or hang their process, and how."""
    stages: dict[str, float] = field(default_factory=lambda: {"decode_s": 0.0, "extract_s": 0.0, "commit_s": 0.0})

    def add(self, report: dict[str, Any]) -> None:
        self.rows += report["num_rows"]
        self.ok += report["num_ok"]
        self.units += 1
        self.removed.extend(report["num_removed"])
        self.poison.extend(report["poison"])
        for name in self.stages:
            self.stages[name] += report[name]

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.began

    def metrics(self) -> dict[str, float]:
        """Return what MLflow is told on the way, at the number of images done as its step."""
        found = {"progress/images_per_s": self.rows / max(self.elapsed, 1e-9)}
        found["progress/rejected_here"] = float(self.rows - self.ok)
        return found | ({"progress/median_num_removed": float(np.median(self.removed))} if self.removed else {})

    def line(self) -> str:
        rate = self.rows / max(self.elapsed, 1e-9)
        left = (self.total - self.rows) / max(rate, 1e-9)
        median = f"{np.median(self.removed):.0f}" if self.removed else "-"
        return (
            f"{self.rows}/{self.total} images  {rate:.2f}/s  {left:.0f} s left  "
            f"median k {median}  {self.rows - self.ok} rejected"
        )


@dataclass(frozen=True)
class Extraction:
    """A checked extraction whose output is open; nothing expensive has been done yet."""

    plan: Plan
    store: Store
    manifest: InputManifest


@contextmanager
def open_extraction(
    config: ExtractConfig,
    say: Callable[[str], None] = print,
    damages: Sequence[Damage] = (),
    choose: Choose | None = None,
) -> Generator[Extraction]:
    """Check everything, open the output, own it inside and yield the extraction.

    A network batch that the config leaves open is chosen by `choose`, or where the actors will run.

    Units that `damages` names are taken out, once it is sure that they can be computed again. Raises ValueError for a
    wrong config or input, ResumeRefused where the output belongs to another run, OutputInUse where another process
    works on it, StorageFault where object storage does not take it.
    """
    output = open_store(config.output.path)
    output.check()
    with owned(output, config.engine.take_over, say):
        plan = make_plan(config, choose or partial(batch_on_cluster, say=say))
        store = open_store(plan.config.output.path)
        manifest = _open_output(store, plan)
        withdraw(store, damages)
        yield Extraction(plan, store, manifest)


def run_extraction(
    config: ExtractConfig,
    say: Callable[[str], None] = print,
    damages: Sequence[Damage] = (),
    alone: bool = False,
) -> dict[str, Any]:
    """Extract, or continue an interrupted extraction, and return its summary; raises as `open_extraction` does."""
    with open_extraction(config, say, damages, batch_here if alone else None) as extraction:
        return extract(extraction, say, alone=alone)


def extract(
    extraction: Extraction, say: Callable[[str], None] = print, run: Run | None = None, alone: bool = False
) -> dict[str, Any]:
    """Do the units that are not done yet and return the summary; `run` is told the progress.

    `alone` does the units one after the other in this process, a Ray worker.
    """
    plan, store, manifest = extraction.plan, extraction.store, extraction.manifest
    config = plan.config
    done = {unit for unit, _ in store.each_committed(to_the_byte=False)}  # `finish` compares the bytes
    todo = tuple(unit for unit in range(manifest.num_units) if unit not in done)
    progress = Progress(total=sum(manifest.unit_size(unit) for unit in todo))
    workers = {"num_actors": 0}
    for note in plan.notes:
        say(f"input: {note}")
    health = read_health(store)
    if todo:
        check_space(store, bytes_per_sample(plan) * progress.total)  # without the features: of them the actors know
        health = job_health(plan, store, say, alone)
        say(f"{len(done)} of {manifest.num_units} units are done; {progress.total} images to go")
        context = run_context(plan, store, manifest)
        if alone:
            workers, reports = {"num_actors": 1}, units_here(context, todo)
        else:
            workers = worker_counts(config, runtime.connect(), len(todo))
            reports = stream(context, todo, workers)
        earlier = sum(manifest.unit_size(unit) for unit in done)
        progress = Progress(total=progress.total, earlier=earlier)
        _drain(reports, progress, say, run)
        _refuse_poison(progress.poison, config.engine.allow_poison)
    else:
        say(f"all {len(plan.rows)} images are done; nothing left to do")
    split = config.data.digits.split if config.data.source == "spurious_digits" else "train"
    root = finish(store, manifest, split, plan.identity)
    return {
        "output": store.where,
        "fingerprint": plan.fingerprint,
        **{name: root[name] for name in ("num_inputs", "num_ok", "rejects", "num_units", "root_sha256")},
        "input": list(plan.notes),
        "reject_rate": 1 - root["num_ok"] / root["num_inputs"],
        "units_resumed": len(done),
        "wall_s": progress.elapsed if todo else 0.0,
        "images_per_s": progress.rows / progress.elapsed if todo else 0.0,
        "stage_s": progress.stages,
        "health": health,
        **workers,
    }


def _refuse_poison(poison: Sequence[str], allowed: bool) -> None:
    """Raise PoisonedInput where samples kill their process and that is not allowed."""
    if poison and not allowed:
        named = "; ".join(poison[:10]) + ("; ..." if len(poison) > 10 else "")
        raise PoisonedInput(
            f"samples kill or hang the process that works on them: {named}; all units without one are committed; "
            "take the samples out of the input, or run again with --engine.allow-poison, which rejects them"
        )


def _open_output(store: Store, plan: Plan) -> InputManifest:
    """Create the output, or check that it belongs to this run; return its input manifest."""
    resumes = check_output(plan, store)
    store.prepare()
    if not resumes or not _says_whose_it_is(store):
        # The first file of a run says whose folder it is: a kill at any later point can be continued.
        store.write_run(plan.fields, dotted.flatten(plan.config))
    manifest = write_manifest(plan.rows, store.desk / MANIFEST, plan.config.engine.unit_size)
    store.upload(MANIFEST)
    if plan.config.data.path is not None:
        write_stamps(store.desk, plan.input_root, (row.source for row in plan.rows), manifest.sha256)
        store.upload(STAMPS)
    return manifest


def _says_whose_it_is(store: Store) -> bool:
    try:
        store.read_run()
    except ValueError:  # its fields are those of this run, and something else in it is damaged
        return False
    return True


def run_context(plan: Plan, store: Store, manifest: InputManifest) -> RunContext:
    """Return what the workers of one run are told."""
    return RunContext(
        config=dotted.flatten(plan.config),
        output=store.where,
        input_file_sha256=manifest.sha256,
        provenance=plan.provenance,
        image_size=plan.image_size,
        class_names=plan.class_names,
        identity=plan.identity,
        run_id=uuid.uuid4().hex[:12],
    )


def stream(
    context: RunContext,
    todo: Sequence[int],
    workers: dict[str, Any],
    stage: type[ExtractStage] = ExtractStage,
    arguments: tuple[Any, ...] = (),
) -> Iterator[dict[str, Any]]:
    """Stream the units through the three stages and yield one report per committed unit.

    Only their numbers leave the driver: the decode stage reads a unit's rows from the manifest in the output. `stage`
    is what an actor is, made of the context and `arguments`.
    """
    import ray

    runtime.quiet_ray_data()
    in_flight = context.extract_config.engine.units_in_flight
    actors = workers["num_actors"]
    tasks = min(2 * actors, len(todo))
    # One row and one block per unit: Ray's block formation can then not touch what a unit holds. The blocks are
    # made here, for a read task would ask for a whole CPU, which on a small machine the actors have taken.
    units = ray.data.from_items([{"unit": unit} for unit in todo], override_num_blocks=len(todo))
    decoded = units.map_batches(
        partial(decode_stage, context=context),
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=TASK_CPUS,
        compute=ray.data.TaskPoolStrategy(size=tasks),
    )
    extracted = decoded.map_batches(
        stage,
        fn_constructor_args=(context, *arguments),
        batch_size=1,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=actors, max_tasks_in_flight_per_actor=in_flight),
        num_cpus=workers["cpus_per_actor"],
        num_gpus=workers["gpus_per_actor"],
    )
    reports = extracted.map_batches(
        partial(commit_stage, context=context),
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=TASK_CPUS,
        compute=ray.data.TaskPoolStrategy(size=tasks),
    )
    yield from reports.iter_rows()


def _drain(reports: Iterator[dict[str, Any]], progress: Progress, say: Callable[[str], None], run: Run | None) -> None:
    said = told = time.monotonic()
    for report in reports:
        progress.add(report)
        now, ended = time.monotonic(), progress.rows == progress.total
        if now - said >= PROGRESS_EVERY_S or ended:
            said = now
            say(progress.line())
        if run is not None and (now - told >= TRACKED_EVERY_S or ended):
            told = now
            run.metrics(progress.metrics(), step=progress.earlier + progress.rows)
