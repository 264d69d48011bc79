"""Pictures of recorded rows show the last run of each configuration, and every row of it."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from clarep_ray.analysis.benchmark_figures import FIGURES, run
from clarep_ray.analysis.limits_benchmark import COLUMNS
from clarep_ray.analysis.recorded_rows import read_rows, record_rows
from clarep_ray.config import SOLVER_NAMES, LimitsBenchmarkConfig, PeersBenchmarkConfig, PlotBenchmarkConfig
from clarep_ray.measured import Table

OURS, THEIRS = SOLVER_NAMES[:2]


def recorded(file: Path) -> list[dict[str, Any]]:
    peers = Table(
        {"solver": "", "M": "d", "products": ".0f", "wall s": ".2f"},
        [(OURS, 16, 49, 0.3), (THEIRS, 16, 1600, 9.0), (OURS, 50, 126, 0.7), (THEIRS, 50, 5000, 28.0)],
    )
    stage = dict.fromkeys(COLUMNS, 0) | {"share of the batch": 0.5, "limit": "memory", "reached": 0.25}
    limits = Table(COLUMNS, [tuple((stage | {"stage": name}).values()) for name in ("invert", "decode", "all of it")])
    deep = Table(peers.columns, [(OURS, 16, 104, 20.0)])
    record_rows(file, "peers", {"benchmark": PeersBenchmarkConfig(model="dit_xl", depth=1)}, [deep])
    for seed in (3, 4):
        record_rows(file, "peers", {"benchmark": PeersBenchmarkConfig(seed=seed)}, [peers])
    for batch in (1, 2):
        record_rows(file, "limits", {"benchmark": LimitsBenchmarkConfig(micro_batch=batch)}, [limits])
    return read_rows(file)


def test_every_solver_and_stage_is_drawn(tmp_path: Path) -> None:
    rows = recorded(tmp_path / "rows.jsonl")
    peers = [row | {"date": f"2026-11-{20 + row['config']['seed']}"} for row in rows if row["kind"] == "peers"]
    figure = FIGURES["peers"][1](peers)
    lines = {line.get_label(): line.get_xydata().tolist() for line in figure.axes[0].get_lines()}
    assert lines == {OURS: [[16, 49], [50, 126]], THEIRS: [[16, 1600], [50, 5000]]}
    assert [(axis.get_yscale(), axis.get_title()) for axis in figure.axes[::2]] == [
        ("log", "digits"),
        ("log", "dit_xl, depth 1"),
    ]
    assert [line.get_xydata().tolist() for line in figure.axes[3].get_lines()] == [[[16, 20]]]
    figure = FIGURES["limits"][1]([row for row in rows if row["kind"] == "limits"])
    assert [axis.get_title() for axis in figure.axes] == ["digits, batch of 1", "digits, batch of 2"]
    assert [bar.get_width() for bar in figure.axes[0].patches] == [25, 25], "the last row is no stage"
    assert figure.axes[0].texts[0].get_text() == "25 % of memory, 50.0 % of the time"


def test_what_can_be_drawn_is_written_and_named(tmp_path: Path) -> None:
    recorded(tmp_path / "rows.jsonl")
    config = PlotBenchmarkConfig(rows=str(tmp_path / "rows.jsonl"), output=str(tmp_path))
    (table,) = run(config)
    pictures = [Path(str(row["picture"])) for row in table.records()]
    assert [path.name for path in pictures] == ["peers.png", "limits.png"]
    assert all(min(Image.open(path, formats=("PNG",)).size) > 300 for path in pictures)
    with pytest.raises(ValueError, match="rows: '/nowhere' is not valid; valid: a file that --record appended to"):
        run(PlotBenchmarkConfig(rows="/nowhere"))
    (tmp_path / "none.jsonl").write_text("")
    with pytest.raises(ValueError, match="has no rows to draw; valid: of peers, limits, products"):
        run(PlotBenchmarkConfig(rows=str(tmp_path / "none.jsonl"), output=str(tmp_path)))
