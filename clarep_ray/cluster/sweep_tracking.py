"""A sweep in MLflow: one run for the whole of it, and one nested in it for every row."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clarep_ray import dotted, tracking
from clarep_ray.cluster.sweep_report import PLOT, SUMMARY, TABLE, TRIALS
from clarep_ray.cluster.sweep_rows import Row, by_trial
from clarep_ray.cluster.sweep_study import Study, trial_folder
from clarep_ray.data.inside import has_file_inside, make_folders_inside, read_text_inside
from clarep_ray.data.store import RUN
from clarep_ray.data.untrusted import MAX_TEXT_BYTES
from clarep_ray.tracking import Run


class SweepRun:
    """What a sweep tells. Where a server does not take a row, the others are left in their outboxes, unwaited for."""

    def __init__(self, run: Run, study: Study) -> None:
        self._run, self._study = run, study
        self._told: set[str] = set()
        self._trouble = False

    def row(self, row: Row) -> None:
        """Tell a row as a nested run; a row that was told before, by an earlier process too, is one run."""
        if self._run.id is None or row.key in self._told:
            return
        self._told.add(row.key)
        folder = trial_folder(self._study, row.point, row.seed)
        make_folders_inside(self._study.root, folder.relative_to(self._study.root).as_posix())
        short = ", ".join(f"{name.rpartition('.')[2]} {value}" for name, value in row.point.items())
        child = tracking.start_run(
            self._study.config.tracking,
            f"{short}, seed {row.seed}",
            folder,
            job=f"{self._study.job} trial",
            fingerprint=row.key,
            parent=self._run.id,
            tags={"trial": row.trial, "status": row.status} | ({"reason": row.reason} if row.reason else {}),
        )
        child.params(dotted.flatten(self._study.seeded(row.point, row.seed)))
        child.metrics({name: value for name, value in row.metrics.items() if value == value} | {"wall_s": row.wall_s})
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            child.close("FAILED" if row.status == "failed" else "FINISHED", wait=not self._trouble)
        if caught:
            self._trouble = True
            warnings.warn(str(caught[0].message), stacklevel=2)

    def finish(self, rows: Sequence[Row], summary: Mapping[str, Any]) -> None:
        """Tell the rows that were not told yet, and what came out: table, picture and the best trial."""
        for row in rows:
            self.row(row)
        run, root, best = self._run, self._study.root, summary["best"]
        run.metrics(
            {"num_trials": float(len(by_trial(rows)))} | {f"rows/{k}": float(n) for k, n in summary["status"].items()}
        )
        if best is not None:
            run.metrics({f"best/{summary['metric']}": best["mean"]})
            run.tags({"best": best["trial"], "best_point": str(best["point"])})
        for name in (TRIALS, SUMMARY, TABLE, PLOT, RUN):
            if has_file_inside(root, name):
                run.artifact(root / name)
        if has_file_inside(root, TABLE):
            run.note(read_text_inside(root, TABLE, MAX_TEXT_BYTES))
        if has_file_inside(root, PLOT):
            run.image(Path(PLOT).stem, root / PLOT)
