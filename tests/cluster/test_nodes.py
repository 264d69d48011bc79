"""Several nodes: one actor per GPU, a node lost in mid-run, a cluster that grows and shrinks."""

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from clarep_ray import dotted
from clarep_ray.config import ExtractConfig
from clarep_ray.data.verify import verify
from tests.cluster.nodes import SimulatedCluster, simulated_cluster
from tests.cluster.reference import committed_hashes, plain_loop, small_config

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(600)]
DRIVER = "from tests.cluster.node_driver import main; main()"
CLOUD = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
"""Ray's own; under its name it wants a file that the wheel lacks."""
HEAD = "f" * 51 + "00000"
"""What Ray's make-believe cloud calls its head."""
GROWING: dict[str, Any] = {
    "cluster_name": "growing",
    "max_workers": 2,
    "idle_timeout_minutes": 0.1,
    "upscaling_speed": 10.0,
    "head_node_type": "ray.head.default",
    "available_node_types": {
        "ray.head.default": {"resources": {"CPU": 1}, "node_config": {}, "max_workers": 0},
        "gpu": {"resources": {"CPU": 1, "GPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2},
    },
    **{name: {} for name in ("auth", "docker", "file_mounts", "head_node", "worker_nodes")},
    **{
        name: []
        for name in (
            *("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands"),
            *("head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files"),
            *("rsync_exclude", "rsync_filter"),
        )
    },
    "file_mounts_sync_continuously": False,
}
"""A make-believe cloud whose machines are Ray nodes on this one."""


@pytest.fixture
def cluster() -> Iterator[SimulatedCluster]:
    with simulated_cluster() as found:
        yield found


@pytest.fixture
def start(cluster: SimulatedCluster, tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    def run(config: ExtractConfig, unit_s: float) -> subprocess.Popen[str]:
        (tmp_path / "notes").mkdir(exist_ok=True)
        (tmp_path / "config.json").write_text(json.dumps(dotted.flatten(config)))
        paths = {"CLAREP_TEST_NOTES": str(tmp_path / "notes"), "CLAREP_TEST_CONFIG": str(tmp_path / "config.json")}
        return cluster.run(DRIVER, **paths, CLAREP_TEST_UNIT_S=str(unit_s))

    return run


def notes(tmp_path: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((tmp_path / "notes").iterdir())]


def finished(process: subprocess.Popen[str]) -> dict[str, Any]:
    text, _ = process.communicate(timeout=300)
    assert process.returncode == 0, text
    return json.loads(text.strip().splitlines()[-1])


def wait_until(true: Callable[[], bool], process: subprocess.Popen[str], limit_s: float = 180) -> None:
    ended = time.monotonic() + limit_s
    while not true():
        assert process.poll() is None, process.stdout and process.stdout.read()
        assert time.monotonic() < ended
        time.sleep(0.05)


def gpus(cluster: SimulatedCluster) -> float:
    return cluster.ask("ray.cluster_resources().get('GPU', 0)")


def test_there_is_one_actor_for_each_gpu_on_its_node(
    cluster: SimulatedCluster, start: Callable[..., Any], weights: Path, images: Path, tmp_path: Path
) -> None:
    cluster.head("--num-cpus", "1", "--num-gpus", "0")
    cluster.node("two GPUs", cpus=2, gpus=2)
    cluster.node("one GPU", gpus=1)
    config = small_config(weights, images, tmp_path / "out", engine__num_actors=None)
    summary = finished(start(config, unit_s=6.0))  # the last of three actors takes a while to start
    assert (summary["num_actors"], summary["gpus_per_actor"], summary["num_ok"]) == (3, 1.0, 28)
    found = notes(tmp_path)
    places = {note["pid"]: (note["node"], *note["gpus"]) for note in found}
    assert len(set(places.values())) == len(places) == 3, "each actor has a GPU of its own"
    assert sorted(
        len([1 for node, _ in places.values() if node == name]) for name in {n for n, _ in places.values()}
    ) == [1, 2]
    assert {note["device"] for note in found} == {"cuda"}
    assert committed_hashes(tmp_path / "out") == plain_loop(config, tmp_path)


def test_a_lost_node_loses_and_doubles_nothing(
    cluster: SimulatedCluster, start: Callable[..., Any], weights: Path, images: Path, tmp_path: Path
) -> None:
    cluster.head("--num-cpus", "1", "--num-gpus", "0")
    cluster.node("stays")
    cluster.node("goes")
    config = small_config(weights, images, tmp_path / "out", engine__num_actors=2, engine__unit_size=2)
    process = start(config, unit_s=1.0)
    units = tmp_path / "out" / "units"
    wait_until(
        lambda: units.is_dir() and len(list(units.iterdir())) >= 4 and len({n["node"] for n in notes(tmp_path)}) == 2,
        process,
    )
    before = {path.name: path.read_bytes() for path in units.iterdir()}
    cluster.kill("goes")
    summary = finished(process)
    assert summary["num_ok"] == 28
    assert {name: (units / name).read_bytes() for name in before} == before
    assert committed_hashes(tmp_path / "out") == plain_loop(config, tmp_path)
    assert verify(tmp_path / "out") == []
    assert gpus(cluster) == 1
    assert len(before) < len(list(units.iterdir())), "it was lost in mid-run"


def test_a_cluster_grows_to_what_the_actors_ask_for_and_shrinks_again(
    cluster: SimulatedCluster, start: Callable[..., Any], weights: Path, images: Path, tmp_path: Path
) -> None:
    provider = {"type": "external", "module": CLOUD, "gcs_address": cluster.address}
    provider |= {"launch_multiple": True, "head_node_id": HEAD}
    (tmp_path / "growing.json").write_text(json.dumps({**GROWING, "provider": provider}))
    cluster.head(
        *("--num-cpus", "1", "--autoscaling-config", str(tmp_path / "growing.json")),
        RAY_FAKE_CLUSTER="1",
        RAY_enable_autoscaler_v2="1",
        RAY_CLOUD_INSTANCE_ID=HEAD,
        RAY_OVERRIDE_NODE_ID_FOR_TESTING=HEAD,
        AUTOSCALER_UPDATE_INTERVAL_S="1",
    )
    assert gpus(cluster) == 0
    changes = {"engine__num_actors": 2, "engine__gpus_per_actor": 1.0, "engine__autoscaling": True}
    changes["engine__unit_size"] = 2  # long enough for the second machine to come
    config = small_config(weights, images, tmp_path / "out", **changes)
    summary = finished(start(config, unit_s=8.0))
    assert (summary["num_actors"], summary["num_ok"]) == (2, 28)
    assert len({note["node"] for note in notes(tmp_path)}) == 2
    assert committed_hashes(tmp_path / "out") == plain_loop(config, tmp_path)
    ended = time.monotonic() + 120
    while gpus(cluster):
        assert time.monotonic() < ended, "idle nodes are given back"
        time.sleep(2)
