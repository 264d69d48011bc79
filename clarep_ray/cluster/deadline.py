"""A piece of work that hangs ends its process, with a stack trace on disk; Ray then starts both again."""

from __future__ import annotations

import faulthandler
import fcntl
import os
import stat
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Generator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

SHORTEST_S, TIMES_MEDIAN, KNOWN_AFTER = 60.0, 10.0, 3
"""The usual limit: ten times this process's median, a minute at least, once it has done three pieces."""
PREFIX, SUFFIX, YOUNG_S = "clarep-ray-", ".stack", 60.0
"""Of the files for stack traces; one younger than that may not be locked yet."""
_seconds: dict[str, list[float]] = defaultdict(list)
"""What this process's pieces of work took, by their kind."""


@contextmanager
def deadline(seconds: float | None, trace: Path | None, kind: str | None = None) -> Generator[None]:
    """End this process where what is done inside takes longer [s]; `trace` then says where it hung.

    Without `seconds` there is no limit. What this takes enters the `usual_limit` of a `kind` of pieces that are much
    like each other.

    The watching thread needs neither Python nor its lock, so that code that never returns from C is ended as well.
    """
    began = time.monotonic()
    if seconds is None or trace is None:
        yield
    else:
        with trace.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_SH)  # it is no leftover as long as this process lives
            faulthandler.dump_traceback_later(seconds, exit=True, file=file)
            try:
                yield
            finally:
                faulthandler.cancel_dump_traceback_later()
                trace.unlink(missing_ok=True)
    if kind is not None:
        _seconds[kind].append(time.monotonic() - began)


def new_trace(piece: str) -> Path:
    """Return a new file on this machine for the stack trace of a hang: the output may be no folder to write into."""
    remove_empty_traces()
    handle, name = tempfile.mkstemp(prefix=f"{PREFIX}{piece}-", suffix=SUFFIX)
    os.close(handle)
    return Path(name)


@lru_cache(maxsize=1)
def remove_empty_traces() -> None:
    """Remove, once per process, what this user's killed processes left here and what says nothing.

    A trace with a text stays: a run has named it. Of an empty one, the process that would write it holds a lock.
    """
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*{SUFFIX}"):
        with suppress(OSError):  # somebody holds it, or has just removed it
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                found = os.fstat(handle)
                ours = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid()
                if ours and not found.st_size and time.time() - found.st_mtime > YOUNG_S:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink()
            finally:
                os.close(handle)


def usual_limit(kind: str) -> float | None:
    """Return how long a piece may take that is like this process's earlier ones [s]; None while they are too few."""
    if len(_seconds[kind]) < KNOWN_AFTER:
        return None
    return max(SHORTEST_S, TIMES_MEDIAN * statistics.median(_seconds[kind]))
