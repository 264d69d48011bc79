"""A job stopped by a signal, as a person in a terminal would or from another process; and what is then left."""

import os
import pty
import select
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 143}
LONGEST_S = 300.0
IN_TERMINAL = str(ROOT / "tests" / "faults" / "in_terminal.py")
OF_THIS_STOP = "OF_STOPPED_RUN"
"""Environment variable that every process of one run has."""


@dataclass(frozen=True)
class Ending:
    """How a run ended that was, or was to be, stopped."""

    code: int
    said: str
    """Everything, of a terminal; else what it said as an error."""
    took_s: float
    """From the signal to the end."""
    ran_s: float
    """From its start to the end."""
    terminal: bool
    left: tuple[str, ...]
    """Commands of processes that outlived it."""

    @property
    def last(self) -> list[str]:
        """Lines from the signal on, of a terminal; all of stderr otherwise."""
        return [line for line in self.said.rpartition("^C")[2].splitlines() if line.strip()]


def run_stopped(
    command: Sequence[str],
    moment_s: float,
    number: signal.Signals = signal.SIGINT,
    *,
    terminal: bool = False,
    again_s: float | None = None,
    file: Path | None = None,
    **environment: str,
) -> Ending:
    """Run a command and stop it after `moment_s`, or once `file` is there; a second signal follows after `again_s`."""
    mark = uuid.uuid4().hex
    env = {**os.environ, OF_THIS_STOP: mark, "PYTHONPATH": str(ROOT), **environment}
    with tempfile.TemporaryFile() as said:
        started = time.monotonic()
        master, slave = pty.openpty() if terminal else (None, None)
        error = said.fileno() if slave is None else slave
        process = subprocess.Popen(
            [sys.executable, "-S", IN_TERMINAL, *command],
            stdin=subprocess.DEVNULL if slave is None else slave,
            stdout=subprocess.DEVNULL if slave is None else slave,
            stderr=error,
            env=env,
            cwd=ROOT,
            start_new_session=True,
        )
        if slave is not None:
            os.close(slave)
        text = bytearray()
        while process.poll() is None and IN_TERMINAL.encode() in Path(f"/proc/{process.pid}/cmdline").read_bytes():
            time.sleep(0.002)
        _wait(process, moment_s, master, text, file)
        began = time.monotonic()
        for pause in (0.0, *(() if again_s is None else (again_s,))):
            _wait(process, pause, master, text)
            if process.poll() is None:
                if master is not None and number == signal.SIGINT:
                    os.write(master, b"\x03")
                else:
                    process.send_signal(number)
        _wait(process, LONGEST_S, master, text)
        took, ran = time.monotonic() - began, time.monotonic() - started
        left = tuple(_left(mark))
        if process.poll() is None:
            process.kill()
        _end(mark)
        _wait(process, 0.2, master, text)
        if master is not None:
            os.close(master)
        else:
            said.seek(0)
            text += said.read()
    return Ending(process.wait(), text.decode(errors="replace").replace("\r\n", "\n"), took, ran, terminal, left)


def _wait(
    process: "subprocess.Popen[bytes]", seconds: float, master: int | None, text: bytearray, file: Path | None = None
) -> None:
    """Wait for a process so long, or until a file is there, and take what its terminal shows."""
    until = time.monotonic() + (LONGEST_S if file is not None else seconds)
    while time.monotonic() < until and not (file is not None and _there(file)):
        ended, shown = process.poll() is not None, False
        if master is None:
            time.sleep(0.005)
        elif select.select([master], [], [], 0.01)[0]:
            with suppress(OSError):  # all have closed it
                text += os.read(master, 65536)
                shown = True
        if ended and not shown:
            return
    if file is not None and seconds:
        _wait(process, seconds, master, text)


def _there(file: Path) -> bool:
    return any(file.parent.glob(file.name))


def processes_of(mark: str) -> dict[int, str]:
    """Return the living processes with a mark in their environment, and their commands."""
    found: dict[int, str] = {}
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"{OF_THIS_STOP}={mark}".encode() in (path / "environ").read_bytes().split(b"\0"):
                found[int(path.name)] = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:120]
    return found


def _left(mark: str) -> list[str]:
    return list(processes_of(mark).values())


def _end(mark: str) -> None:
    for pid in processes_of(mark):
        with suppress(OSError):
            os.kill(pid, signal.SIGKILL)
