"""A sweep from its search space to its table; resumable, for every finished trial has committed its row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from clarep_ray import dotted, tracking
from clarep_ray.cluster.distill import with_absolute_paths
from clarep_ray.cluster.identity import check_same_run
from clarep_ray.cluster.plan import self_contained
from clarep_ray.cluster.sweep_cadistill import CadistillStudy
from clarep_ray.cluster.sweep_clarid import ClaridStudy
from clarep_ray.cluster.sweep_report import publish
from clarep_ray.cluster.sweep_rows import CLAIMS, POINTS, ROWS, Row, asked_points, read_row, take_out_failed
from clarep_ray.cluster.sweep_space import check_space, choices, fields_of, holds, planned_points, read_space
from clarep_ray.cluster.sweep_study import Cell, Study, at_point, row_key
from clarep_ray.cluster.sweep_tracking import SweepRun
from clarep_ray.cluster.sweep_tune import Trials, line_of, tune_cells, tune_optuna
from clarep_ray.config import DistillConfig, ExtractConfig, Point, Range, SearchConfig, Space
from clarep_ray.data.durable import make_folder
from clarep_ray.data.inside import make_folders_inside
from clarep_ray.data.owner import owned
from clarep_ray.data.store import WORK, OutputStore
from clarep_ray.presets import Sweep
from clarep_ray.tracking import in_submitted_job

Say = Callable[[str], None]


def sweep_clarid(config: ExtractConfig, sweep: Sweep, search: SearchConfig, name: str, say: Say = print) -> list[Row]:
    """Sweep CLARID into `output.path`, or continue there, and return the rows; raises as `run_sweep`."""
    _check_output(config.output.path, "output.path")
    dotted.check_local("output.from_spectrum", config.output.from_spectrum)
    space = _space(sweep, search)
    check_space(space, config, search)
    with owned(Path(config.output.path), config.engine.take_over, say):
        return run_sweep(ClaridStudy(self_contained(config), space), space, sweep, search, name, say)


def sweep_cadistill(
    config: DistillConfig, sweep: Sweep, search: SearchConfig, name: str, say: Say = print
) -> list[Row]:
    """Sweep CaDistill into `output`, or continue there, and return the rows; raises as `run_sweep`."""
    _check_output(config.output, "output")
    space = _space(sweep, search)
    check_space(space, config, search)
    with owned(Path(config.output), config.take_over, say, setting="take-over"):
        return run_sweep(CadistillStudy(with_absolute_paths(config)), space, sweep, search, name, say)


def _check_output(path: str, field: str) -> None:
    dotted.check_local(field, path)
    if in_submitted_job() and not Path(path).is_absolute():
        raise ValueError(
            f"{field}: {path!r} is relative, and a submitted job runs in a temporary copy of the working folder; "
            "valid: an absolute path that every node sees"
        )


def _space(sweep: Sweep, search: SearchConfig) -> Space:
    return sweep.space if search.space is None else read_space(search.space)


def run_sweep(study: Study, space: Space, sweep: Sweep, search: SearchConfig, name: str, say: Say) -> list[Row]:
    """Run what of a sweep has no row yet, and write its table; return the rows, also of failed trials.

    More seeds, values or trials may be added in the same folder. Raises ValueError for a wrong space or setting and
    ResumeRefused where the folder holds another sweep, before Ray starts; RuntimeError where no trial is good.
    """
    metric, mode = _objective(study, sweep, search)
    points = planned_points(space, search)
    _check_points(study, points, space, search)
    fingerprint = _open_folder(study, search, say)
    title, settings = f"{study.job} {name}", study.config.tracking
    tags = {"sweep": name, "metric": metric}
    with tracking.start_run(settings, title, study.root, job=study.job, fingerprint=fingerprint, tags=tags) as run:
        run.params(dotted.flatten(study.config) | dotted.flatten(search, "search."))
        told = SweepRun(run, study)

        def done(row: Row) -> None:
            say(line_of(row, metric))
            told.row(row)

        rows = _run_missing(Trials(study, search, metric), points, space, mode, done, say)
        out = publish(study, rows, sweep, search, name=name, metric=metric, mode=mode, fields=fields_of(space), say=say)
        told.finish(rows, out)
    if run.browse:
        say(f"browse   {run.browse}")
    return rows


def _run_missing(
    trials: Trials, points: list[Point], space: Space, mode: str, done: Callable[[Row], None], say: Say
) -> list[Row]:
    """Run every point and seed that has no row, then what Optuna asks for beyond them; return all rows."""
    study, search = trials.study, trials.search
    searches = search.method == "optuna"
    cells = [(point, seed) for point in (_asked(study, space) if searches else points) for seed in search.seeds]
    missing = [cell for cell in cells if _row(study, cell) is None]
    say(f"{len(cells) - len(missing)} of {len(cells)} rows (trial and seed) are done")
    if missing:
        study.prepare(missing, say)
        # ASHA compares with trials that are done: these report again what they came to, at no cost.
        tune_cells(trials, cells if search.asha else missing, done)
    if searches:
        study.prepare([(point, seed) for point in _corners(study, space) for seed in search.seeds], say)
        before = -1
        while before < (count := len(_asked(study, space))) < search.num_trials:  # it may ask for the same point twice
            before = count
            tune_optuna(trials, space[0], mode, _rows(study, cells), done)
            cells = [(point, seed) for point in _asked(study, space) for seed in search.seeds]
    return _rows(study, cells)


def _asked(study: Study, space: Space) -> list[Point]:
    """Return the points that Optuna has asked for before, as far as they belong to the space."""
    return [point for point in asked_points(study.root) if holds(space[0], point)]


def _rows(study: Study, cells: Sequence[Cell]) -> list[Row]:
    return [row for cell in cells if (row := _row(study, cell)) is not None]


def _row(study: Study, cell: Cell) -> Row | None:
    return read_row(study.root, row_key(study, *cell))


def _objective(study: Study, sweep: Sweep, search: SearchConfig) -> tuple[str, str]:
    """Return metric and mode; ValueError for a metric that the trials do not have."""
    metric, mode = search.metric or sweep.metric, search.mode or sweep.mode
    if search.asha:
        if study.num_epochs is None:
            raise ValueError("search.asha: True is not valid; valid: False (an extraction has no epochs to stop at)")
        metric, mode = "val_accuracy", "max"
    if metric not in study.metrics:
        raise ValueError(f"search.metric: {metric!r} is not valid; valid: {', '.join(study.metrics)}")
    return metric, mode


def _check_points(study: Study, points: Sequence[Point], space: Space, search: SearchConfig) -> None:
    """Raise ValueError for a point that is no valid config or cannot be run, naming the point."""
    for point in points or _corners(study, space):
        with at_point(point):
            study.seeded(point, search.seeds[0])
    study.check(points or _corners(study, space), search.seeds)
    for name in fields_of(space):
        if any(isinstance(block.get(name), Range) for block in space) and study.has_basis(name):
            raise ValueError(f"{name}: a range is not valid; valid: a list of values (each has an SVD of its own)")


def _corners(study: Study, space: Space) -> list[Point]:
    """Return points that together need everything trials can build on, where the points are not known yet."""
    found: list[Point] = [{}]
    for name in fields_of(space):
        if study.has_basis(name):
            found = [{**point, name: value} for point in found for value in choices(space, name)]
    return found


def _open_folder(study: Study, search: SearchConfig, say: Say) -> str:
    """Make the folder the sweep's, or check that it is, and return the sweep's fingerprint."""
    store = OutputStore(study.root)
    fields = study.identity()
    fresh = not check_same_run(fields, store, "output")
    make_folder(store.root)
    for folder in (WORK, ROWS, POINTS, CLAIMS):
        make_folders_inside(store.root, folder)
    if fresh:
        store.write_run(fields, dotted.flatten(study.config))
    if search.retry_failed and (count := take_out_failed(store.root)):
        say(f"{count} failed trials are run once more")
    return dotted.fingerprint(fields)
