"""The health check around a job: which images, recorded once, said, and a reason to stop where that is wanted."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clarep_ray.cluster import health
from clarep_ray.cluster.plan import Plan, make_plan
from clarep_ray.config import HealthConfig, ModelConfig
from clarep_ray.data.clarep_index import ADDED, INDEX_SCHEMA
from clarep_ray.data.parquet_files import read_table
from clarep_ray.data.shards import sha256_file
from clarep_ray.data.store import OutputStore
from clarep_ray.dotted import execution_fields, override
from clarep_ray.presets import EXTRACT


def plan_of(path: Path, changes: Mapping[str, Any] | None = None) -> Plan:
    fixed = {"output.path": str(path), "data.digits.count": 40, "health.num_images": 4, "health.num_times": 3}
    return make_plan(override(EXTRACT["digits"]().config, fixed | dict(changes or {})))


def test_images_are_of_classes_far_from_each_other() -> None:
    labels = [label for label in range(1000) for _ in range(3)]
    rows = health.spread_rows(labels)
    assert [labels[next(rows)] for _ in range(4)] == [0, 512, 256, 768]
    assert sorted(health.spread_rows([0, 0, 0, 7, 7])) == [0, 1, 2, 3, 4]
    assert [*health.spread_rows([0, 0, 0, 7, 7])] == [0, 3, 1, 4, 2]
    assert [*health.spread_rows([])] == []


def test_the_check_is_done_once_and_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, store, said = plan_of(tmp_path / "out"), OutputStore(tmp_path / "out"), list[str]()
    store.prepare()
    first = health.job_health(plan, store, said.append, alone=True)
    assert first is not None
    assert first["verdict"] == "ok"
    assert said[0].startswith("health       ok: 4 images, 132 network evaluations")
    assert json.loads((tmp_path / "out" / "health.json").read_text()) == first
    monkeypatch.setattr(health, "_examine", lambda *_: pytest.fail("it was asked again"))
    assert health.job_health(plan, store, said.append, alone=True) == first
    metrics = health.health_metrics(first)
    assert metrics["health/ok"] == 1
    assert 0 <= metrics["health/max_gain"] < 0.1
    off = plan_of(tmp_path / "off", {"health.enabled": False})
    assert health.job_health(off, store, said.append, alone=True) is None


def test_random_weights_that_were_asked_for_are_no_reason_to_stop(tmp_path: Path) -> None:
    said: list[str] = []
    health.tell_plan(
        plan_of(
            tmp_path / "out",
            {
                "model.weights": "tiny",
                "data.digits.image_size": 8,
                "health.refuse": True,
                "spectrum.layer": "transformer_blocks.1",
                "features.layer": "transformer_blocks.1",
            },
        ),
        said.append,
    )
    assert said[0].startswith("health       untrained")
    assert "random weights" in said[1]


@pytest.mark.parametrize("verdict", ["warning", "untrained"])
def test_a_warning_stops_the_job_where_that_is_wanted(verdict: str) -> None:
    record = {"verdict": verdict, "warnings": ["labels: one", "two"]}
    health.refuse(record, HealthConfig(), ModelConfig())
    with pytest.raises(ValueError, match=r"health\.refuse: labels: one; two"):
        health.refuse(record, HealthConfig(refuse=True), ModelConfig())


def test_images_that_lie_under_other_classes_stop_the_plan(tmp_path: Path) -> None:
    plan = plan_of(tmp_path / "out", {"health.refuse": True, "health.num_images": 8})
    moved = [override_label(row, (row.label + 1) % 10) for row in plan.rows]
    object.__setattr__(plan, "rows", moved)
    said: list[str] = []
    with pytest.raises(ValueError, match=r"of 8 images best with their own, of 10 tried.*label - 1"):
        health.tell_plan(plan, said.append)
    assert said[0].startswith("health       warning")


def override_label(row: Any, label: int) -> Any:
    from dataclasses import replace

    return replace(row, label=label)


def test_noise_has_no_images_to_ask_about(tmp_path: Path) -> None:
    config = override(EXTRACT["fresh_samples_smoke"]().config, {"output.path": str(tmp_path / "out")})
    assert health.plan_health(make_plan(config))["verdict"] == "unchecked"


def test_no_setting_of_the_check_is_part_of_a_fingerprint() -> None:
    hidden = execution_fields(type(EXTRACT["digits"]().config))
    assert {"health.enabled", "health.refuse", "health.num_images", "health.num_times"} <= hidden


def test_an_index_without_the_new_columns_reads_as_empty_there(tmp_path: Path) -> None:
    path = tmp_path / "index.parquet"
    older = pa.schema([item for item in INDEX_SCHEMA if item.name not in ADDED])
    pq.write_table(pa.Table.from_pylist([{"key": "a", "status": "ok"}], older), path)
    table = read_table(path, sha256_file(path), INDEX_SCHEMA, added=ADDED)
    assert table.schema.names == INDEX_SCHEMA.names
    assert table["noise_std"].to_pylist() == [None]
    with pytest.raises(ValueError, match=r"column '.*' is missing"):
        read_table(path, sha256_file(path), INDEX_SCHEMA)
