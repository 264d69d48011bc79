"""deploy/grafana.json asks for metrics that the installed Ray exports, by labels that they have."""

import json
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

DASHBOARD = json.loads((Path(__file__).parents[2] / "deploy" / "grafana.json").read_text())
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
METRIC = re.compile(r"\b(?:ray|autoscaler)_[a-z_]+")
SOURCES = {
    "ray_node_manager": ["core/src/ray/raylet/raylet"],
    "ray_memory_manager": ["core/src/ray/raylet/raylet"],
    "ray_node": ["dashboard/modules/reporter/reporter_agent.py"],
    "ray_data": ["data/_internal/execution/interfaces/op_runtime_metrics.py", "data/_internal/stats.py"],
    "ray_actors": ["core/src/ray/gcs/gcs_server"],
    "ray_object": ["core/src/ray/raylet/raylet"],
    "autoscaler": ["autoscaler/_private/prom_metrics.py"],
}
"""Where Ray defines the metrics of each family."""


@cache
def content(name: str) -> bytes:
    spec = find_spec("ray")  # without importing it: the tests of the engine want to
    assert spec is not None
    assert spec.origin is not None
    return (Path(spec.origin).parent / name).read_bytes()


def is_exported(metric: str) -> bool:
    family = next(family for family in SOURCES if metric.startswith(family))
    short = re.sub(r"^(ray_data|ray|autoscaler)_", "", metric)
    defined = rb"\b(" + short.encode() + b"|" + short.removesuffix("_total").encode() + rb")\b"  # added to counters
    return any(re.search(defined, content(name)) for name in SOURCES[family])


@pytest.mark.parametrize("metric", sorted({name for query in QUERIES for name in METRIC.findall(query)}))
def test_ray_exports_every_metric(metric: str) -> None:
    assert is_exported(metric)
    assert not is_exported(metric + "_x")


def test_every_panel_says_what_to_make_of_it() -> None:
    assert len(DASHBOARD["panels"]) >= 10
    for panel in DASHBOARD["panels"]:
        assert panel["description"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${source}"}
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
