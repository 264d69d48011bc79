"""What a sweep has found: one committed row per (trial, seed), and the table made of them. Does not import Ray."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from clarep_ray.config import Point
from clarep_ray.data.inside import files_inside, make_folders_inside, read_json_inside
from clarep_ray.data.plain_json import json_line, plain_json
from clarep_ray.data.sealed import as_damage
from clarep_ray.data.store import WORK, OutputStore
from clarep_ray.data.text_tables import csv_text
from clarep_ray.data.untrusted import Fields, check_fields

ROWS, POINTS, CLAIMS = "rows", "points", "claims"
Status = Literal["ok", "nan", "failed", "stopped"]
"""ok; nan: the metric is no finite number; failed: an error, in `reason`; stopped: by ASHA, before its end."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One trial with one seed."""

    key: str
    """Hash of its resolved config with the seed, and its name among the rows."""
    trial: str
    """Hash of its resolved config without the seed."""
    seed: int
    status: Status
    point: Point
    metrics: dict[str, float] = field(default_factory=dict[str, float])
    wall_s: float = 0.0
    reason: str = ""


ROW_FIELDS: Fields = {
    "key": str,
    "trial": str,
    "seed": int,
    "status": str,
    "point": dict,
    "wall_s": float,
    "reason": str,
}
MAX_CLAIM_BYTES = 4096


def commit_row(root: Path, row: Row) -> None:
    """Write a row in one step: from then on its trial is not run again with this seed."""
    OutputStore(root).put(f"{ROWS}/{row.key}.json", plain_json(asdict(row)))


def read_row(root: Path, key: str) -> Row | None:
    """Return the committed row of a key, if any."""
    name = f"{ROWS}/{key}.json"
    try:
        record = read_json_inside(root, name)
    except FileNotFoundError:
        return None
    with as_damage(root / name):
        row = _row_of(record)
        if row.key != key:
            raise ValueError(f"it is the row {row.key[:100]!r}")
    return row


def _row_of(record: dict[str, Any]) -> Row:
    """Return a row as it was before JSON, which has no tuples and null for a metric that is no number."""
    check_fields(record["metrics"], dict.fromkeys(record["metrics"], (float, type(None))), "metrics")
    metrics = {name: math.nan if value is None else float(value) for name, value in record["metrics"].items()}
    fields: dict[str, Any] = record | {"point": point_of(record["point"]), "metrics": metrics}
    row = Row(**fields)
    check_fields(asdict(row), ROW_FIELDS, "row")
    if row.status not in get_args(Status):
        raise ValueError(f"status is {row.status[:100]!r}; valid: {', '.join(get_args(Status))}")
    return row


def point_of(record: Mapping[str, Any]) -> Point:
    """Return a point as it was before JSON, which has no tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in record.items()}


def take_out_failed(root: Path) -> int:
    """Remove the rows of failed trials, so that they are run once more; return how many there were."""
    keys = [name.removesuffix(".json") for name in files_inside(root, ROWS) if name.endswith(".json")]
    failed = [row.key for key in keys if (row := read_row(root, key)) is not None and row.status == "failed"]
    OutputStore(root).remove(ROWS, [f"{key}.json" for key in failed])
    return len(failed)


def ask_point(root: Path, trial: str, point: Point) -> None:
    """Note that a search has asked for a point: a sweep that is killed now continues with it."""
    OutputStore(root).put(f"{POINTS}/{trial}.json", json_line(point))


def claim(root: Path, name: str, owner: str) -> bool:
    """Say whether a piece of work is the owner's: the first one to ask gets it, and gets it again."""
    store, path = OutputStore(root), f"{CLAIMS}/{name}"
    make_folders_inside(root, WORK)
    return store.put_new(path, owner.encode()) or store.read(path, MAX_CLAIM_BYTES) == owner.encode()


def asked_points(root: Path) -> list[Point]:
    """Return the points that a search has asked for, in a fixed order."""
    names = [name for name in files_inside(root, POINTS) if name.endswith(".json")]
    return [point_of(read_json_inside(root, f"{POINTS}/{name}")) for name in names]


def is_good(row: Row, metric: str) -> bool:
    """Say whether a row counts: done, with a finite metric."""
    return row.status == "ok" and math.isfinite(row.metrics.get(metric, math.nan))


def by_trial(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return {trial: its rows}, in the order of the rows."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.trial, []).append(row)
    return found


def best_trial(rows: Sequence[Row], metric: str, mode: str, num_seeds: int) -> str | None:
    """Return the trial with the best mean of a metric among those that are good with every seed; None without one."""
    sign = 1.0 if mode == "max" else -1.0
    means = {
        trial: sign * sum(row.metrics[metric] for row in mine) / num_seeds
        for trial, mine in by_trial(rows).items()
        if len(mine) == num_seeds and all(is_good(row, metric) for row in mine)
    }
    return max(means, key=lambda trial: means[trial], default=None)


def metric_names(rows: Sequence[Row]) -> list[str]:
    """Return the names of all metrics of all rows, sorted."""
    return sorted({name for row in rows for name in row.metrics})


def trials_csv(rows: Sequence[Row], fields: Sequence[str]) -> str:
    """Return one line per trial and seed: trial, status, seed, the varied fields, metrics, seconds and reason."""
    names = metric_names(rows)
    header = ("trial", "status", "seed", *fields, *(f"metric/{name}" for name in names), "wall_s", "reason")
    lines: list[tuple[object, ...]] = []
    for row in rows:
        cells = [_text(row.metrics[name]) if name in row.metrics else "" for name in names]
        varied = [row.point.get(name, "") for name in fields]
        lines.append((row.trial, row.status, row.seed, *varied, *cells, f"{row.wall_s:.1f}", row.reason))
    return csv_text(header, lines)


def _text(value: float) -> str:
    return f"{value:.6g}"
