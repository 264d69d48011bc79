"""What a sweep leaves to look at: trials.csv, sweep.json, table.md and plot.png."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from clarep_ray import dotted
from clarep_ray.analysis.figures import save_figure
from clarep_ray.analysis.paired import difference_table
from clarep_ray.analysis.sweep_figures import sweep_figure
from clarep_ray.analysis.tables import SeedTable, mean_std
from clarep_ray.cluster.sweep_rows import Row, best_trial, by_trial, metric_names, trials_csv
from clarep_ray.cluster.sweep_study import Study
from clarep_ray.config import Point, SearchConfig
from clarep_ray.data.plain_json import plain_json
from clarep_ray.data.store import OutputStore
from clarep_ray.data.text_tables import markdown
from clarep_ray.presets import Sweep

TRIALS, SUMMARY, TABLE, PLOT = "trials.csv", "sweep.json", "table.md", "plot.png"


def publish(
    study: Study,
    rows: Sequence[Row],
    sweep: Sweep,
    search: SearchConfig,
    *,
    name: str,
    metric: str,
    mode: str,
    fields: Sequence[str],
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Write everything into the sweep's folder, say it, and return what sweep.json holds.

    Raises RuntimeError where no trial is good.
    """
    root, store = study.root, OutputStore(study.root)
    best = best_trial(rows, metric, mode, len(search.seeds))
    summary: dict[str, Any] = {"name": name, "metric": metric, "mode": mode, "fields": list(fields)}
    summary |= {"metrics": metric_names(rows), "seeds": list(search.seeds), "best": _best(rows, best, metric)}
    summary |= {"status": dict(Counter(row.status for row in rows))}
    store.put(TRIALS, trials_csv(rows, fields).encode())
    store.put(SUMMARY, plain_json(summary))
    if best is None:
        reasons = "; ".join(dict.fromkeys(row.reason for row in rows if row.reason))
        raise RuntimeError(f"no trial is good with every seed; {root / TRIALS} holds them all: {reasons[:500]}")
    labels = labels_of(rows)
    table = seed_table(rows, [metric, *(column for column in sweep.columns if column != metric)], labels)
    text = describe(table, rows, labels, study, search, summary)
    store.put(TABLE, (text + "\n").encode())
    points = {labels[row.trial]: row.point for row in rows}
    save_figure(sweep_figure(table, points, labels[best]), root, PLOT)
    say(f"\n{text}\n\nlook at  {root}/{PLOT}, {TABLE}; every trial: {TRIALS}")
    return summary


def _best(rows: Sequence[Row], trial: str | None, metric: str) -> dict[str, Any] | None:
    mine = [row for row in rows if row.trial == trial]
    if not mine:
        return None
    return {"trial": trial, "point": mine[0].point, "mean": mean_std([row.metrics[metric] for row in mine])[0]}


def labels_of(rows: Sequence[Row]) -> dict[str, str]:
    """Return {trial: its varied values as a short text}; field names are shortened where that leaves them apart."""
    names = {name for row in rows for name in row.point}
    short = {name: name.rpartition(".")[2] for name in names}
    counts = Counter(short.values())
    shown = {name: short[name] if counts[short[name]] == 1 else name for name in names}
    return {
        row.trial: ", ".join(f"{shown[name]} {_value(value)}" for name, value in row.point.items()) or "as configured"
        for row in rows
    }


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def seed_table(rows: Sequence[Row], columns: Sequence[str], labels: Mapping[str, str]) -> SeedTable:
    """Return the metrics of every trial over its seeds; those of rows that are not ok are left out."""
    known = [column for column in columns if any(row.status == "ok" and column in row.metrics for row in rows)]
    values = {
        labels[trial]: {
            column: [row.metrics[column] for row in mine if row.status == "ok" and column in row.metrics]
            for column in known
        }
        for trial, mine in by_trial(rows).items()
    }
    return SeedTable("trial", tuple(known), values)


def describe(
    table: SeedTable,
    rows: Sequence[Row],
    labels: Mapping[str, str],
    study: Study,
    search: SearchConfig,
    summary: Mapping[str, Any],
) -> str:
    """Return the table, what is best, what is not ok, and paired differences to the config's own point, as markdown."""
    num_seeds = len(search.seeds)
    interval = ", [95 % interval of the mean, Student's t]" if num_seeds > 1 else ""
    best = summary["best"]
    parts = [
        table.markdown(0.95 if num_seeds > 1 else None),
        f"Mean +- standard deviation{interval} over {num_seeds} seeds." if num_seeds > 1 else "One seed.",
        f"Best by {summary['metric']} ({summary['mode']}): {markdown(labels[best['trial']])}, {best['mean']:.4f}. It "
        f"was chosen among {len(labels)} trials on the numbers shown; judge it anew on other seeds.",
    ]
    bad = [f"{labels[row.trial]}, seed {row.seed}: {row.status}, {row.reason}" for row in rows if row.status != "ok"]
    if bad:
        parts.append("Not in the table:\n\n" + "\n".join(f"* {markdown(line)}" for line in bad))
    complete = complete_rows(table, num_seeds)
    reference = reference_row(rows, labels, study)
    if num_seeds > 1 and len(complete.values) > 1 and reference in complete.values:
        parts.append(
            "Paired differences over seeds: mean +- its standard error, p of the two-sided paired t-test after Holm."
            f"\n\n{difference_table(complete, reference)}"
        )
    return "\n\n".join(parts)


def complete_rows(table: SeedTable, num_seeds: int) -> SeedTable:
    """Return the rows of a table that have every seed in every column."""
    full = {
        row: cells for row, cells in table.values.items() if all(len(values) == num_seeds for values in cells.values())
    }
    return SeedTable(table.title, table.columns, full)


def reference_row(rows: Sequence[Row], labels: Mapping[str, str], study: Study) -> str:
    """Return the label of the trial that leaves the config as it is; of the first one where there is none."""
    own = dotted.flatten(study.config)

    def same(point: Point) -> bool:
        return all(own[name] == value for name, value in point.items())

    return labels[next((row.trial for row in rows if same(row.point)), rows[0].trial)]
