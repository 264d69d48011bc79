"""One driver at a time works on an output folder, out of courtesy: a second one would only waste its time.

Nothing rests on this: units are published put-if-absent, so that two drivers, or one that was thought dead and wakes
up, write the same output as one (`tests/faults/test_owner.py`). The owner is the process of the highest
`OUTPUT/tmp/owner.EPOCH`, a file made with link(2), which is put-if-absent on NFS too. A process that is gone from this
machine, or one elsewhere that gave no sign of life for SILENT_S, owns nothing.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from clarep_ray.data.durable import make_folder, write_new
from clarep_ray.data.store import RUN, WORK

HEARTBEAT_S = 10.0
"""How often an owner gives a sign of life, and looks whether it still is the owner."""
SILENT_S = 120.0
"""After so long without one, an owner on another machine counts as gone."""


class OutputInUse(RuntimeError):
    """Another process works on the output."""


@dataclass(frozen=True)
class Process:
    """A process, told apart from a later one of the same number."""

    host: str
    pid: int
    machine: str
    """Boot of the machine and its space of process numbers; empty where that cannot be known."""
    ticks: int
    """When the process started, in the machine's own count."""
    since: str
    """When it took the output, for people to read."""


@contextmanager
def owned(
    folder: Path, take_over: bool = False, say: Callable[[str], None] = print, setting: str = "engine.take-over"
) -> Generator[None]:
    """Own an output inside; OutputInUse, with nothing touched, where a living process does and it is not taken over.

    Raised inside as well, within HEARTBEAT_S, once another process has taken the output from this one.
    """
    folder, was_there = folder.absolute(), folder.exists()
    mine = _acquire(folder, take_over, say, setting)
    watch = _Watch(mine)
    watch.start()
    try:
        yield
        watch.look()
    except KeyboardInterrupt:
        if not watch.lost:
            raise
    finally:
        watch.stopped.set()
        watch.join()
        mine.unlink(missing_ok=True)
        if not (folder / RUN).is_file():  # a run that was refused leaves nothing
            with suppress(OSError):
                mine.parent.rmdir()
                if not was_there:
                    folder.rmdir()
    if watch.lost:
        raise OutputInUse(f"{folder}: another process has taken this output over; what it needs is there")


def refuse_used(folder: Path, setting: str) -> None:
    """Raise OutputInUse, with nothing touched, where a living process owns an output; cheap, to be asked first."""
    taken = _epochs(folder.absolute() / WORK)
    if taken and (line := _in_the_way(taken[max(taken)], folder.absolute())) is not None:
        raise _in_use(line, setting)


def _in_use(line: str, setting: str) -> OutputInUse:
    return OutputInUse(f"{line}; wait for it, or stop it from here with --{setting}")


class _Watch(threading.Thread):
    """Gives signs of life, and interrupts the main thread once the output is lost."""

    def __init__(self, mine: Path) -> None:
        super().__init__(name="owner of the output", daemon=True)
        self.mine, self.stopped, self.lost = mine, threading.Event(), False
        self.interrupts = threading.current_thread() is threading.main_thread()

    def run(self) -> None:
        while not self.stopped.wait(HEARTBEAT_S):
            self.look()
            if self.lost:
                if self.interrupts:
                    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
                return

    def look(self) -> None:
        """Give a sign of life, and see whether the output is lost."""
        try:
            os.utime(self.mine)
            self.lost = max(_epochs(self.mine.parent), default=0) > _epoch(self.mine)
        except FileNotFoundError:
            self.lost = True
        except OSError:  # a file system that is not there for a while: no reason to stop
            return


def _acquire(folder: Path, take_over: bool, say: Callable[[str], None], setting: str) -> Path:
    work = folder / WORK
    while True:
        taken = _epochs(work)
        newest = max(taken, default=0)
        if newest and (line := _in_the_way(taken[newest], folder)) is not None:
            if not take_over:
                raise _in_use(line, setting)
            say(f"taking over: {line}")
        elif newest:
            say(f"continuing: {_owner_line(taken[newest], folder)} is gone")
        mine = work / f"owner.{newest + 1:06d}"
        try:
            make_folder(work)
            first = _put(mine)
        except FileNotFoundError:  # a refused run has just taken its empty folder away
            continue
        if first and max(_epochs(work)) == newest + 1:  # else another one was faster: look again
            for path in taken.values():
                path.unlink(missing_ok=True)
            return mine


def _put(path: Path) -> bool:
    """Make the file of this process unless there is one; the link count says so even where NFS lost the answer."""
    work = path.with_name(uuid.uuid4().hex)
    write_new(work, json.dumps(asdict(this_process())).encode())
    try:
        with suppress(FileExistsError):
            os.link(work, path)
        return work.stat().st_nlink == 2
    finally:
        work.unlink()


def _epochs(work: Path) -> dict[int, Path]:
    """Return the files of owners by their epoch."""
    found = work.glob("owner.*") if work.is_dir() else ()
    return {_epoch(path): path for path in found if re.fullmatch(r"owner\.\d+", path.name, re.ASCII)}


def _epoch(path: Path) -> int:
    return int(path.suffix[1:])


def _in_the_way(path: Path, folder: Path) -> str | None:
    """Return whose an output is, or None where that process is gone."""
    owner = _read(path)
    if owner is not None and owner.machine and owner.machine == this_process().machine:
        gone = _ticks(owner.pid) != owner.ticks
    else:
        gone = _silent(path)
    return None if gone else _owner_line(path, folder)


def _owner_line(path: Path, folder: Path) -> str:
    owner = _read(path)
    who = f"process {owner.pid} on {owner.host}, since {owner.since}" if owner else "a process that cannot be told"
    return f"{folder} is in use by {who}"


def _read(path: Path) -> Process | None:
    try:
        return Process(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def _silent(path: Path) -> bool:
    """Say whether an owner's signs of life have ended, by the clock of the file system where ours says so first."""
    try:
        last = path.stat().st_mtime
        if time.time() - last <= SILENT_S:
            return False
        probe = path.with_name(uuid.uuid4().hex)
        probe.touch(exist_ok=False)
        now = probe.stat().st_mtime
        probe.unlink()
    except FileNotFoundError:  # it has just ended
        return True
    return now - last > SILENT_S


def this_process() -> Process:
    """Return this process, as it calls itself in an output."""
    since = datetime.now(UTC).isoformat(timespec="seconds")
    pid = os.getpid()
    return Process(socket.gethostname(), pid, _machine(), _ticks(pid) or 0, since)


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # no Linux: signs of life decide
        return ""


def _ticks(pid: int) -> int | None:
    """Return when a living process started, None where there is none of that number."""
    try:
        state, *numbers = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state == "Z" else int(numbers[18])
