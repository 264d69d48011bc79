"""From verdicts of single pictures to accuracies, intervals, a comparison of two models and a report by class."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clarep_ray.robustness.attacks import ENSEMBLE4
from clarep_ray.robustness.benchmarks import Benchmark
from clarep_ray.robustness.statistics import Figure, class_report, mcnemar, wilson_interval

CLEAN = "clean"
NO_INTERVAL = {"accuracy": None, "low": None, "high": None, "count": 0}
Table = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One slice of a benchmark under one attack with one seed; `attack` is clean for none, with seed 0."""

    benchmark: str
    part: str
    attack: str
    seed: int


@dataclass(frozen=True, kw_only=True)
class Verdicts:
    """One model's verdicts in a cell, one entry for each picture that could be read.

    `right` says that it is answered right, under an attack in spite of it; `non_finite` those with a logit that is not
    finite, none of which is right; costs are sums over the images.
    """

    keys: Sequence[str]
    labels: NDArray[np.integer]
    right: NDArray[np.bool_]
    non_finite: NDArray[np.bool_]
    num_gradients: int = 0
    num_queries: int = 0

    @property
    def accuracy(self) -> float:
        """Share of right answers [0..1]; NaN where no image could be read."""
        return share_of(self.right)


def share_of(right: NDArray[np.bool_]) -> float:
    """Return the share of true entries, NaN of none."""
    return float(right.mean()) if len(right) else math.nan


Results = Mapping[Cell, Verdicts]
"""All verdicts of one model."""


def with_ensemble(results: Results) -> dict[Cell, Verdicts]:
    """Return the verdicts and, where all four attacks of the paper's ensemble were run, those that all of them leave.

    A picture's verdict under one attack knows nothing of the others, so that this is what `ensemble4` would find.
    """
    found = dict(results)
    for cell in results:
        members = [_at(cell, attack=attack) for attack in ENSEMBLE4]
        whole = _at(cell, attack="ensemble4")
        if cell.attack == ENSEMBLE4[0] and whole not in results and all(member in results for member in members):
            each = [results[member] for member in members]
            found[whole] = Verdicts(
                keys=each[0].keys,
                labels=each[0].labels,
                right=np.logical_and.reduce([one.right for one in each]),
                non_finite=np.logical_or.reduce([one.non_finite for one in each]),
                num_gradients=sum(one.num_gradients for one in each),
                num_queries=sum(one.num_queries for one in each),
            )
    return found


def figures(results: Results, benchmarks: Mapping[str, Benchmark]) -> dict[str, Figure]:
    """Return {key: figure} of one model.

    Keys are benchmark/slice and the benchmark's own figures without an attack, `benchmark/clean` its first; under an
    attack benchmark/slice/attack and benchmark/attack, the mean over its slices.
    """
    found: dict[str, Figure] = {}
    for name, benchmark in benchmarks.items():
        parts = benchmark.slices()
        clean = {part: results[Cell(benchmark=name, part=part, attack=CLEAN, seed=0)] for part in parts}
        summary = benchmark.summary({part: verdicts.accuracy for part, verdicts in clean.items()})
        sizes = {part: len(verdicts.right) for part, verdicts in clean.items()}
        found |= {
            f"{name}/{key}": Figure((value,), sum(sizes[part] for part in _covered(key, parts)))
            for key, value in {CLEAN: summary["top1"], **summary}.items()
        }
        found |= {f"{name}/{part}": Figure((verdicts.accuracy,), sizes[part]) for part, verdicts in clean.items()}
        for attack in attacks_on(results, name):
            seeds = _seeds(results, name, attack)
            cells = [[Cell(benchmark=name, part=part, attack=attack, seed=seed) for seed in seeds] for part in parts]
            rows = [
                Figure(
                    [results[cell].accuracy for cell in row],
                    len(results[row[0]].right),
                    share_of(_clean(results, row[0])),
                )
                for row in cells
            ]
            found |= {f"{name}/{part}/{attack}": row for part, row in zip(parts, rows, strict=True)}
            found[f"{name}/{attack}"] = Figure(
                [float(value) for value in np.mean([row.values for row in rows], axis=0)],
                sum(row.images for row in rows),
                float(np.mean([row.without_attack.values for row in rows])),
            )
    return found


def _covered(key: str, parts: Sequence[str]) -> list[str]:
    """Return the slices that a benchmark's own figure is over: those of its corruption or severity, else all."""
    named = [part for part in parts if key.removeprefix("severity_") in part.split("/")]
    return named or list(parts)


def attacks_on(results: Results, benchmark: str) -> list[str]:
    """Return the attacks that a benchmark was put under, in their order."""
    return [name for name in dict.fromkeys(c.attack for c in results if c.benchmark == benchmark) if name != CLEAN]


def slice_table(results: Results) -> Table:
    """Return every cell with its accuracy, Wilson's 95 % interval, clean accuracy of the same images, mean cost.

    A cell of which no image could be read has none of these.
    """
    rows: Table = []
    for cell, verdicts in results.items():
        count = len(verdicts.right)
        interval = asdict(wilson_interval(int(verdicts.right.sum()), count)) if count else dict(NO_INTERVAL)
        costs = {"gradients": verdicts.num_gradients, "queries": verdicts.num_queries}
        rows.append(
            {**_named(cell), **interval, "non_finite": int(verdicts.non_finite.sum())}
            | {"clean": share_of(_clean(results, cell)) if count else None}
            | {f"mean_{name}": cost / count if count else None for name, cost in costs.items()}
        )
    return rows


def paired_table(first: Results, second: Results) -> Table:
    """Return McNemar's exact test of two models in every cell that has images.

    Raises ValueError where the models' images are not the same.
    """
    rows: Table = []
    for cell, verdicts in first.items():
        other = second[cell]
        if list(verdicts.keys) != list(other.keys):
            raise ValueError(f"keys: the two models have other pictures of {cell}; valid: the same, in one order")
        if len(verdicts.right):
            rows.append({**_named(cell), **asdict(mcnemar(verdicts.right, other.right))})
    return rows


def class_table(results: Results) -> Table:
    """Return clean and robust accuracy of every class in every slice; robust is right under all seeds of an attack.

    Slices of one corruption and severity are left out: there are many, of few pictures of a class each.
    """
    rows: Table = []
    for cell in results:
        seeds = _seeds(results, cell.benchmark, cell.attack)
        if "/" in cell.part or cell.seed != seeds[0]:
            continue
        robust = np.logical_and.reduce([results[_at(cell, seed=seed)].right for seed in seeds])
        for entry in class_report(results[cell].labels, _clean(results, cell), robust):
            row = {"benchmark": cell.benchmark, "slice": cell.part, "attack": cell.attack, "label": entry.label}
            row |= {"count": entry.clean.count}
            for name, interval in (("clean", entry.clean), ("robust", entry.robust)):
                row |= {name: interval.accuracy, f"{name}_low": interval.low, f"{name}_high": interval.high}
            rows.append(row)
    return rows


def _clean(results: Results, cell: Cell) -> NDArray[np.bool_]:
    """Return which of a cell's pictures are right without an attack."""
    clean = results[_at(cell, attack=CLEAN, seed=0)]
    if cell.attack == CLEAN:
        return clean.right
    known = dict(zip(clean.keys, clean.right, strict=True))
    return np.array([known[key] for key in results[cell].keys], dtype=bool)


def _at(cell: Cell, **changes: Any) -> Cell:
    return Cell(**{**asdict(cell), **changes})


def _seeds(results: Results, benchmark: str, attack: str) -> list[int]:
    return list(dict.fromkeys(cell.seed for cell in _cells(results, benchmark, attack)))


def _cells(results: Results, benchmark: str, attack: str) -> Iterator[Cell]:
    return (cell for cell in results if cell.benchmark == benchmark and cell.attack == attack)


def _named(cell: Cell) -> dict[str, Any]:
    return {"benchmark": cell.benchmark, "slice": cell.part, "attack": cell.attack, "seed": cell.seed}
