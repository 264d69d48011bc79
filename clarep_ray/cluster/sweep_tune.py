"""Trials on Ray Tune: as many at a time as the cluster has room for, each writing its own rows."""

from __future__ import annotations

import json
import logging
import math
import os
import uuid
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

from clarep_ray.cluster import runtime
from clarep_ray.cluster.sweep_rows import (
    Row,
    Status,
    ask_point,
    by_trial,
    claim,
    commit_row,
    is_good,
    point_of,
    read_row,
)
from clarep_ray.cluster.sweep_study import MAX_REASON, Cell, Study, make_row, row_key, run_cell, trial_name
from clarep_ray.config import Block, Point, Range, SearchConfig
from clarep_ray.data.inside import refuse_links

OBJECTIVE, EPOCH = "objective", "epoch"
MAX_FAILURES = 2
"""How often a trial whose process died, or whose machine failed, is started again."""
REDUCTION = 3
"""ASHA keeps the best of so many (Li et al. 2020: 4)."""


@dataclass(frozen=True)
class Trials:
    """What every trial needs, small and picklable."""

    study: Study
    search: SearchConfig
    metric: str
    session: str = field(default_factory=lambda: uuid.uuid4().hex[:8])

    def cells(self, choice: Mapping[str, Any]) -> list[Cell]:
        """Return what a trial of Tune stands for: cells that were given, or the point of a search with every seed."""
        if "cells" in choice:
            return [(point_of(point), seed) for point, seed in choice["cells"]]
        return [(decoded(choice), seed) for seed in self.search.seeds]


def run_trial(choice: dict[str, Any], trials: Trials) -> None:
    """Run the cells of one Tune trial in its worker and report the mean of the metric; all faults but the machine's
    are rows."""
    from ray import tune

    study = trials.study

    def on_epoch(epoch: int, value: float) -> None:
        if trials.search.asha:
            tune.report({OBJECTIVE: value, EPOCH: epoch})

    cells = trials.cells(choice)
    if trials.search.method == "optuna" and not _first_to_ask(trials, cells[0][0]):
        tune.report({OBJECTIVE: math.nan, EPOCH: 0})
        return
    rows = [run_cell(study, point, seed, trials.metric, on_epoch) for point, seed in cells]
    value = math.fsum(row.metrics.get(trials.metric, math.nan) for row in rows) / len(rows)
    good = all(is_good(row, trials.metric) for row in rows)
    tune.report({OBJECTIVE: value if good else math.nan, EPOCH: (study.num_epochs or 0) + 1})


def _first_to_ask(trials: Trials, point: Point) -> bool:
    """Note what a search asks for; False where another trial is at it: a search of few values repeats itself."""
    from ray import tune

    name = trial_name(trials.study, point)
    ask_point(trials.study.root, name, point)
    owner = tune.get_context().get_trial_id()
    assert owner is not None, "this runs in a trial"
    return claim(trials.study.root, f"{trials.session}-{name}", owner)


def tune_cells(trials: Trials, cells: Sequence[Cell], done: Callable[[Row], None]) -> None:
    """Run cells that are known, one trial each."""
    runtime.connect()
    from ray import tune

    space = {"cells": tune.grid_search([[cell] for cell in cells])}
    _fit(trials, done, param_space=space, num_samples=1)


def tune_optuna(trials: Trials, block: Block, mode: str, rows: Sequence[Row], done: Callable[[Row], None]) -> None:
    """Let Optuna choose the points that are still missing, from what the rows say of those that are done.

    The sampler's seed goes on with the number of points, for a restarted one would begin with the same draws.
    """
    runtime.connect()
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    finished = by_trial(rows)
    missing = trials.search.num_trials - len(finished)
    if missing <= 0:
        return
    good = [mine for mine in finished.values() if all(is_good(row, trials.metric) for row in mine)]
    rewards = [math.fsum(row.metrics[trials.metric] for row in mine) / len(mine) for mine in good]
    searcher = OptunaSearch(
        space=cast(Any, distributions(block)),
        metric=OBJECTIVE,
        mode=mode,
        sampler=optuna.samplers.TPESampler(seed=trials.search.sampler_seed + len(finished)),
        points_to_evaluate=[encoded(mine[0].point, block) for mine in good] or None,
        evaluated_rewards=rewards or None,
    )
    _fit(trials, done, search_alg=searcher, num_samples=missing)


def distributions(block: Block) -> dict[str, Any]:
    """Return Optuna's distributions of a block; what is chosen from a list is chosen as JSON text."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    found: dict[str, Any] = {}
    for name, values in block.items():
        if not isinstance(values, Range):
            found[name] = CategoricalDistribution([json.dumps(value) for value in values])
        elif values.whole:
            found[name] = IntDistribution(int(values.low), int(values.high), log=values.log)
        else:
            found[name] = FloatDistribution(values.low, values.high, log=values.log)
    return found


def encoded(point: Point, block: Block) -> dict[str, Any]:
    """Return a point as Optuna knows it."""
    return {name: value if isinstance(block[name], Range) else json.dumps(value) for name, value in point.items()}


def decoded(choice: Mapping[str, Any]) -> Point:
    """Return the point of Optuna's choice."""
    return point_of({name: json.loads(value) if isinstance(value, str) else value for name, value in choice.items()})


def _fit(trials: Trials, done: Callable[[Row], None], **options: Any) -> None:
    """Run one Tune experiment. Its own files are not used to continue: what counts are the rows."""
    cluster = runtime.connect()
    quiet_tune()
    from ray import tune

    study, search = trials.study, trials.search
    needs = needs_of_a_trial(study, cluster)
    param_space = options.pop("param_space", {})
    tune.Tuner(
        tune.with_resources(partial(run_trial, trials=trials), needs),
        param_space=param_space,
        tune_config=tune.TuneConfig(
            scheduler=_asha(trials) if search.asha else None,
            max_concurrent_trials=search.at_once,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: trial.trial_id,
            **options,
        ),
        run_config=tune.RunConfig(
            name=f"tune-{uuid.uuid4().hex[:8]}",
            storage_path=str(refuse_links(study.root, "ray")),
            failure_config=tune.FailureConfig(max_failures=MAX_FAILURES),
            callbacks=[_rows_callback(trials, done)],
            verbose=0,
        ),
    ).fit()


def needs_of_a_trial(study: Study, cluster: Mapping[str, float]) -> dict[str, float]:
    """Return what Tune reserves for a trial; ValueError where the cluster lacks it and does not grow."""
    needs = study.resources(cluster)
    lacking = any(cluster.get(name, 0.0) < need for name, need in needs.items())
    if lacking and not study.waits_for_machines:
        raise ValueError(f"resources: a trial needs {needs}, and the cluster has {dict(cluster)}")
    return needs


def _asha(trials: Trials) -> Any:
    from ray.tune.schedulers import ASHAScheduler

    assert trials.study.num_epochs is not None, "checked before"
    most = trials.study.num_epochs + 1  # the report after the last epoch; the scheduler ends a trial there
    return ASHAScheduler(
        time_attr=EPOCH,
        metric=OBJECTIVE,
        mode="max",
        max_t=most,
        grace_period=min(trials.search.grace_epochs, most),
        reduction_factor=REDUCTION,
    )


def _rows_callback(known: Trials, done: Callable[[Row], None]) -> Any:
    """Return Tune's callback that hands on every finished row, and makes those that a trial could not make itself."""
    from ray.tune import Callback

    study = known.study

    class Rows(Callback):
        seen: dict[str, tuple[int, float]] = {}  # noqa: RUF012  (one sweep, one instance)

        def __reduce__(self) -> Any:
            return Callback, ()  # Tune saves its callbacks to continue an experiment, which we do by the rows

        def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any):
            if OBJECTIVE in result:
                self.seen[trial.trial_id] = (result[EPOCH], result[OBJECTIVE])

        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any):
            epoch, value = self.seen.get(trial.trial_id, (0, math.nan))
            reached = {"epoch": float(epoch), known.metric: value}
            self.close(trial, "stopped" if known.search.asha else None, f"by ASHA after epoch {epoch}", reached)

        def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any):
            self.close(trial, "failed", _why(trial), {})

        def close(self, trial: Any, status: Status | None, reason: str, metrics: dict[str, float]) -> None:
            for point, seed in known.cells(trial.config):
                row = read_row(study.root, row_key(study, point, seed))
                if row is None and status is not None:
                    row = make_row(study, point, seed, status=status, metrics=metrics, reason=reason)
                    commit_row(study.root, row)
                if row is not None:
                    done(row)

    return Rows()


def _why(trial: Any) -> str:
    """Return why a trial was given up, in a line: what its last failure says.

    `Trial.get_error` reads the copy in the storage folder, which Tune may not have made yet.
    """
    path = Path(trial.error_file) if trial.error_file else None
    text = path.read_text(errors="replace") if path is not None and path.is_file() else ""
    lines = [line.strip() for line in text.rpartition("Failure # ")[2].splitlines() if line.strip()]
    if any("ActorDiedError" in line or "worker process has died" in line for line in lines):
        return f"its process died {MAX_FAILURES + 1} times"
    return (lines[-1] if lines else "unknown")[:MAX_REASON]


def line_of(row: Row, metric: str) -> str:
    """Return what one row came to, as a line."""
    point = ", ".join(f"{name.rpartition('.')[2]} {value}" for name, value in row.point.items())
    value = f"{metric} {row.metrics[metric]:.4f}" if metric in row.metrics else ""
    return f"{row.status:<8}{point}, seed {row.seed}: {value or row.reason}  ({row.wall_s:.0f} s)"


def quiet_tune() -> None:
    """Keep Tune's own tables, warnings and log files out of the way."""
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # which would swallow Ctrl-C: `stopping` ends the sweep
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S", "0")
    for name in ("ray.tune", "ray.train", "ray.air"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what fails is a row, and is said as one
    warnings.filterwarnings("ignore", module=r"ray\.tune")
