"""Ctrl-C, SIGTERM and a closed terminal end a job in one line, whatever it is doing, with nothing of it left running.

A job calls `install` before anything large is imported and `run` with its main function. The first signal raises
`Stopped` in the main thread, so that what is open is closed; a thread of ours, which a main thread inside C cannot keep
waiting, ends the process GRACE_S later, or at once on a second signal, or where there is nothing to close: in the
imports, and while the interpreter ends. Ending means to kill what this process started (Ray's processes carry a mark
in their environment), to do what was left with `at_end`, and to print one line. Everything that a job writes stands up
to kill -9; so it does to this.

Imports nothing but the standard library: this is the first that a job does.
"""

from __future__ import annotations

import atexit
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import NoReturn

from clarep_ray.errors import DONE, UNEXPECTED, Interrupted, Terminated

CODES = {
    signal.SIGINT: Interrupted.code,
    signal.SIGTERM: Terminated.code,
    signal.SIGHUP: Terminated.code,
}
CONTINUES, STARTS_AGAIN = "the same command continues", "the same command starts again"
GRACE_S = 2.0
"""How long what is open may take to close: `ray job stop` kills 3 s after it asks."""
ONE_STOP_S = 0.5
"""Signals this close together are one stop: `timeout` sends two, to the process and to its group."""
KILLING_S, LAST_THINGS_S = 1.0, 1.0
"""At most, for the end of the processes that were started, and for what was left with `at_end`."""
MARK = "STARTED_BY_CLAREP"
"""Environment variable of the processes that a job starts: which job."""


class Stopped(KeyboardInterrupt):
    """A signal asked this process to end."""


class _Job:
    """What is known of this process as a job."""

    pid = 0
    """Its number once it is installed, for a fork is not the job."""
    mark = b""
    then = CONTINUES
    inside = False
    """Whether a signal raises Stopped: what is open can be closed."""
    first: signal.Signals | None = None
    """The signal that stopped it."""
    taken = 0
    """Signals that are not to stop it, of `interrupt_main`."""
    ignored = 0
    """How many of these the listening thread has still to pass over."""
    exit_code: int | None = None
    stderr = 2
    """Where its last line goes: a copy, once everything else is silenced."""
    silenced = False


_job = _Job()
_leaving, _silencing = threading.Lock(), threading.RLock()
"""The second: two threads that silence at once would take the silence for what was there before."""
_last_things: list[Callable[[], object]] = []


def install(then: str = CONTINUES) -> None:
    """Let signals stop this process, the main one of a job; `then` is what its command does when it is run again.

    A signal that is ignored already stays so: `nohup`, and Ctrl-C where a shell's script runs a job behind its back.
    """
    _job.pid, _job.then = os.getpid(), then
    mark = os.urandom(8).hex()
    os.environ[MARK], _job.mark = mark, f"{MARK}={mark}".encode()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in CODES:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _raise)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, CODES)  # Ray's processes, of which a submitted job is one, block SIGINT
    os.register_at_fork(after_in_child=_in_a_fork)
    atexit.register(_end_of_atexit)  # the first one is the last to be called
    threading.Thread(target=_listen, args=(reader,), name="signals", daemon=True).start()


def hold() -> None:
    """Take the signals back from a library that has installed handlers of its own."""
    if _job.pid == os.getpid() and threading.current_thread() is threading.main_thread():
        for number in CODES:
            if signal.getsignal(number) not in (signal.SIG_IGN, _raise):
                signal.signal(number, _raise)


def run(main: Callable[[], object]) -> None:
    """Do a job's work, and end this process as it ended; where a signal stopped it, with one line and no traceback."""
    try:
        _job.inside = True
        main()
        _job.inside = False
        _job.exit_code = DONE
    except BaseException as error:
        _job.inside = False
        if _job.first is not None or isinstance(error, KeyboardInterrupt):
            _stop()
        code = error.code if isinstance(error, SystemExit) else UNEXPECTED
        _job.exit_code = DONE if code is None else code if isinstance(code, int) else UNEXPECTED
        raise
    if _job.first is not None:  # something swallowed it
        _stop()


def is_stopped() -> bool:
    """Say whether a signal has asked this process to end, which it is about to."""
    return _job.first is not None


def at_end(last: Callable[[], object]) -> Callable[[], object]:
    """Have something done where this process is ended in the middle; a second or so. Return it for `not_at_end`."""
    _last_things.append(last)
    return last


def not_at_end(last: Callable[[], object]) -> None:
    """Take back what was left with `at_end`: it is done."""
    with suppress(ValueError):
        _last_things.remove(last)


def interrupt_main() -> None:
    """Raise KeyboardInterrupt in the main thread, from another one: for a reason of our own, not to stop the job."""
    if _job.pid == os.getpid():
        _job.taken += 1
        _job.ignored += 1
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


def leave(code: int, line: str) -> NoReturn:
    """End this process at once, with a line, and what it has started with it."""
    if not _leaving.acquire(blocking=False):  # another thread is at it
        time.sleep(60.0)
    silence()
    kill_started()
    _within(LAST_THINGS_S, _do_last_things)
    with suppress(OSError):
        os.write(_job.stderr, f"{line}\n".encode(errors="backslashreplace"))
    os._exit(code)


def silence(*more: int) -> None:
    """Keep what libraries say while they go down from stderr, and from `more` handles; the last line still gets there.

    What the job has said before is flushed.
    """
    if _job.pid != os.getpid():
        return
    if more:
        _within(LAST_THINGS_S, sys.stdout.flush)
    with _silencing, suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        if not _job.silenced:
            _job.silenced, _job.stderr = True, os.dup(2)
        for handle in (2, *more):
            os.dup2(nowhere, handle)
        os.close(nowhere)


def kill_started() -> None:
    """Kill the processes that this one has started, and theirs, and see them gone."""
    if _job.pid != os.getpid():
        return
    until = time.monotonic() + KILLING_S
    while (started := _started()) and time.monotonic() < until:
        for pid in started:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def _started() -> list[int]:
    """Return the living processes with this job's mark; none where the system has no /proc: Ray's end with us."""
    found: list[int] = []
    with suppress(OSError):
        for name in os.listdir("/proc"):  # noqa: PTH208  (pathlib is not imported yet)
            with suppress(OSError, ValueError):
                pid = int(name)
                if pid != _job.pid and os.stat(f"/proc/{name}").st_uid == os.geteuid():  # noqa: PTH116
                    with open(f"/proc/{name}/environ", "rb") as file:  # noqa: PTH123
                        if _job.mark in file.read().split(b"\0"):
                            found.append(pid)
    return found


def _raise(number: int, frame: FrameType | None) -> None:
    """Handle a signal in the main thread."""
    if _job.pid != os.getpid():
        return
    if _job.taken and number == signal.SIGINT:
        _job.taken -= 1
        raise KeyboardInterrupt
    if _job.inside:
        _job.first = _job.first or signal.Signals(number)
        _job.inside = False  # once: what is being closed is not interrupted
        silence()
        raise Stopped


def _listen(reader: int) -> None:
    """See every signal as it comes, and end this process where the main thread does not."""
    began: float | None = None
    while True:
        left = None if began is None else max(0.0, began + GRACE_S - time.monotonic())
        if not select.select([reader], [], [], left)[0]:
            _stop()
        number = os.read(reader, 1)[0]
        if number not in CODES or signal.getsignal(number) is signal.SIG_IGN:
            continue
        if number == signal.SIGINT and _job.ignored:
            _job.ignored -= 1
        elif began is None:
            began = time.monotonic()
            closing = _job.inside or _job.first is not None
            _job.first = _job.first or signal.Signals(number)
            silence()
            if not closing:
                _stop()
        elif time.monotonic() - began > ONE_STOP_S:
            _stop()


def _stop() -> NoReturn:
    number = _job.first or signal.SIGINT
    # a terminal has echoed ^C in front
    start = "\n" if number == signal.SIGINT and os.isatty(_job.stderr) else ""
    leave(CODES[number], f"{start}stopped; {_job.then}")


def _within(seconds: float, work: Callable[[], object]) -> None:
    """Do something that may hang in a thread, and go on after so long."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)


def _do_last_things() -> None:
    for last in reversed(_last_things):
        with suppress(Exception):
            last()
    with suppress(Exception):
        sys.stdout.flush()


def _end_of_atexit() -> None:
    """End here, where everything that others registered is done: modules that are taken apart cannot be stopped."""
    if _job.pid == os.getpid() and _job.exit_code is not None:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(_job.exit_code)


def _in_a_fork() -> None:
    signal.set_wakeup_fd(-1)
    for number in CODES:
        if signal.getsignal(number) is _raise:
            signal.signal(number, signal.SIG_DFL)
