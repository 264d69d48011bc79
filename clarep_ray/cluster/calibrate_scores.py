"""NMI of a calibration's features, computed as Ray Data tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from clarep_ray.analysis.calibration import DrawnNmi, Draws, nmi_of_draws
from clarep_ray.cluster import runtime
from clarep_ray.cluster.calibrate import Session
from clarep_ray.cluster.extract import TASK_CPUS
from clarep_ray.data.parts import LABELS, Parts

Column = tuple[str, str]
"""Group of parts and name of the array in it."""


def score_columns(session: Session, columns: Sequence[Column]) -> dict[Column, DrawnNmi]:
    """Return the NMI of each column of features for every class draw, computed as Ray Data tasks."""
    score = partial(score_column, parts=session.context.parts, draws=session.draws, seed=session.config.seed)
    return {(row.pop("group"), row.pop("name")): DrawnNmi(**row) for row in _score_stream(score, columns)}


def score_column(table: pa.Table, parts: Parts, draws: Draws, seed: int) -> pa.Table:
    """Return the rows (group, name) of a table with the NMI of their features."""
    rows: list[dict[str, Any]] = table.to_pylist()
    for row in rows:
        features, labels = parts.column(row["group"], row["name"]), parts.column(row["group"], LABELS)
        good = parts.column(row["group"], "ok") if "ok" in parts.names(row["group"]) else np.ones(len(labels), bool)
        row |= asdict(nmi_of_draws(features[good], labels[good], draws, seed))
    return pa.Table.from_pylist(rows)


def _score_stream(score: Callable[[pa.Table], pa.Table], columns: Sequence[Column]) -> Iterator[dict[str, Any]]:
    runtime.connect()  # before Ray is imported, which reads its environment then; all pieces may have been done before
    import ray

    runtime.quiet_ray_data()
    rows = [{"group": group, "name": name} for group, name in columns]
    scored = ray.data.from_items(rows, override_num_blocks=min(len(rows), 64)).map_batches(
        score, batch_size=None, batch_format="pyarrow", num_cpus=1.0 - TASK_CPUS
    )
    yield from scored.iter_rows()
