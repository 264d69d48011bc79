"""What a sweep needs to know of what it sweeps, and one trial of it with one seed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from clarep_ray import dotted
from clarep_ray.cluster.sweep_rows import Row, Status, commit_row, read_row
from clarep_ray.config import Point
from clarep_ray.config.credentials import redact
from clarep_ray.data.inside import refuse_links
from clarep_ray.errors import OutputInUse

Report = Callable[[int, float], None]
"""Takes an epoch and the metric after it."""
Cell = tuple[Point, int]
"""A point of the space and a seed: what has one row."""
INFRASTRUCTURE = (OSError, MemoryError, OutputInUse)
"""Faults of the machine, or an attempt that still lives: the trial is tried again before its row says it failed."""
MAX_REASON = 500


class Study(Protocol):
    """CLARID or CaDistill as something to sweep: small and picklable."""

    @property
    def job(self) -> str:
        """Name in tracking."""
        ...

    @property
    def config(self) -> Any:
        """The config that points change, with absolute paths."""
        ...

    @property
    def root(self) -> Path:
        """Folder of the sweep."""
        ...

    @property
    def metrics(self) -> tuple[str, ...]:
        """Metrics that can say which trial is best."""
        ...

    @property
    def num_epochs(self) -> int | None:
        """Epochs that a trial reports; None where it reports none."""
        ...

    def seeded(self, point: Point, seed: int) -> Any:
        """Return the resolved config of a point and seed, without folders; ValueError where it is not valid."""
        ...

    def basis(self, point: Point, seed: int) -> str:
        """Return the fingerprint of what a trial builds on beside its config; empty where there is nothing."""
        ...

    def has_basis(self, name: str) -> bool:
        """Say whether trials of another value of a field build on something else."""
        ...

    def identity(self) -> dict[str, Any]:
        """Return the fields that must be equal for the folder to be continued."""
        ...

    def check(self, points: Sequence[Point], seeds: Sequence[int]) -> None:
        """Raise ValueError for what cannot be run."""
        ...

    def prepare(self, cells: Sequence[Cell], say: Callable[[str], None]) -> None:
        """Do what these trials build on."""
        ...

    def resources(self, cluster: Mapping[str, float]) -> dict[str, float]:
        """Return the CPUs and GPUs of one trial."""
        ...

    @property
    def waits_for_machines(self) -> bool:
        """Whether the cluster grows to what trials ask for, so that what it has not yet is no mistake."""
        ...

    def measure(self, point: Point, seed: int, folder: Path, report: Report) -> dict[str, float]:
        """Run a trial in this process, or continue it, and return its metrics."""
        ...

    def replay(self, folder: Path, report: Report) -> None:
        """Report the epochs of a trial that was run before."""
        ...


@contextmanager
def at_point(point: Point) -> Generator[None]:
    """Name the point in a ValueError that is raised inside."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{error} (at {point})") from None


def trial_name(study: Study, point: Point) -> str:
    """Return the hash of a point's config whatever its seed."""
    return _hash(study, point, 0)[:12]


def row_key(study: Study, point: Point, seed: int) -> str:
    """Return the hash of a point's config with a seed."""
    return _hash(study, point, seed)[:16]


def _hash(study: Study, point: Point, seed: int) -> str:
    fields = dotted.fingerprint_fields(study.seeded(point, seed))
    return dotted.fingerprint(fields | {"basis": study.basis(point, seed)})


def trial_folder(study: Study, point: Point, seed: int) -> Path:
    """Return where a trial with a seed writes; NotInside where a link is on the way."""
    return refuse_links(study.root, f"trials/{trial_name(study, point)}/seed-{seed}")


def run_cell(study: Study, point: Point, seed: int, metric: str, report: Report) -> Row:
    """Return the row of a point and seed: the committed one, or of a trial run now and then committed.

    A fault of the machine is raised; any other error becomes a row.
    """
    folder, key = trial_folder(study, point, seed), row_key(study, point, seed)
    if (known := read_row(study.root, key)) is not None:
        study.replay(folder, report)
        return known
    began = time.monotonic()
    metrics: dict[str, float] = {}
    status: Status = "failed"
    reason = ""
    try:
        metrics = study.measure(point, seed, folder, report)
        finite = math.isfinite(metrics.get(metric, math.nan))
        status, reason = ("ok", "") if finite else ("nan", f"{metric} is {metrics.get(metric)}")
    except INFRASTRUCTURE:
        raise
    except Exception as error:
        reason = redact(f"{type(error).__name__}: {error}")[:MAX_REASON]
    row = make_row(study, point, seed, status=status, metrics=metrics, reason=reason, wall_s=time.monotonic() - began)
    commit_row(study.root, row)
    return row


def make_row(study: Study, point: Point, seed: int, *, status: Status, **rest: Any) -> Row:
    """Return the row of a point and seed."""
    names = {"key": row_key(study, point, seed), "trial": trial_name(study, point)}
    return Row(**names, seed=seed, status=status, point=dict(point), **rest)
