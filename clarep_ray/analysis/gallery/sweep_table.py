"""A sweep as a table: one row per trial, from `trials.csv` (one row per trial and seed) and `sweep.json`."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from clarep_ray.analysis.tables import mean_std
from clarep_ray.config.checks import require
from clarep_ray.data.inside import has_file_inside, read_json_inside, read_text_inside
from clarep_ray.data.text_tables import unguarded
from clarep_ray.data.untrusted import MAX_TEXT_BYTES, Fields, check_fields

TRIALS, SWEEP = "trials.csv", "sweep.json"
ABOUT_FIELDS: Fields = {"name": str, "metric": str, "mode": str, "fields": list}
PREFIX = "metric/"
SECONDS = "wall_s"
"""Seconds a row took; a column like a metric."""
LESS_IS_BETTER = {
    *(SECONDS, "background_kept", "background_typical", "reject_rate", "mean_round_trip_error"),
    *("share_ambiguous", "share_elbow_fallback"),
}
"""Columns of which the page wants less, until its reader says otherwise."""
OK = "ok"


@dataclass(frozen=True)
class Trial:
    """One trial: its values of the varied fields, and every metric once per seed that gave a finite number."""

    name: str
    point: dict[str, str]
    metrics: dict[str, list[float]]
    status: str
    """ok, or what became of its seeds: `failed`, or `2 ok, 1 nan`, or `2 ok, 1 missing`."""
    complete: bool
    """Every seed is there and ok; no other trial is ever called best or drawn into a front."""
    reasons: tuple[str, ...]

    def mean(self, metric: str) -> float:
        """Return the mean over seeds; NaN where a seed has no finite number."""
        return mean_std(self.metrics[metric])[0] if metric in self.metrics else math.nan


@dataclass(frozen=True)
class SweepTable:
    """All trials of a sweep in the order of the file; `metric` is better the larger (`max`) or smaller (`min`)."""

    name: str
    metric: str
    mode: Literal["max", "min"]
    fields: tuple[str, ...]
    metrics: tuple[str, ...]
    seeds: tuple[str, ...]
    trials: tuple[Trial, ...]

    @property
    def best(self) -> Trial | None:
        """The complete trial with the best mean of `metric`; None where there is none."""
        able = [trial for trial in self.trials if trial.complete and math.isfinite(trial.mean(self.metric))]
        sign = 1 if self.mode == "max" else -1
        return max(able, key=lambda trial: sign * trial.mean(self.metric), default=None)


def is_sweep(folder: Path) -> bool:
    """Say whether a folder is a sweep's."""
    return (folder / SWEEP).is_symlink() or has_file_inside(folder, SWEEP)


def read_sweep(folder: Path) -> SweepTable:
    """Return a sweep's table; ValueError naming file and column where it is not as a sweep writes it."""
    try:
        about = check_fields(read_json_inside(folder, SWEEP), ABOUT_FIELDS, SWEEP)
        check_fields({"seeds": about.get("seeds", [])}, {"seeds": list}, SWEEP)
        name, metric, mode = about["name"], about["metric"], about["mode"]
        fields = tuple(str(field) for field in about["fields"])
        reader = csv.DictReader(io.StringIO(read_text_inside(folder, TRIALS, MAX_TEXT_BYTES), newline=""))
        header, rows = tuple(reader.fieldnames or ()), list(reader)
        if any(None in row or None in row.values() for row in rows):
            raise ValueError(f"{TRIALS}: a line has more or fewer values than the first")
    except (OSError, ValueError, csv.Error) as error:
        raise ValueError(f"{str(folder)!r} is no sweep: {SWEEP} and {TRIALS} cannot be read: {error}") from None
    require(mode in ("max", "min"), f"{SWEEP}: mode", mode, "max, min")
    header = tuple(map(unguarded, header))
    rows = [{unguarded(name): unguarded(cell) for name, cell in row.items()} for row in rows]
    needed = ("trial", "status", "seed", *fields, f"{PREFIX}{metric}")
    missing = [column for column in needed if column not in header]
    require(not missing, f"{TRIALS}: columns", ", ".join(header), f"also {', '.join(missing)}")
    metrics = [column.removeprefix(PREFIX) for column in header if column.startswith(PREFIX)]
    metrics.sort(key=lambda column: column != metric)  # stable: what the sweep is judged by comes first
    seeds = tuple(dict.fromkeys([*map(str, about.get("seeds", ())), *(row["seed"] for row in rows)]))
    groups: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        groups.setdefault(row["trial"], []).append(row)
    trials = [_trial(trial, mine, fields, metrics, header, seeds) for trial, mine in groups.items()]
    return SweepTable(str(name), metric, mode, fields, tuple(metrics), seeds, tuple(trials))


def _trial(
    name: str,
    rows: Sequence[Mapping[str, str]],
    fields: Sequence[str],
    metrics: Sequence[str],
    header: Sequence[str],
    seeds: Sequence[str],
) -> Trial:
    done = [row for row in rows if row["status"] == OK]
    columns = {metric: f"{PREFIX}{metric}" for metric in metrics} | ({SECONDS: SECONDS} if SECONDS in header else {})
    read = {metric: [_number(row[column]) for row in done] for metric, column in columns.items()}
    finite = {metric: values for metric, values in read.items() if values and all(map(math.isfinite, values))}
    statuses = Counter(row["status"] for row in rows)
    absent = len(set(seeds) - {row["seed"] for row in rows})
    uniform = absent == 0 and len(statuses) == 1
    parts = [status if uniform else f"{number} {status}" for status, number in statuses.items()]
    parts += [f"{absent} missing"] if absent else []
    return Trial(
        name=name,
        point={field: rows[0][field] for field in fields},
        metrics=finite,
        status=", ".join(parts),
        complete=len(done) == len(seeds) and absent == 0,
        reasons=tuple(dict.fromkeys(row["reason"] for row in rows if row.get("reason"))),
    )


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan


def as_numbers(values: Sequence[str]) -> list[float] | None:
    """Return a column as numbers; None where any value is none, so that the column is a category."""
    numbers = [_number(value) for value in values]
    return numbers if numbers and all(map(math.isfinite, numbers)) else None


def payload_of(table: SweepTable) -> dict[str, Any]:
    """Return the table as JSON data for the page: columns (fields, then metrics), and one record per trial."""
    columns: list[dict[str, Any]] = []
    for field in table.fields:
        numbers = as_numbers([trial.point[field] for trial in table.trials])
        columns.append({"name": field, "kind": "field", "numeric": numbers is not None, "goal": "max"})
    seconds = any(SECONDS in trial.metrics for trial in table.trials)
    for metric in (*table.metrics, *([SECONDS] if seconds else [])):
        less = table.mode == "min" if metric == table.metric else metric in LESS_IS_BETTER
        columns.append({"name": metric, "kind": "metric", "numeric": True, "goal": "min" if less else "max"})
    best = table.best
    return {
        "metric": table.metric,
        "mode": table.mode,
        "numSeeds": len(table.seeds),
        "columns": columns,
        "best": best.name if best else None,
        "trials": [_record(trial, columns) for trial in table.trials],
    }


def _record(trial: Trial, columns: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    values: list[Any] = []
    for column in columns:
        if column["kind"] == "field":
            text = trial.point[column["name"]]
            values.append(_number(text) if column["numeric"] else text)
        else:
            values.append(trial.mean(column["name"]))
    spread = [mean_std(trial.metrics[c["name"]])[1] if c["name"] in trial.metrics else None for c in columns]
    return {
        "name": trial.name,
        "status": trial.status,
        "complete": trial.complete,
        "reason": "; ".join(trial.reasons),
        "values": values,
        "std": spread,
    }
