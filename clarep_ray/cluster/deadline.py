"""A piece of work that hangs ends its process, with a stack trace on disk; Ray then starts both again."""

from __future__ import annotations

import faulthandler
import statistics
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

SHORTEST_S, TIMES_MEDIAN, KNOWN_AFTER = 60.0, 10.0, 3
"""The usual limit: ten times this process's median, a minute at least, once it has done three pieces."""
_seconds: list[float] = []
"""What this process's pieces of work took; an actor is a process of its own and does one kind of work."""


@contextmanager
def deadline(seconds: float | None, trace: Path, usual: bool = False) -> Generator[None]:
    """End this process where what is done inside takes longer [s]; `trace` then says where it hung.

    Without `seconds` there is no limit, or, where pieces of work are much like each other, the `usual` one.

    The watching thread needs neither Python nor its lock, so that code that never returns from C is ended as well.
    """
    limit = _usual_limit() if seconds is None and usual else seconds
    began = time.monotonic()
    if limit is None:
        yield
    else:
        with trace.open("w") as file:
            faulthandler.dump_traceback_later(limit, exit=True, file=file)
            try:
                yield
            finally:
                faulthandler.cancel_dump_traceback_later()
                trace.unlink(missing_ok=True)
    _seconds.append(time.monotonic() - began)


def _usual_limit() -> float | None:
    if len(_seconds) < KNOWN_AFTER:
        return None
    return max(SHORTEST_S, TIMES_MEDIAN * statistics.median(_seconds))
