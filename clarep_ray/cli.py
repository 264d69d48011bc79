"""Command lines of the jobs: `--preset NAME`, dotted overrides, `--help` for every field, exit code 2 on misuse."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar

import tyro

from clarep_ray.presets import Preset, origin_table

Job = TypeVar("Job")
USAGE_ERROR = 2


def parse(job: Callable[..., Job], presets: Mapping[str, Callable[[], Preset[Any]]], default: str) -> Job:
    """Return the job of the command line: the named preset with the user's dotted overrides.

    `job` is a dataclass with the fields `config` (the preset's config) and `preset` (its name). Exits with 2,
    naming the value and the valid ones, for an unknown preset, key or value.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", default=default)
    name = first.parse_known_args()[0].preset
    if name not in presets:
        fail(f"--preset: {name!r} is unknown; valid: {', '.join(presets)}")
    return tyro.cli(job, default=job(config=presets[name]().config, preset=name))


def fail(message: str, code: int = USAGE_ERROR) -> None:
    """Print one line to stderr and exit."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)


def print_config(preset: Preset[Any], resolved: Any) -> None:
    """Print every field with its value and origin."""
    rows = origin_table(preset, resolved)
    width = max(len(name) for name, _, _ in rows)
    for name, value, origin in rows:
        print(f"  {name:<{width}}  {value!s:<24}  {origin}")


def flat(kind: Any) -> Any:
    """Annotate a job's `config` field so that its fields are flags without a prefix."""
    return Annotated[kind, tyro.conf.arg(name="")]


def job_dataclass(kind: type[Job]) -> type[Job]:
    """Declare a job's command line: a frozen, keyword-only dataclass."""
    return dataclasses.dataclass(frozen=True, kw_only=True)(kind)
