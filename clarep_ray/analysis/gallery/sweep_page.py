"""The page of a sweep: the front of any two columns, parallel coordinates, and the table of trials."""

from __future__ import annotations

from pathlib import Path

from clarep_ray.analysis.gallery.page import render, write
from clarep_ray.analysis.gallery.sweep_table import is_sweep, payload_of, read_sweep

__all__ = ["is_sweep", "write_sweep_page"]

PAGE = "report.html"
SCRIPTS = ("static/sweep.js", "static/sweep_charts.js", "static/sweep_rows.js")


def write_sweep_page(folder: Path) -> Path:
    """Write `report.html` into a sweep's folder and return its path; ValueError where the folder is no sweep's."""
    table = read_sweep(folder)
    page = render(
        "sweep.html",
        SCRIPTS,
        payload_of(table),
        name=table.name,
        table=table,
        num_complete=sum(trial.complete for trial in table.trials),
        best=table.best,
    )
    write(page, folder / PAGE)
    return folder / PAGE
