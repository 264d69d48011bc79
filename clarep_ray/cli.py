"""Command lines of the jobs: `--preset NAME`, dotted overrides, `--help` for every field, exit code 2 on misuse."""

from __future__ import annotations

import argparse
import errno
import sys
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

import tyro

from clarep_ray.presets import Preset, origin_table

Job = TypeVar("Job")
USAGE_ERROR = 2
EXIT_CODES = {"UnitGivenUp": 6, "ResumeRefused": 7, "InputChanged": 7, "NondeterministicUnit": 9, "DamagedUnit": 11}
TOO_MANY_REJECTS = 10


def parse(job: type[Job], presets: Mapping[str, Callable[[], Preset[Any]]], default: str) -> Job:
    """Return the job of the command line: the named preset with the user's dotted overrides.

    `job` is a dataclass with the fields `config` (the preset's config) and `preset` (its name). Exits with 2,
    naming the value and the valid ones, for an unknown preset, key or value.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", default=default)
    name = first.parse_known_args()[0].preset
    if name not in presets:
        fail(f"--preset: {name!r} is unknown; valid: {', '.join(presets)}")
    start: Any = job(config=presets[name]().config, preset=name)  # type: ignore[call-arg]
    return tyro.cli(job, default=start)


def fail(message: str, code: int = USAGE_ERROR) -> NoReturn:
    """Print one line to stderr and exit."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)


def print_config(preset: Preset[Any], resolved: Any) -> None:
    """Print every field with its value and origin."""
    rows = origin_table(preset, resolved)
    width = max(len(name) for name, _, _ in rows)
    for name, value, origin in rows:
        print(f"  {name:<{width}}  {value!s:<24}  {origin}")


@contextmanager
def exit_codes() -> Generator[None]:
    """End the process with one line and a documented code where a known fault is raised inside.

    2: wrong config or input. 5: disk full. 6: a unit was given up. 7: the output or the input belongs to
    another run. 9: a unit came out with other bytes. 11: a committed unit is
    damaged. Anything else keeps its traceback and exits with 1.
    """
    try:
        yield
    except Exception as error:
        for cause in _causes(error):
            code = EXIT_CODES.get(type(cause).__name__)
            if isinstance(cause, OSError) and cause.errno == errno.ENOSPC:
                code = 5
            if code is not None:
                fail(str(cause), code)
        if isinstance(error, ValueError):
            fail(str(error))
        raise


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what it wraps; Ray keeps a worker's error in `cause`."""
    while error is not None:
        yield error
        error = getattr(error, "cause", None) or error.__cause__
