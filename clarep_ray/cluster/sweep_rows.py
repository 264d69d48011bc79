"""What a sweep has found: one committed row per (trial, seed), and the table made of them. Does not import Ray."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from clarep_ray.config import Point
from clarep_ray.data.plain_json import plain_json
from clarep_ray.data.store import OutputStore
from clarep_ray.data.text_tables import csv_text

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


def commit_row(root: Path, row: Row) -> None:
    """Write a row in one step: from then on its trial is not run again with this seed."""
    OutputStore(root).put(f"{ROWS}/{row.key}.json", plain_json(asdict(row)))


def read_row(root: Path, key: str) -> Row | None:
    """Return the committed row of a key, if any."""
    path = root / ROWS / f"{key}.json"
    return Row(**_with_tuples(json.loads(path.read_bytes()))) if path.is_file() else None


def _with_tuples(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record as it was before JSON, which has no tuples and null for a metric that is no number."""
    metrics = {name: math.nan if value is None else value for name, value in record["metrics"].items()}
    return record | {"point": point_of(record["point"]), "metrics": metrics}


def point_of(record: Mapping[str, Any]) -> Point:
    """Return a point as it was before JSON, which has no tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in record.items()}


def take_out_failed(root: Path) -> int:
    """Remove the rows of failed trials, so that they are run once more; return how many there were."""
    paths = [path for path in (root / ROWS).glob("*.json") if json.loads(path.read_bytes())["status"] == "failed"]
    for path in paths:
        path.unlink()
    return len(paths)


def ask_point(root: Path, trial: str, point: Point) -> None:
    """Note that a search has asked for a point: a sweep that is killed now continues with it."""
    OutputStore(root).put(f"{POINTS}/{trial}.json", (json.dumps(point) + "\n").encode())


def claim(root: Path, name: str, owner: str) -> bool:
    """Say whether a piece of work is the owner's: the first one to ask gets it, and gets it again."""
    path = root / CLAIMS / name
    try:
        with path.open("x") as file:
            file.write(owner)
        return True
    except FileExistsError:
        return path.read_text() == owner


def asked_points(root: Path) -> list[Point]:
    """Return the points that a search has asked for, in a fixed order."""
    return [point_of(json.loads(path.read_bytes())) for path in sorted((root / POINTS).glob("*.json"))]


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
