"""Limits of control groups as Docker, Kubernetes and Slurm lay them out, in small trees of files."""

import math
from pathlib import Path

import pytest

from clarep_ray.models import batch_memory
from clarep_ray.models.memory_limits import room_in_cgroups

V2 = ("memory.max", "memory.current", "inactive_file")
V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def lay_out(root: Path, groups: str, names: tuple[str, str, str], folders: dict[str, tuple[str, int, int]]) -> Path:
    """Write /proc/self/cgroup and, for each folder, limit, use and idle file pages."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    for folder, (limit, used, idle) in folders.items():
        place = root / "sys/fs/cgroup" / folder
        place.mkdir(parents=True, exist_ok=True)
        (place / names[0]).write_text(f"{limit}\n")
        (place / names[1]).write_text(f"{used}\n")
        (place / "memory.stat").write_text(f"anon 1\n{names[2]} {idle}\nactive_file 7\n")
    return root


@pytest.mark.parametrize(
    ("groups", "names", "folders", "room"),
    [
        pytest.param("0::/\n", V2, {"": ("1000", 700, 50)}, 350, id="container, version 2"),
        pytest.param("0::/\n", V2, {"": ("max", 700, 50)}, math.inf, id="container without a limit"),
        pytest.param("0::/a/b\n", V2, {"a/b": ("max", 1, 0), "a": ("900", 600, 0)}, 300, id="the limit is a job's"),
        pytest.param("0::/a/b\n", V2, {"a/b": ("500", 1, 0), "a": ("900", 800, 0)}, 100, id="the tightest counts"),
        pytest.param("0::/../host/x\n", V2, {"": ("1000", 900, 0)}, 100, id="a path of the host"),
        pytest.param("3:cpu:/x\n4:memory:/docker/1\n", V1, {"memory": ("1000", 400, 9)}, 609, id="version 1"),
        pytest.param("4:cpu,memory:/x\n", V1, {"memory/x": ("1000", 999, 0)}, 1, id="version 1, two controllers"),
        pytest.param("3:cpu:/x\n", V1, {"memory/x": ("1000", 999, 0)}, math.inf, id="another controller's group"),
    ],
)
def test_the_room_below_the_tightest_limit(
    tmp_path: Path, groups: str, names: tuple[str, str, str], folders: dict[str, tuple[str, int, int]], room: float
) -> None:
    assert room_in_cgroups(lay_out(tmp_path, groups, names, folders)) == room


def test_where_there_are_no_control_groups_there_is_no_limit(tmp_path: Path) -> None:
    assert room_in_cgroups(tmp_path) == math.inf


@pytest.mark.parametrize("room", [10.0**6, -5.0])
def test_a_batch_counts_on_no_more_than_the_limit_leaves(room: float, monkeypatch: pytest.MonkeyPatch) -> None:
    unlimited = batch_memory.free_bytes("cpu")
    monkeypatch.setattr(batch_memory, "room_in_cgroups", lambda: room)
    limited = batch_memory.free_bytes("cpu")
    assert limited < unlimited / 2
    assert limited >= max(room, 0)
