"""The lines of a training's metrics.jsonl, as its workers write them, as metrics of a run."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from clarep_ray.data.inside import read_inside
from clarep_ray.data.untrusted import MAX_TEXT_BYTES, check_fields, parse_json_object
from clarep_ray.tracking.run import Run

LOOK_EVERY_S = 2.0
COUNTERS = ("epoch", "step")
"""Fields of a line that count lines; one of them is its step."""


@contextmanager
def following(run: Run, path: Path, step: str) -> Generator[None]:
    """Tell every line of `path`, one JSON object of numbers, while the body runs; `step` names the field of its step.

    Lines that were told before, by an earlier process of the same run, are known to the run and not told again.
    """
    done = threading.Event()

    def look() -> None:
        while not done.wait(LOOK_EVERY_S):
            tell_lines(run, path, step)

    thread = threading.Thread(target=look, name="metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        tell_lines(run, path, step)


def tell_lines(run: Run, path: Path, step: str) -> None:
    """Tell every whole line of `path`, as `following` does; one that cannot be read costs a warning."""
    try:
        data = read_inside(path.parent, path.name, MAX_TEXT_BYTES)
        for line in data[: data.rfind(b"\n") + 1].splitlines():  # a last line without its end is still being written
            record = check_fields(parse_json_object(line, str(path)), {step: int}, str(path))
            told = {name: value for name, value in record.items() if name not in COUNTERS and value is not None}
            run.metrics(told, step=record[step])
    except FileNotFoundError:
        return
    except (OSError, ValueError, TypeError, OverflowError) as error:
        warnings.warn(f"MLflow is not told all of {str(path)!r}: {error!r}", stacklevel=2)
