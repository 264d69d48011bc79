"""Run readers on hostile files in a process of their own: what came of each, CPU time, memory, and what it did.

The child refuses to grow beyond ADDRESS_SPACE, so that a bomb that no limit of ours stops ends as a failure here and
not as the end of the machine. Times are CPU times: how busy the machine is says nothing about a reader.
"""

from __future__ import annotations

import json
import os
import resource
import select
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

MAX_CPU_S, MAX_GROWTH = 2.0, 256 * 2**20
HANG_S = 60.0
"""Wall time after which a case counts as hanging; far above MAX_CPU_S, for other work may have the cores."""
ADDRESS_SPACE = 2 * 2**30
FORBIDDEN = ("pickle.find_class", "os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect")
ROOT = Path(__file__).parents[2]
PLAIN = {"MALLOC_ARENA_MAX": "1", "ARROW_DEFAULT_MEMORY_POOL": "system", "OMP_NUM_THREADS": "1"}
"""Allocators that reserve address space by the gigabyte would meet the limit without using memory."""


@dataclass(frozen=True)
class Verdict:
    """What one reader made of one file: `read`, `refused` (a typed error of ours) or `broke` (anything else)."""

    reader: str
    path: str
    outcome: str
    message: str
    cpu_s: float
    growth: int
    events: list[str]

    @property
    def line(self) -> str:
        """What to read where a case fails."""
        name = Path(self.path).name
        spent = f"{self.cpu_s:.2f} s, {self.growth >> 20} MiB, {self.events}"
        return f"{self.reader} {self.outcome} {name!r}: {self.message} ({spent})"

    @property
    def within(self) -> bool:
        """Whether time and memory were kept and nothing was run, opened or looked up."""
        return self.cpu_s <= MAX_CPU_S and self.growth <= MAX_GROWTH and not self.events


_children: list[subprocess.Popen[bytes]] = []
"""The process at work, if any: importing every reader takes longer than most of what they do."""


def judge(cases: Sequence[tuple[str, Path]]) -> list[Verdict]:
    """Return the verdict on every (reader, path), in order; a reader that hangs or dies is a failure naming it."""
    if not _children:
        _children.append(_start())
    try:
        return list(_verdicts(_children[0], cases))
    except BaseException:
        stop()
        raise


def stop() -> None:
    """End the process at work."""
    while _children:
        child = _children.pop()
        child.kill()
        child.wait()


def _start() -> subprocess.Popen[bytes]:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    command = [sys.executable, "-m", "tests.hostile.judge"]
    child = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, env={**plain, **PLAIN}, bufsize=0
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    return child


def _verdicts(child: subprocess.Popen[bytes], cases: Sequence[tuple[str, Path]]) -> Iterator[Verdict]:
    assert child.stdin is not None
    assert child.stdout is not None
    for reader, path in cases:
        child.stdin.write((json.dumps([reader, str(path)]) + "\n").encode())
        ready, _, _ = select.select([child.stdout], [], [], HANG_S)
        assert ready, f"{reader} hangs on {path.name!r}"
        line = child.stdout.readline()
        assert line, f"{reader} died of {path.name!r} (exit code {child.wait()})"
        yield Verdict(**json.loads(line))


def serve() -> None:
    """Answer one line per case; a reader's first one should be a good file, which imports what the reader needs."""
    from tests.hostile import readers

    watched = _watch()
    chosen = readers.everything()
    print("ready", file=sys.__stdout__, flush=True)
    limited = False
    for line in sys.stdin:
        name, text = json.loads(line)
        if not limited:
            resource.setrlimit(resource.RLIMIT_AS, (_status("VmSize") + ADDRESS_SPACE,) * 2)
            limited = True
        watched.clear()
        verdict = _run(name, chosen[name], Path(text), watched)
        print(json.dumps(asdict(verdict)), file=sys.__stdout__, flush=True)


def _run(name: str, reader: Any, path: Path, watched: list[str]) -> Verdict:
    Path("/proc/self/clear_refs").write_text("5")  # the peak of memory starts again at what is held now
    before, began = _status("VmRSS"), _cpu_s()
    try:
        reader(path)
        outcome, message = "read", ""
    except BaseException as error:
        outcome, message = ("refused" if _is_ours(error) else "broke"), f"{type(error).__name__}: {error}"
    spent = _cpu_s() - began
    growth = max(0, _status("VmHWM") - before)
    return Verdict(name, str(path), outcome, message, spent, growth, list(watched))


def _is_ours(error: BaseException) -> bool:
    """Say whether an error is one that a job turns into a reject, or one line and an exit code; no library's own."""
    from clarep_ray import cli
    from clarep_ray.data.records import RejectedImage

    ours = type(error) is ValueError or type(error).__module__.startswith("clarep_ray.")
    return isinstance(error, RejectedImage) or (ours and cli.known_fault(error) is not None)


def _cpu_s() -> float:
    """Return the CPU time of this process and of those that it has started and that ended [s]."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def _status(field: str) -> int:
    """Return a figure of /proc/self/status [bytes]."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"/proc/self/status has no {field}")


def _is_our_probe(event: str, arguments: tuple[Any, ...]) -> bool:
    """Say whether this is a process within limits that reads a file first: no part of its code comes from the file."""
    from clarep_ray.data.parquet_files import PROBE
    from clarep_ray.data.sources.imagenet_devkit import READER

    if event != "subprocess.Popen" or arguments[1][:3] != [sys.executable, "-I", "-c"]:
        return False
    return any(arguments[1][3].endswith(program) for program in (PROBE, READER))


def _watch() -> list[str]:
    seen: list[str] = []

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in FORBIDDEN and not _is_our_probe(event, arguments):
            seen.append(f"{event} {arguments!r}"[:200])

    sys.addaudithook(hook)
    return seen


if __name__ == "__main__":
    serve()
