"""The kernel's killing for memory: a whole job in a control group, as a container's limit is (needs root on Linux)."""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from clarep_ray.data.store import OutputStore
from clarep_ray.data.verify import verify
from clarep_ray.dotted import override
from clarep_ray.presets import EXTRACT
from tests.cluster.reference import command_line
from tests.cluster.test_driver import job

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(900)]
V1, V2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
LIMIT = 5 << 30
"""Bytes: Ray and the model fit with small batches, and the largest batch below does not."""
LARGE = 960


class Group:
    """A control group with the limit."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.is_v1 = folder.parent == V1
        (folder / ("memory.limit_in_bytes" if self.is_v1 else "memory.max")).write_text(str(LIMIT))

    def kills(self) -> int:
        """Return how often the kernel has killed a process here."""
        lines = (self.folder / ("memory.oom_control" if self.is_v1 else "memory.events")).read_text().splitlines()
        return int(dict(line.split() for line in lines)["oom_kill"])

    def take(self, process: "subprocess.Popen[str]") -> None:
        (self.folder / "cgroup.procs").write_text(str(process.pid))


@pytest.fixture
def group() -> Iterator[Group]:
    folder = (V1 if V1.is_dir() else V2) / f"clarep-test-{os.getpid()}"
    try:
        folder.mkdir()
        made = Group(folder)
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    yield made
    for _ in range(100):  # its last process may not be gone yet
        try:
            return folder.rmdir()
        except OSError:
            time.sleep(0.1)


def run_within(group: Group, *arguments: str) -> tuple[int, str]:
    process = job(*arguments, RAY_ADDRESS="")
    group.take(process)  # before it has started anything
    output, _ = process.communicate(timeout=800)
    return process.returncode, output


def small_run(micro_batch: int | None, output: Path) -> list[str]:
    changes = {
        "inversion.num_steps": 10,
        "inversion.project_t": 600.0,
        "data.digits.count": LARGE,
        "data.limit": LARGE,
        "engine.unit_size": LARGE,
        "engine.num_actors": 1,
        "engine.micro_batch": micro_batch,
        "output.extras": (),
        "output.path": str(output),
        "tracking.enabled": False,
    }
    return command_line(override(EXTRACT["digits"]().config, changes))


def test_a_batch_beyond_a_container_s_limit_gives_its_unit_up_and_rejects_nothing(group: Group, tmp_path: Path) -> None:
    began = time.monotonic()
    code, text = run_within(group, *small_run(LARGE, tmp_path / "out"))
    print(f"ended with {code} after {time.monotonic() - began:.0f} s; killed by the kernel: {group.kills()}")
    assert group.kills() >= 3
    assert code == 6, text
    assert "the kernel kills for want of memory (dmesg" in text.splitlines()[-1]
    assert not OutputStore(tmp_path / "out").units()


def test_a_batch_that_is_left_open_keeps_within_a_container_s_limit(group: Group, tmp_path: Path) -> None:
    code, text = run_within(group, *small_run(None, tmp_path / "out"))
    print(text[-2000:])
    assert code == 0, text
    assert group.kills() == 0
    assert verify(tmp_path / "out") == []
