"""Loss of Ray's control plane: the driver ends in time and says what to do, and the same command goes on."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from clarep_ray.cluster import control_plane
from clarep_ray.data.store import OutputStore
from clarep_ray.data.verify import verify
from tests.cluster.conftest import images, weights
from tests.cluster.reference import attempts, command_line, committed_hashes, plain_loop, small_config
from tests.cluster.test_driver import job, run_job

__all__ = ["images", "weights"]


def test_an_address_that_refuses_or_is_silent_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_plane, "ANSWER_WITHIN_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert control_plane._answers(address)
    assert not control_plane._answers(address)
    assert not control_plane._answers("192.0.2.1:6379")  # nobody's


def test_a_control_plane_that_stays_silent_ends_the_process_and_one_that_comes_back_does_not() -> None:
    program = """
import sys, threading
from clarep_ray.cluster import control_plane as module
module.LOOK_EVERY_S, module.LOST_AFTER_S = 0.02, 0.3
answers = iter([True] + [False] * 4 + [True] + [False] * 10**6)
seen = []
module._address = lambda: "here:1"
module._answers = lambda address: seen.append(1) or next(answers)
module._end_plain = module._end
module._end = lambda address: (print(len(seen), flush=True), module._end_plain(address))
for _ in range(2):
    with module.watched():
        pass
threading.Event().wait(20)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 4
    assert int(ended.stdout) > 8, "the silence before it came back does not count"
    assert ended.stderr.startswith("error: Ray's control plane at here:1 has been lost for 0 s; what was committed is")
    assert "re-run the same command to resume" in ended.stderr


def test_a_raylet_that_is_gone_is_seen_at_once(tmp_path: Path) -> None:
    """Who waits at its socket ends with a line when that closes, and not where it was left."""
    program = """
import socket, sys, threading, types
from clarep_ray.cluster import control_plane as module
server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[1])
server.listen()
module._raylet = lambda: sys.argv[1] if joined else None
module._address = lambda: None
module.LOOK_EVERY_S = 0.1
joined = True
with module.watched():
    client, _ = server.accept()
if sys.argv[2] == "left":
    joined = False
server.close()
client.close()
threading.Event().wait(1.0 if sys.argv[2] == "left" else 20.0)
"""
    for how, code in (("lost", 4), ("left", 0)):
        command = [sys.executable, "-c", program, str(tmp_path / how), how]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        assert ended.returncode == code, ended.stderr
        said = "error: Ray's part on this machine, the raylet, is lost; what was committed is safe: re-run the same"
        assert ended.stderr.count("\n") == (1 if code else 0)
        assert ended.stderr.startswith(said if code else "")


@pytest.mark.parametrize("name", ["LocalRayletDiedError", "NodeDiedError", "OwnerDiedError"])
def test_a_lost_part_of_ray_is_a_line(name: str) -> None:
    from clarep_ray import cli

    error = type("WorkerGroupError", (Exception,), {})(f"Training failed:\nray.exceptions.{name}: it is gone")
    line, code = cli.known_fault(error) or ("", 0)
    assert (line, code) == (f"Ray has lost a part of itself: it is gone; {control_plane.RESUMES}", 4)


def control_plane_of(driver: int) -> int:
    """Return the process of the control plane that a driver has started."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == driver and b"gcs_server" in (path / "cmdline").read_bytes():
                return int(path.name)
        except (FileNotFoundError, ProcessLookupError):
            continue
    raise AssertionError("the driver has started none")


@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_a_driver_without_control_plane_ends_and_is_continued(weights: Path, images: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    changes = {"engine__unit_size": 2, "engine__micro_batch": 2, "inversion__num_steps": 100}
    config = small_config(weights, images, output, **changes)
    arguments = command_line(config)
    process = job(*arguments, RAY_ADDRESS="")
    while len(OutputStore(output).units()) < 3:
        assert process.poll() is None, process.stdout and process.stdout.read()
        time.sleep(0.01)
    os.kill(control_plane_of(process.pid), signal.SIGKILL)
    began = time.monotonic()
    text, _ = process.communicate(timeout=120)
    took = time.monotonic() - began
    before = OutputStore(output).units()
    print(f"ended with {process.returncode} after {took:.0f} s; {len(before)} of 14 units were committed")
    print(text[-1500:])
    assert process.returncode == 4, text
    assert "re-run the same command to resume" in text
    assert took < 60
    assert len(before) < 14
    code, text = run_job(*arguments, RAY_ADDRESS="")
    assert code == 0, text
    assert committed_hashes(output) == plain_loop(config, tmp_path)
    assert verify(output) == []
    again = {name for name in attempts(output) if int(name.split(".")[0]) in before}
    assert len(again) == len(before), "a committed unit was computed again"
