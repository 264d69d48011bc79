"""What an actor of an evaluation does: a chunk of one slice, under one attack or none, becomes a file of verdicts."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import nn

from clarep_ray import dotted
from clarep_ray.cluster.attempts import Attempt, Ledger, name_poison, survive
from clarep_ray.cluster.memory import while_memory_is_short
from clarep_ray.config import BenchmarksConfig, EvaluateConfig
from clarep_ray.data.records import RejectedImage
from clarep_ray.data.store import OutputStore
from clarep_ray.data.units import STAND_IN, UnitBlob
from clarep_ray.data.verdicts import VerdictParts
from clarep_ray.data.views import View
from clarep_ray.models.classifiers import Evaluated, load_classifier
from clarep_ray.robustness.attacks import Running, build_attack
from clarep_ray.robustness.benchmarks import Benchmark, Row, open_benchmark
from clarep_ray.robustness.evaluate import attack_columns, chosen_rows, clean_columns, to_unit_range
from clarep_ray.robustness.reading import as_benchmark, match_classifier
from clarep_ray.robustness.trust import Finding, trust_findings

CLEAN, TRUST = "clean", "trust"
"""What a unit does where it is no attack: the answers alone, or the trust checks."""


def view_of(model: Evaluated, config: BenchmarksConfig) -> View:
    """Return how a classifier sees images: its own way, but for what the config says otherwise."""
    return model.view.with_size(config.image_size, config.resize, config.interpolation)


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A chunk of the (chosen) rows of a slice for one model, under an attack with a seed, or without one."""

    role: int
    """Which model: 0 the classifier, 1 the one it is compared with."""
    benchmark: str
    part: str
    attack: str
    seed: int
    """Of the attack's draws; 0 without an attack."""
    count: int | None
    """So many pictures of the slice are chosen; None for all."""
    start: int
    stop: int

    @property
    def group(self) -> str:
        return f"{self.role}.{self.benchmark}.{self.part.replace('/', '-')}.{self.attack}.{self.seed}"

    @property
    def name(self) -> str:
        return f"{self.group}.{self.start:07d}"


@dataclass(frozen=True)
class EvaluationContext:
    """What every worker needs, small and picklable."""

    config: dict[str, Any]
    output: str
    run_id: str
    views: tuple[View, ...]
    """How each role's classifier sees images."""

    @property
    def evaluate_config(self) -> EvaluateConfig:
        return dotted.from_flat(EvaluateConfig, self.config)

    @property
    def store(self) -> OutputStore:
        return OutputStore(Path(self.output))

    @property
    def parts(self) -> VerdictParts:
        return VerdictParts(Path(self.output))


def read_stage(table: pa.Table, context: EvaluationContext) -> pa.Table:
    """Read and decode the pictures of the one unit in `table`; raises UnitGivenUp and PoisonedInput."""
    unit = Unit(**json.loads(table["unit"][0].as_py()))
    config = context.evaluate_config
    rows = unit_rows(unit, config)

    def read(attempt: Attempt, poison: Mapping[int, str]) -> UnitBlob:
        blob = read_rows(unit.benchmark, [rows[row] for row in sorted(attempt.rows)], config, context.views[unit.role])
        name_poison(f"unit {unit.name}", [row.key for row in rows], poison)
        return blob

    ledger = Ledger(context.store, context.run_id, unit.name, "read")
    tried = partial(survive, ledger, len(rows), config.engine, read, alike=False)
    blob = while_memory_is_short(f"reading unit {unit.name}", config.engine, tried)
    return pa.table({"unit": table["unit"], "payload": pa.array([blob.to_bytes()], pa.large_binary())})


def unit_rows(unit: Unit, config: EvaluateConfig) -> Sequence[Row]:
    """Return the rows of a unit."""
    return _chosen(unit.benchmark, unit.part, unit.count, config.benchmarks, config.seed)[unit.start : unit.stop]


def read_rows(name: str, rows: Sequence[Row], config: EvaluateConfig, view: View) -> UnitBlob:
    """Return the images of rows that can be read, as a classifier sees them, and a record of every row."""
    benchmark = _benchmark(name, config.benchmarks)
    images: list[NDArray[np.uint8]] = []
    records: list[dict[str, Any]] = []
    for row in rows:
        reject = None
        try:
            images.append(benchmark.read(row, view))
        except RejectedImage as rejected:
            reject = rejected.reason.value
        records.append({**asdict(row), "reject": reject})
    return UnitBlob({"images": np.stack(images)} if images else {}, records)


@lru_cache(maxsize=16)
def _benchmark(name: str, config: BenchmarksConfig) -> Benchmark:
    """Return a benchmark, opened once in each worker process."""
    return open_benchmark(name, config)


@lru_cache(maxsize=2)
def _chosen(name: str, part: str, count: int | None, config: BenchmarksConfig, seed: int) -> Sequence[Row]:
    return chosen_rows(_benchmark(name, config).rows(part), count, seed)


class EvaluateStage:
    """The classifiers, each loaded once and when it is first needed, and what is done with them."""

    def __init__(self, context: EvaluationContext) -> None:
        import ray

        self.context = context
        self.evaluator = Evaluator(context.evaluate_config, _device(ray.get_runtime_context().get_accelerator_ids()))

    def __call__(self, table: pa.Table) -> pa.Table:
        began = time.monotonic()
        unit = Unit(**json.loads(table["unit"][0].as_py()))
        engine = self.context.evaluate_config.engine
        blob = UnitBlob.from_bytes(table["payload"][0].as_py())
        keys = [record["key"] for record in blob.records if record["reject"] is None]

        def do(attempt: Attempt, poison: Mapping[int, str]) -> None:
            if attempt.probe or poison:
                self.evaluator.results(unit, some_pictures(blob, attempt.rows))
                name_poison(f"unit {unit.name}", keys, poison)
            else:
                self.evaluator.do(unit, blob, self.context.parts)

        ledger = Ledger(self.context.store, self.context.run_id, unit.name)
        tried = partial(survive, ledger, len(keys), engine, do, alike=False)
        while_memory_is_short(f"unit {unit.name}", engine, tried)
        report = {"unit": unit.name, "count": len(blob.records), "seconds": time.monotonic() - began}
        return pa.Table.from_pylist([report])


def _device(accelerators: Mapping[str, Sequence[str]]) -> str:
    return "cuda" if accelerators["GPU"] else "cpu"


class Evaluator:
    """Does units in this process."""

    def __init__(self, config: EvaluateConfig, device: str = "cpu") -> None:
        self.config, self.device = config, device
        self._models: dict[int, Evaluated] = {}
        set_exact(config.engine.num_threads)

    def do(self, unit: Unit, blob: UnitBlob, parts: VerdictParts) -> None:
        """Do one unit and write its file."""
        found = self.results(unit, blob)
        if isinstance(found, list):
            parts.write_findings(
                unit.name, [{**asdict(finding), "numbers": dict(finding.numbers)} for finding in found]
            )
        else:
            parts.write_verdicts(unit.name, _with_rejects(found, blob.records))

    def results(self, unit: Unit, blob: UnitBlob) -> dict[str, Any] | list[Finding]:
        """Return what comes of the pictures of a unit that could be read: columns of verdicts, or findings."""
        rows = [_row(record) for record in blob.records if record["reject"] is None]
        images = blob.arrays.get("images", np.zeros((0, 1, 1, 3), np.uint8))
        if unit.attack == TRUST:
            return self.findings(unit, rows, images)
        return self.columns(unit, rows, images) if rows else {}

    def columns(self, unit: Unit, rows: Sequence[Row], images: NDArray[np.uint8]) -> dict[str, Any]:
        """Return verdicts on rows: answers, or what an attack left of them."""
        benchmark, model = _benchmark(unit.benchmark, self.config.benchmarks), self.model(unit.role, unit.benchmark)
        running = self._running(unit.seed)
        if unit.attack == CLEAN:
            found = clean_columns(model, benchmark, rows, images, running, self.device)
            return {**found, "right": found["correct"]}
        attack = build_attack(unit.attack, self.config.attacks, running)
        found = attack_columns(model, attack, benchmark, rows, images, running, self.device)
        return {**found, "right": found["robust"]}

    def findings(self, unit: Unit, rows: Sequence[Row], images: NDArray[np.uint8]) -> list[Finding]:
        """Return the trust checks' findings; a model without a single right answer is one of them.

        Adversarial images are carried over only from a classifier of the same input side.
        """
        roles = range(len(self.config.classifier.all_weights))
        sides = [view_of(self.loaded(role), self.config.benchmarks).image_size for role in roles]
        same = [role for role in roles if role != unit.role and sides[role] == sides[unit.role]]
        others = [self.model(role, unit.benchmark) for role in same]
        pictures = to_unit_range(images, self.device)
        labels = torch.tensor([row.labels[0] for row in rows], device=self.device)
        keys, running = [row.key for row in rows], self._running(self.config.seed)
        try:
            model = self.model(unit.role, unit.benchmark)
            return trust_findings(model, pictures, labels, keys, self.config.trust, running, others)
        except ValueError as error:
            return [Finding("classifies_at_all", False, "refuse", {"share_right": 0.0}, str(error))]

    def model(self, role: int, name: str) -> nn.Module:
        """Return a classifier with a benchmark's classes for logits."""
        weights, benchmark = self.config.classifier.all_weights[role], _benchmark(name, self.config.benchmarks)
        return as_benchmark(self.loaded(role), match_classifier(weights, benchmark))

    def loaded(self, role: int) -> Evaluated:
        """Return a classifier, loaded when it is first asked for."""
        if role not in self._models:
            self._models[role] = load_classifier(self.config.classifier.all_weights[role], self.device)
        return self._models[role]

    def _running(self, seed: int) -> Running:
        return Running(seed=seed, micro_batch=self.config.engine.rows_per_call, padded=True)


def some_pictures(blob: UnitBlob, places: Collection[int]) -> UnitBlob:
    """Return some of the pictures that could be read, by their place among them; of none, a grey one for the first."""
    good = [record for record in blob.records if record["reject"] is None]
    chosen = sorted(places) or list(range(len(good)))[:1]
    images = blob.arrays["images"][chosen] if good else np.zeros((0, 1, 1, 3), np.uint8)
    return UnitBlob({"images": images if places else np.full_like(images, STAND_IN)}, [good[at] for at in chosen])


def _row(record: Mapping[str, Any]) -> Row:
    return Row(key=record["key"], labels=tuple(record["labels"]), source=record["source"], offset=record["offset"])


def _with_rejects(columns: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return columns with a row for every record, nulls but for key, label and reason where it has none of its own."""
    good = iter(range(len(records)))
    places = [next(good) if record["reject"] is None else None for record in records]
    full = {name: [None if i is None else values[i] for i in places] for name, values in columns.items()}
    named = {"key": [record["key"] for record in records], "label": [record["labels"][0] for record in records]}
    return full | named | {"reject": [record["reject"] for record in records]}


def set_exact(num_threads: int) -> None:
    """Fix threads and full float32 precision; kernels that cannot be deterministic on a GPU are used all the same."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(num_threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
