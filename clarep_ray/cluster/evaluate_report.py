"""Run an evaluation in its order, trust checks first, and write what was found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from clarep_ray.analysis import evaluation_figures as pictures
from clarep_ray.analysis.calibration_findings import as_csv
from clarep_ray.analysis.figures import save_figure
from clarep_ray.cluster.evaluate import Session, open_session, run_units, trust_units, verdict_units
from clarep_ray.cluster.evaluate_findings import (
    ROLES,
    Found,
    non_finite_images,
    report_text,
    require_answers,
    result_tables,
    tracked_metrics,
    view_lines,
)
from clarep_ray.cluster.evaluate_units import CLEAN, Unit
from clarep_ray.cluster.tracked import start_evaluation
from clarep_ray.config import EvaluateConfig
from clarep_ray.data.owner import owned
from clarep_ray.data.plain_json import plain_json, without_nan
from clarep_ray.data.store import OutputStore
from clarep_ray.data.verdicts import write_verdict_table
from clarep_ray.robustness import results as found_in
from clarep_ray.robustness.results import Cell, Verdicts
from clarep_ray.robustness.trust import Finding, require_trusted

VERDICTS, RESULTS, REPORT, TRUST_FILE = "verdicts.parquet", "results.json", "report.md", "trust.json"


def run_evaluation(config: EvaluateConfig, preset: str, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Evaluate, or continue an interrupted evaluation; write and return what `results.json` holds.

    Raises as `open_session` does, OutputInUse, and Untrusted where a trust check is to be refused.
    """
    with owned(Path(config.output), config.engine.take_over, say):
        return _evaluate(config, preset, say)


def _evaluate(config: EvaluateConfig, preset: str, say: Callable[[str], None]) -> dict[str, Any]:
    session = open_session(config)
    with start_evaluation(session, preset) as run:
        for line in view_lines(session):
            say(line)
        trust = _trust(session, say)
        units = verdict_units(session)
        cost = run_units(session, units, say)
        found = _collect(session, trust, units)
        require_answers(found)
        record = _record(found)
        made = _write(found, record)
        run.metrics(tracked_metrics(found, cost))
        run.note(report_text(found))
        run.files(made)
    say(_epilogue(found, made, run.browse))
    return record


def _trust(session: Session, say: Callable[[str], None]) -> dict[str, list[Finding]]:
    """Run the trust checks, tell and store what they found; Untrusted where that is to be refused."""
    units = trust_units(session)
    run_units(session, units, say)
    parts = session.context.parts
    trust = {session.names[unit.role]: [Finding(**row) for row in parts.findings(unit.name)] for unit in units}
    record = {model: [vars(finding) for finding in findings] for model, findings in trust.items()}
    OutputStore(Path(session.config.output)).put(TRUST_FILE, plain_json(record))
    for model, findings in trust.items():
        passed = sum(finding.passed for finding in findings)
        say(f"trust {model}: {passed} of {len(findings)} checks passed")
        for line in require_trusted(findings, session.config.trust.refuse):
            say(f"warning: {model}: {line}")
    return trust


def _collect(session: Session, trust: dict[str, list[Finding]], units: Sequence[Unit]) -> Found:
    """Read the units' files, write them as one, and return the verdicts."""
    results: dict[str, dict[Cell, Verdicts]] = {name: {} for name in session.names}
    rejects = Counter[str]()

    def tables() -> Iterator[tuple[Mapping[str, Any], pa.Table]]:
        for group in _groups(units):
            table = session.context.parts.verdicts(unit.name for unit in group)
            unit, model = group[0], session.names[group[0].role]
            seed = None if unit.attack == CLEAN else unit.seed
            yield (
                {"role": ROLES[unit.role], "model": model, "benchmark": unit.benchmark, "slice": unit.part}
                | {"attack": unit.attack, "seed": seed},
                table,
            )
            cell = Cell(benchmark=unit.benchmark, part=unit.part, attack=unit.attack, seed=unit.seed)
            good = table.filter(table["reject"].is_null())
            results[model][cell] = _verdicts(good, unit.benchmark in session.config.attacked)
            if unit.role == 0 and unit.attack == CLEAN:
                rejects.update(reason for reason in table["reject"].to_pylist() if reason is not None)

    write_verdict_table(Path(session.config.output) / VERDICTS, tables())
    complete = {model: found_in.with_ensemble(cells) for model, cells in results.items()}
    return Found(session, trust, complete, dict(sorted(rejects.items())))


def _groups(units: Sequence[Unit]) -> list[list[Unit]]:
    groups: dict[str, list[Unit]] = {}
    for unit in sorted(units, key=lambda unit: unit.role):  # one model after the other; else the order of the work
        groups.setdefault(unit.group, []).append(unit)
    return list(groups.values())


def _verdicts(table: pa.Table, attacked: bool) -> Verdicts:
    """Return the verdicts of a table; keys only where attacks on some of the pictures need them."""
    return Verdicts(
        keys=table["key"].to_pylist() if attacked else (),
        labels=table["label"].to_numpy(),
        right=np.asarray(table["right"].to_numpy(), dtype=bool),
        non_finite=np.asarray(table["non_finite"].to_numpy(), dtype=bool),
        num_gradients=_total(table["num_gradients"]),
        num_queries=_total(table["num_queries"]),
    )


def _total(column: pa.ChunkedArray) -> int:
    return int(column.drop_null().to_numpy().sum())


def _record(found: Found) -> dict[str, Any]:
    session = found.session
    record: dict[str, Any] = {
        "fingerprint": session.fingerprint,
        "models": dict(zip(ROLES, session.names, strict=False)),
        "labels": session.labels,
        "views": {model: asdict(view) for model, view in session.views.items()},
        "rejects": found.rejects,
        "trust": {model: [vars(finding) for finding in findings] for model, findings in found.trust.items()},
        "non_finite": {model: non_finite_images(results) for model, results in found.results.items()},
        "figures": {model: {key: list(f.values) for key, f in known.items()} for model, known in found.figures.items()},
        "images": {model: {key: f.images for key, f in known.items()} for model, known in found.figures.items()},
        "clean_of_the_same_images": {
            model: {key: f.clean for key, f in known.items() if f.clean is not None}
            for model, known in found.figures.items()
        },
        "slices": found.by_model(found_in.slice_table),
        "paired": found.paired,
        "classes": _with_names(found, found.by_model(found_in.class_table)),
    }
    return without_nan(record)


def _with_names(found: Found, rows: found_in.Table) -> found_in.Table:
    """Return rows of classes with the name of each beside its number."""
    named = {name: benchmark.answer_classes for name, benchmark in found.session.benchmarks.items()}
    return [{**row, "class": named[row["benchmark"]].shown(row["label"])} for row in rows]


def _write(found: Found, record: Mapping[str, Any]) -> list[Path]:
    """Write JSON, CSV, pictures and the page of text; return their paths."""
    root = Path(found.session.config.output)
    store, tables, made = OutputStore(root), result_tables(found), dict[str, bytes]()
    made[RESULTS] = plain_json(record)
    made |= {f"{name}.csv": table.csv().encode() for name, table in tables.items()}
    made |= {f"{name}.csv": as_csv(record[name]) for name in ("slices", "paired", "classes") if record[name]}
    made[REPORT] = (report_text(found) + "\n").encode()
    for name, data in made.items():
        store.put(name, data)
    figures = _figures(found)
    for name, figure in figures.items():
        save_figure(figure, root, f"{name}.png")
    return [root / name for name in (*made, *(f"{name}.png" for name in figures), VERDICTS)]


def _figures(found: Found) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name, benchmark in found.session.benchmarks.items():
        parts = benchmark.slices()
        if all("/" in part for part in parts):
            accuracies = {
                model: {part: results[Cell(benchmark=name, part=part, attack=CLEAN, seed=0)].accuracy for part in parts}
                for model, results in found.results.items()
            }
            made[f"corruptions_{name}"] = pictures.corruption_bars(accuracies, name)
        else:
            made[f"attacks_{name}"] = pictures.attack_bars(_bars(found, name), name)
    return made


def _bars(found: Found, benchmark: str) -> dict[str, dict[str, dict[str, pictures.Bar]]]:
    """Return each slice's accuracies with their intervals, under each attack with its first seed."""
    bars: dict[str, dict[str, dict[str, pictures.Bar]]] = {}
    for row in found.by_model(found_in.slice_table):
        if row["benchmark"] == benchmark and row["count"]:
            bar = pictures.Bar(row["accuracy"], row["low"], row["high"], row["count"], row["clean"])
            bars.setdefault(row["model"], {}).setdefault(row["slice"], {}).setdefault(row["attack"], bar)
    return bars


def _epilogue(found: Found, made: Sequence[Path], uri: str | None) -> str:
    root = Path(found.session.config.output)
    shown = ", ".join(path.name for path in made if path.suffix == ".png")
    lines = ["", report_text(found), "", f"look at      {root}: {shown}"]
    lines.append(f"read         {root}/{REPORT}, {RESULTS}, {VERDICTS} (one row per picture, attack and seed)")
    if uri:
        lines.append(f"browse       {uri}")
    return "\n".join(lines)
