"""What an evaluation found: verdicts by classifier, tables in the paper's shapes, and the page of text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from clarep_ray.cluster.evaluate import Session, no_answers
from clarep_ray.cluster.evaluate_units import CLEAN
from clarep_ray.data.text_tables import markdown, markdown_table
from clarep_ray.robustness import results as found_in
from clarep_ray.robustness.results import Cell, Verdicts
from clarep_ray.robustness.statistics import TABLES, Figure, ResultTable, paper_table
from clarep_ray.robustness.trust import Finding

ROLES = ("evaluated", "compared")
"""What the classifiers are called where names must not depend on folders."""
SHARE = 100
"""Accuracies are shares in files and percent in tables."""
OF_THE_SAME_IMAGES = "clean"
"""Below an attack's metric: the accuracy of the same images without it."""


@dataclass(frozen=True)
class Found:
    """All results of an evaluation by the classifiers' names."""

    session: Session
    trust: dict[str, list[Finding]]
    results: dict[str, dict[Cell, Verdicts]]
    rejects: dict[str, int]

    @cached_property
    def figures(self) -> dict[str, dict[str, Figure]]:
        return {model: found_in.figures(results, self.session.benchmarks) for model, results in self.results.items()}

    def by_model(self, table: Callable[[dict[Cell, Verdicts]], found_in.Table]) -> found_in.Table:
        """Return the rows of a table for every classifier."""
        return [{"model": model, **row} for model, results in self.results.items() for row in table(results)]

    @cached_property
    def paired(self) -> found_in.Table:
        """McNemar's tests of the two classifiers; no row where there is one."""
        return found_in.paired_table(*self.results.values()) if len(self.results) == 2 else []


def result_tables(found: Found) -> dict[str, ResultTable]:
    """Return the paper's tables that this evaluation fills, and one of every benchmark: a line per model and slice."""
    figures, tables = found.figures, dict[str, ResultTable]()
    for name, columns in TABLES.items():
        told = {key for column, key in columns.items() if column not in ("Clean", "Original")}
        if any(key in known for known in figures.values() for key in told):
            tables[name] = paper_table(name, figures)
    for name in found.session.benchmarks:
        tables[f"slices_{name}"] = _slice_table(found, figures, name)
    return tables


def _slice_table(found: Found, figures: Mapping[str, Mapping[str, Figure]], benchmark: str) -> ResultTable:
    attacks = found_in.attacks_on(next(iter(found.results.values())), benchmark)
    rows: dict[str, dict[str, Figure]] = {}
    for model, known in figures.items():
        for key, figure in known.items():
            mine = key.startswith(f"{benchmark}/") and figure.clean is None
            if mine and key != f"{benchmark}/top1":  # `clean` is the same
                whole = benchmark if key == f"{benchmark}/{CLEAN}" else key
                under = {attack: known[f"{whole}/{attack}"] for attack in attacks if f"{whole}/{attack}" in known}
                line = f"{model}: {'all' if whole == benchmark else key.removeprefix(f'{benchmark}/')}"
                rows[line] = {CLEAN: figure, **under}
    return ResultTable(benchmark, (CLEAN, *attacks), rows).over_the_same_images(CLEAN)


def non_finite_images(results: Mapping[Cell, Verdicts]) -> dict[str, int]:
    """Return {benchmark/slice/attack/seed: images with a logit that is not finite}, where there are any."""
    return {
        f"{cell.benchmark}/{cell.part}/{cell.attack}/{cell.seed}": int(verdicts.non_finite.sum())
        for cell, verdicts in results.items()
        if verdicts.non_finite.any()
    }


def require_answers(found: Found) -> None:
    """Raise ValueError where all logits of a classifier on a benchmark are of no use: there is nothing to report."""
    for weights, results in zip(found.session.config.classifier.all_weights, found.results.values(), strict=True):
        for benchmark in found.session.benchmarks:
            clean = [v for cell, v in results.items() if (cell.benchmark, cell.attack) == (benchmark, CLEAN)]
            images, bad = sum(len(v.right) for v in clean), sum(int(v.non_finite.sum()) for v in clean)
            if images and bad == images:
                raise ValueError(no_answers(weights, benchmark, images))


def tracked_metrics(found: Found, cost: Mapping[str, float]) -> dict[str, float]:
    """Return means over seeds, failed trust checks where any was run, and the speed of this process.

    Names hold no folder: `benchmark/slice`, and `benchmark/slice/attack/budget` (eps / 255, or c of cw), which saw
    `images/benchmark/slice/attack` images; `benchmark/slice/attack/clean` is their accuracy without it. `non_finite`
    counts images with a logit that is not finite, without an attack. Of the second classifier the same below
    `compared/`.
    """
    metrics = {f"speed/{name}": value for name, value in cost.items() if cost["wall_s"]}
    for role, (model, figures) in zip(ROLES, found.figures.items(), strict=False):
        prefix = "" if role == ROLES[0] else f"{role}/"
        means = {key: float(np.mean(figure.values)) for key, figure in figures.items()}
        metrics |= {f"{prefix}{_with_budget(found, key)}": mean for key, mean in means.items() if np.isfinite(mean)}
        metrics |= {
            f"{prefix}{key}/{OF_THE_SAME_IMAGES}": figure.clean
            for key, figure in figures.items()
            if figure.clean is not None and np.isfinite(figure.clean)
        }
        metrics |= {f"{prefix}images/{key}": float(figure.images) for key, figure in figures.items()}
        clean = [v.non_finite.sum() for cell, v in found.results[model].items() if cell.attack == CLEAN]
        metrics[f"{prefix}non_finite"] = float(sum(clean))
        if model in found.trust:  # none failed and none was run are not the same
            metrics[f"{prefix}trust_failed"] = float(sum(not finding.passed for finding in found.trust[model]))
    return metrics


def _with_budget(found: Found, key: str) -> str:
    attacks, last = found.session.config.attacks, key.rpartition("/")[2]
    if last not in found_in.attacks_on(next(iter(found.results.values())), key.partition("/")[0]):
        return key
    return f"{key}/c{attacks.cw.c:g}" if last == "cw" else f"{key}/{attacks.eps_255:g}"


def report_text(found: Found) -> str:
    """Return the page of text: trust checks, tables, and the comparison of two classifiers."""
    attacks = found.session.config.attacks
    lines = [f"# Robustness of {' and '.join(map(markdown, found.results))}", ""]
    if found.session.config.attacked:
        lines += [
            f"L-inf budget {attacks.eps_255:g}/255 (cw: L2, c = {attacks.cw.c:g}); {attacks.implementation} attacks.",
            "",
        ]
    lines += [*_label_lines(found), *view_lines(found.session), ""]
    lines += [*_trust_lines(found), *_reject_lines(found), *_non_finite_lines(found)]
    lines += [
        "Accuracy in percent; of several seeds mean +- standard deviation; in parentheses how many images it is over. "
        "Clean accuracy beside an attack is that of the attack's images.",
        "",
    ]
    for table in result_tables(found).values():
        lines += [table.markdown(), ""]
    return "\n".join([*lines, *_paired_lines(found)]).rstrip()


def view_lines(session: Session) -> Iterator[str]:
    """Yield how each classifier sees images, and where that is not as they are stored or not as the other one does."""
    settings = session.config.benchmarks
    given = [name for name in ("image_size", "resize", "interpolation") if getattr(settings, name) is not None]
    whose = f"benchmarks.{', benchmarks.'.join(given)} and its own config" if given else "its own config"
    for model, view in session.views.items():
        yield f"Images for {markdown(model)}: {view.text} ({whose})."
        other = {name: side for name, side in session.stored.items() if side != view.image_size}
        for name, side in other.items():
            yield f"{name}: stored with {side} pixels, resized to {view.image_size} for {markdown(model)}."
    if len({view.image_size for view in session.views.values()}) > 1:
        yield "The two classifiers have other input sides: no attack is transferred between them."
    if len(set(session.views.values())) > 1 and session.stored.keys() != session.benchmarks.keys():
        yield "The two classifiers see images differently: their accuracies differ by that too."


def _trust_lines(found: Found) -> Iterator[str]:
    for model, findings in found.trust.items():
        rows: list[tuple[str, ...]] = []
        for finding in findings:
            numbers = ", ".join(f"{name} {value:.3g}" for name, value in finding.numbers.items())
            verdict = "yes" if finding.passed else f"NO ({finding.severity})"
            rows.append((finding.name, verdict, numbers, finding.meaning))
        yield from (markdown_table((f"trust checks: {model}", "passed", "numbers", "a failure means"), rows), "")
    if not found.trust and found.session.config.attacked:
        yield from ("No trust check was run: robust accuracies may come from masked gradients.", "")


def _reject_lines(found: Found) -> Iterator[str]:
    if found.rejects:
        counts = ", ".join(f"{count} {reason}" for reason, count in found.rejects.items())
        yield from (f"Pictures that could not be read are in no figure: {counts}.", "")


def _label_lines(found: Found) -> Iterator[str]:
    """Say how each classifier's labels became each benchmark's, and which of its logits compete."""
    for model, benchmarks in found.session.labels.items():
        for benchmark, line in benchmarks.items():
            yield f"- {markdown(f'labels of {model} on {benchmark}: {line}')}"
    yield ""


def _non_finite_lines(found: Found) -> Iterator[str]:
    """Say which answers are no answers; without attack and under it apart, for there an attack may have done it."""
    for model, results in found.results.items():
        for attacked, what in ((False, "without an attack"), (True, "as an attack left them (all seeds)")):
            some = [v for cell, v in results.items() if (cell.attack != CLEAN) == attacked]
            bad, images = sum(int(v.non_finite.sum()) for v in some), sum(len(v.right) for v in some)
            if bad:
                yield from (
                    f"{markdown(model)}: {bad} of {images} images {what} give logits that are not finite (NaN or "
                    "infinite); they count as wrong.",
                    "",
                )


def _paired_lines(found: Found) -> Iterator[str]:
    if not found.paired:
        return
    first, second = found.results
    titles = (f"{first} less {second}", "images", "difference", f"only {first}", f"only {second}", "McNemar p")
    rows: list[tuple[str, ...]] = []
    for row in found.paired:
        where = f"{row['benchmark']}/{row['slice']}/{row['attack']}, seed {row['seed']}"
        difference = f"{SHARE * row['difference']:+.1f}"
        counts = (str(row["count"]), difference, str(row["only_first"]), str(row["only_second"]))
        rows.append((where, *counts, f"{row['p_value']:.2g}"))
    yield markdown_table(titles, rows)
