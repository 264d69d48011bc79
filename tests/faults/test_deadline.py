"""A piece of work that hangs ends its process at the deadline, whether it sleeps or holds Python's lock in C."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from clarep_ray.cluster import deadline as module
from clarep_ray.cluster.deadline import deadline

HANGS = {
    "sleeps": "time.sleep(1000)",
    "holds the lock in C": "re.match('(a+)+$', 'a' * 64 + 'b')",
    "holds the lock in a long sum": "sum(range(10**14))",
}
PROGRAM = """
import re, sys, time
from pathlib import Path
from clarep_ray.cluster import deadline as module
module.SHORTEST_S = 1.0

def hang_here():
    HANG

for piece in range(4):
    with module.deadline(SECONDS or module.usual_limit("x"), Path(sys.argv[1]), "x"):
        if SECONDS is not None or piece == 3:
            print("hangs", flush=True)
            hang_here()
"""


@pytest.mark.parametrize("seconds", [1.0, None], ids=["a number", "usual"])
@pytest.mark.parametrize("hang", HANGS)
def test_a_hang_ends_the_process_with_a_stack_trace(tmp_path: Path, hang: str, seconds: float | None) -> None:
    trace = tmp_path / "000003.stack"
    program = PROGRAM.replace("HANG", HANGS[hang]).replace("SECONDS", repr(seconds))
    process = subprocess.Popen([sys.executable, "-c", program, str(trace)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"hangs\n"
    began = time.monotonic()
    try:
        assert process.wait(timeout=30) == 1
    finally:
        process.kill()
    assert time.monotonic() - began < 1 + 5
    assert "hang_here" in trace.read_text()


def test_what_ends_in_time_leaves_nothing_and_fails_as_it_does(tmp_path: Path) -> None:
    with deadline(60.0, tmp_path / "stack"):
        assert (tmp_path / "stack").is_file()
    with pytest.raises(OSError, match="its own"), deadline(60.0, tmp_path / "stack"):
        raise OSError("its own")
    assert list(tmp_path.iterdir()) == []


def test_the_usual_limit_follows_this_process_s_own_work(monkeypatch: pytest.MonkeyPatch) -> None:
    for seconds, limit in (([1.0, 2.0], None), ([1.0, 2.0, 3.0], 60.0), ([100.0, 5.0, 90.0, 95.0], 925.0)):
        monkeypatch.setitem(module._seconds, "x", seconds)
        assert module.usual_limit("x") == limit
    assert module.usual_limit("y") is None


def test_empty_traces_of_killed_processes_go_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    names = ["killed", "says", "young", "held"]
    files = {name: tmp_path / f"clarep-ray-000001-{name}.stack" for name in names}
    for path in files.values():
        path.touch()
    files["says"].write_text("Thread 0x1 (most recent call first)")
    (tmp_path / "victim").touch()
    others = [tmp_path / f"clarep-ray-{name}.stack" for name in ("link", "fifo", "folder")]
    others[0].symlink_to(tmp_path / "victim")
    os.mkfifo(others[1])
    others[2].mkdir()
    for path in (*files.values(), tmp_path / "victim", others[1], others[2]):
        if path != files["young"]:
            os.utime(path, (1, 1))
    module.remove_empty_traces.cache_clear()
    with deadline(60.0, files["held"]):
        os.utime(files["held"], (1, 1))
        module.remove_empty_traces()
        assert files["held"].exists()
    module.remove_empty_traces.cache_clear()
    left = {"says", "young"}
    kept = {path.name for path in (*(files[name] for name in left), tmp_path / "victim", *others)}
    assert {path.name for path in tmp_path.iterdir()} == kept
