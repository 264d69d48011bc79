"""What `jobs/benchmark.py --record` appends: a dated line for each row, with what it was measured on."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from clarep_ray.analysis.recorded_rows import check_record, read_rows, record_rows
from clarep_ray.config import EngineBenchmarkConfig
from clarep_ray.dotted import override
from clarep_ray.measured import Spread, Table
from clarep_ray.presets import EXTRACT

TABLE = Table({"way": "", "ratio": ".1f"}, [("ours", Spread(2.0, 1.0, 3.0)), ("theirs", None)])


def test_every_row_is_dated_and_says_what_was_measured_on_what(tmp_path: Path) -> None:
    file, config, preset = tmp_path / "rows.jsonl", EngineBenchmarkConfig(), EXTRACT["digits"]().config
    for seed in (0, 1):
        configs = {"benchmark": config, "preset": override(preset, {"seed": seed})}
        assert record_rows(file, "engine", configs, [TABLE]) == 2
    first, second, third, _ = read_rows(file)
    assert first["row"] == {"way": "ours", "ratio": {"value": 2.0, "low": 1.0, "high": 3.0}}
    assert second["row"] == {"way": "theirs", "ratio": None}
    assert first["fingerprint"] == second["fingerprint"] != third["fingerprint"], "another seed is another benchmark"
    assert first["config"] == {"preset": "digits", "num_images": 144, "num_repeats": 3}
    assert (datetime.now(UTC) - datetime.fromisoformat(first["date"])).total_seconds() < 60
    assert first["hardware"]["cpu"]
    assert first["hardware"]["cores"] >= 1
    assert first["versions"]["torch"]


def test_where_rows_cannot_go_or_come_from_is_named(tmp_path: Path) -> None:
    for file in (tmp_path, tmp_path / "none" / "rows.jsonl"):
        with pytest.raises(ValueError, match=f"record: '{file}' is not valid; valid: a file of JSON lines"):
            check_record(file, "svd")
    check_record(tmp_path / "rows.jsonl", "svd")
    with pytest.raises(ValueError, match="valid: none: plot measures nothing"):
        check_record(tmp_path / "rows.jsonl", "plot")
    (tmp_path / "rows.jsonl").write_text('{"date": "2026-11-22"}\n')
    with pytest.raises(ValueError, match=r"rows\.jsonl:1 is not valid"):
        read_rows(tmp_path / "rows.jsonl")
