"""A piece of work that hangs ends its process, with a stack trace on disk; Ray then starts both again."""

from __future__ import annotations

import faulthandler
import statistics
import time
from collections import defaultdict
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

SHORTEST_S, TIMES_MEDIAN, KNOWN_AFTER = 60.0, 10.0, 3
"""The usual limit: ten times this process's median, a minute at least, once it has done three pieces."""
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
            faulthandler.dump_traceback_later(seconds, exit=True, file=file)
            try:
                yield
            finally:
                faulthandler.cancel_dump_traceback_later()
                trace.unlink(missing_ok=True)
    if kind is not None:
        _seconds[kind].append(time.monotonic() - began)


def usual_limit(kind: str) -> float | None:
    """Return how long a piece may take that is like this process's earlier ones [s]; None while they are too few."""
    if len(_seconds[kind]) < KNOWN_AFTER:
        return None
    return max(SHORTEST_S, TIMES_MEDIAN * statistics.median(_seconds[kind]))
