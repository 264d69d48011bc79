"""CaDistill, its baselines and its controls on the embedded digits, over the same seeds: one Ray task per training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from clarep_ray import dotted, tracking
from clarep_ray.analysis.paired import difference_table
from clarep_ray.analysis.tables import SeedTable, mean_std
from clarep_ray.cluster import runtime
from clarep_ray.cluster.digits_student import COLUMNS, PGD_COLUMN, PGD_EPS_255, PGD_STEP_255, PGD_STEPS, evaluate_one
from clarep_ray.cluster.distill import tell_student, with_absolute_paths
from clarep_ray.cluster.tracked import start_student, start_students
from clarep_ray.config import DistillConfig
from clarep_ray.data.durable import make_folder
from clarep_ray.data.inside import refuse_links, write_inside
from clarep_ray.data.owner import owned

ROWS: Mapping[str, Mapping[str, Any]] = {
    "vanilla": {"method": "vanilla"},
    "dmdistill": {"method": "dmdistill"},
    "cfgdistill": {"method": "cfgdistill", "clareps.pictures": "guidance"},
    "cadistill": {"method": "cadistill"},
    "cadistill of random": {"method": "cadistill", "clareps.pictures": "random@3"},
    "cadistill of shrink": {"method": "cadistill", "clareps.pictures": "shrink@3"},
    "cadistill of clarid@1": {"method": "cadistill", "clareps.pictures": "clarid@1"},
    "cadistill of reconstruction": {"method": "cadistill", "clareps.pictures": "reconstruction"},
}
"""What is compared: changes to the config. The controls are CaDistill with other pictures for CLAReps.

Guidance and projection make a square of four: cfgdistill (guided, not projected), cadistill (both), clarid@1
(projected alone) and reconstruction (neither).
"""


def compare(config: DistillConfig, seeds: Sequence[int], say: Callable[[str], None] = print) -> SeedTable:
    """Train every row of ROWS with every seed, measure, and return the table; what is finished already is read.

    Writes `compare.md` (the table, and paired differences to vanilla and to CaDistill) and `compare.csv` to the
    output folder. Raises ValueError, before Ray starts, where the pictures of a row are missing, the images are
    not the embedded ones, or there are fewer than two seeds.
    """
    with owned(Path(config.output), config.take_over, say, setting="take-over"):
        return _compare(config, seeds, say)


def _compare(config: DistillConfig, seeds: Sequence[int], say: Callable[[str], None]) -> SeedTable:
    config = with_absolute_paths(config)
    root = Path(config.output)
    runs = plan_runs(config, seeds)
    runtime.connect()
    import ray

    task = ray.remote(num_cpus=1, max_retries=3)(evaluate_one)
    waiting = {task.remote(dotted.flatten(run)): name for name, run in runs.items()}
    found: dict[tuple[str, int], dict[str, float]] = {}
    with start_students(config, "compare", seeds) as run:
        while waiting:
            (done,), _ = ray.wait(list(waiting))
            row, seed = waiting.pop(done)
            found[row, seed] = ray.get(done)
            say(f"{len(found)}/{len(runs)} {row}, seed {seed}: {found[row, seed]}")
            _tell_one(runs[row, seed], row, found[row, seed], run.id)
        return _publish(run, root, tabulate(found, seeds), say)


def _tell_one(config: DistillConfig, row: str, accuracy: Mapping[str, float], parent: str | None) -> None:
    """Tell MLflow, as a run nested in the comparison's, what a training that has finished came to."""
    from clarep_ray.cadistill.run import METRICS, read_result

    result = read_result(Path(config.output))
    with start_student(config, result["fingerprint"], result, parent, row) as run:
        run.tags({"row": row})
        tracking.tell_lines(run, Path(config.output) / METRICS, "epoch")
        run.metrics({f"test/{column}": share for column, share in accuracy.items()})
        tell_student(run, config, result)


def plan_runs(config: DistillConfig, seeds: Sequence[int]) -> dict[tuple[str, int], DistillConfig]:
    """Return {(row, seed): config}; ValueError as `compare` says."""
    from clarep_ray.cadistill.run import prepare

    if len(set(seeds)) < 2:
        raise ValueError(f"--seeds: {tuple(seeds)!r} is not valid; valid: two or more different seeds")
    for name in ("data", "val"):
        source = getattr(config, name).source
        if source != "spurious_digits":
            raise ValueError(f"{name}.source: {source!r} is not valid; valid: spurious_digits (--preset compare)")
    runs: dict[tuple[str, int], DistillConfig] = {}
    for row, changes in ROWS.items():
        for seed in seeds:
            folder = str(refuse_links(Path(config.output), f"{row.replace(' ', '_')}/seed-{seed}"))
            runs[row, seed] = dotted.override(config, {**changes, "seed": seed, "output": folder})
        prepare(runs[row, seeds[0]])
    return runs


def tabulate(found: Mapping[tuple[str, int], Mapping[str, float]], seeds: Sequence[int]) -> SeedTable:
    """Return the table of accuracies, one number per seed in every cell."""
    rows = list(dict.fromkeys(row for row, _ in found))
    known = [row for row in ROWS if row in rows]
    values = {row: {column: [found[row, seed][column] for seed in seeds] for column in COLUMNS} for row in known}
    return SeedTable("last student", COLUMNS, values)


def describe(table: SeedTable) -> str:
    """Return the table and its paired differences as markdown."""
    num_seeds = len(table.values["vanilla"][PGD_COLUMN])
    return "\n\n".join(
        (
            table.markdown(),
            f"Mean +- standard deviation over {num_seeds} seeds. Below: mean of the paired differences +- its "
            "standard error, and p of the two-sided paired t-test after Holm over the rows of a column.",
            difference_table(table, "vanilla"),
            difference_table(table, "cadistill"),
            f"{PGD_COLUMN}: L-infinity, {PGD_EPS_255:g}/255, {PGD_STEPS} steps of {PGD_STEP_255:g}/255 "
            "from the picture itself; a picture counts only where it is right at every step.",
        )
    )


def _publish(run: tracking.Run, root: Path, table: SeedTable, say: Callable[[str], None]) -> SeedTable:
    text = describe(table)
    make_folder(root)
    write_inside(root, "compare.md", f"{text}\n".encode())
    write_inside(root, "compare.csv", table.csv().encode())
    run.metrics(
        {f"{column}/{row}": mean_std(cells[column])[0] for row, cells in table.values.items() for column in cells}
    )
    run.note(text)
    run.files([root / "compare.md", root / "compare.csv"])
    say(f"\n{text}\n\ntable: {root}/compare.md, compare.csv")
    return table
