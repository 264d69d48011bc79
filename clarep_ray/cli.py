"""Command lines of the jobs: `--preset NAME`, dotted overrides, `--help` for every field, exit code 2 on misuse."""

from __future__ import annotations

import argparse
import builtins
import dataclasses
import errno
import io
import os
import re
import sys
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager, redirect_stderr, suppress
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any, NoReturn, TypeVar, cast

import tyro

from clarep_ray import stopping
from clarep_ray.cluster import control_plane, guards
from clarep_ray.config.credentials import redact
from clarep_ray.data.owner import refuse_used
from clarep_ray.data.records import printable
from clarep_ray.data.store import open_store
from clarep_ray.dotted import check_local, flatten, override, shortened
from clarep_ray.errors import USAGE_ERROR, ClusterLost, DiskFull, Fault, UnitGivenUp, kinds
from clarep_ray.presets import Origin, Preset, Sweep, origin_table

Job = TypeVar("Job")
FULL = (errno.ENOSPC, errno.EDQUOT)
FAILING = (errno.EIO, errno.EROFS, errno.ESTALE, errno.ENODEV, errno.EREMOTEIO)
"""Faults of a disk or its server, which reading and writing raise without a name."""
SHORT_OF_MEMORY = "MemoryError"
"""How the names of such errors end: Python's, NumPy's, Arrow's, torch's and Ray's. Their code is UnitGivenUp's."""
STORE_FULL = ("OutOfDiskError", "ObjectStoreFullError")
"""Of Ray, where its object store is full and so is the disk that it spills to."""
PARTS_LOST = (
    "LocalRayletDiedError",
    "NodeDiedError",
    "ActorUnavailableError",
    "RpcError",
    "ObjectLostError",
    "OwnerDiedError",
)
"""Of Ray, where a machine or a process of its own is gone, or cannot be reached."""
LONGEST_OF_RAY = 200
"""Characters of what it says about that."""
RAISED_HERE = re.compile(
    r'File "[^"\n]*/clarep_ray/[^"\n]*", line \d+, in [^\n]*\n +raise [^\n]*\n'
    r"(?:clarep_ray[\w.]*|ValueError): (?P<message>[^\n]*)"
)
"""A traceback's end: the line of ours that raises, then ValueError or a kind of ours, and what it says."""
LONGEST_LINE = 1000
OURS = Path(__file__).parent
"""What cannot be read in here is our fault, and no input's."""


def parse(
    job: type[Job],
    presets: Mapping[str, Callable[[], Preset[Any]]],
    default: str,
    sweeps: Mapping[str, Callable[[], Sweep]] | None = None,
) -> Job:
    """Return the job of the command line: the named preset with the user's dotted overrides.

    `job` is a dataclass with the fields `config` (the preset's config) and `preset` (its name); one with the field
    `calibration` also takes the settings of that file, which come before the user's, and one with the field `sweep`
    what the named sweep changes. Exits with 2, naming the value and the valid ones, for an unknown preset, key or
    value.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", default=default)
    first.add_argument("--calibration", default=None)
    first.add_argument("--sweep", default=next(iter(sweeps or ()), None))
    known = first.parse_known_args()[0]
    takes_calibration = any(item.name == "calibration" for item in dataclasses.fields(cast(Any, job)))
    more = {"calibration": known.calibration} if takes_calibration else {}
    with exit_codes():
        check_preset(presets, known.preset)
        preset = start_of(presets, known.preset, more.get("calibration"))
        if sweeps is not None:
            preset = start_of_sweep(preset, sweeps, known.sweep)
            more["sweep"] = known.sweep
        start: Any = job(config=preset.config, preset=known.preset, **more)  # type: ignore[call-arg]
        found = read_arguments(partial(tyro.cli, job, default=start))
        if sweeps is not None or getattr(found, "controls", False):  # several outputs, in folders of one
            for name, value in flatten(cast(Any, found).config).items():
                check_local(name, value)
        _check_output(found)
        return found


def read_arguments(read: Callable[[], Job]) -> Job:
    """Return what `read` makes of the command line with tyro; one line and exit code 2 where it refuses it.

    Tyro frames what it has to say, in many lines of the terminal's width: of those, what is wrong is said.
    """
    if {"-h", "--help"} & set(sys.argv[1:]):
        return read()
    for argument in sys.argv[1:]:  # a Path of it would be this folder
        if not argument or re.fullmatch(r"--[\w.-]+=", argument):
            fail(f"{argument or 'an argument'} is not valid: it is empty")
    said, columns = io.StringIO(), os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "100000"  # else words are broken where the line of the frame ends
    try:
        with redirect_stderr(said):
            return read()
    except SystemExit as ended:
        if ended.code != USAGE_ERROR:
            raise
        fail(_unframed(said.getvalue()))
    finally:
        os.environ.pop("COLUMNS")
        if columns is not None:
            os.environ["COLUMNS"] = columns


def _unframed(text: str) -> str:
    """Return the first paragraph of a message of tyro's, and the options that it suggests, on one line."""
    lines = [line.strip("│ ") for line in text.splitlines()[1:]]
    rule = re.compile("[─╭╮╰╯ -]*")  # the frame, in whatever the terminal can show, or an empty line
    first = next((at for at, line in enumerate(lines) if not rule.fullmatch(line)), 0)
    told = " ".join(takewhile(lambda line: not rule.fullmatch(line), lines[first:]))
    near = dict.fromkeys(line.split()[0] for line in lines if re.match("--[a-z]", line))
    meant = f"; near: {', '.join(near)}" if near and "Unrecognized" in told else ""
    return f"{told or 'the command line is not valid'}{meant} (--help tells of every option)"


def _check_output(job: Any) -> None:
    """Raise before anything large is even imported: OutputInUse, and ValueError where the output cannot be written."""
    config = job.config
    nested = hasattr(config.output, "path")
    store = open_store(config.output.path if nested else config.output)
    takes_over = config.engine.take_over if hasattr(config, "engine") else config.take_over
    dry = getattr(job, "dry_run", False)
    if not takes_over and not dry:
        with suppress(OSError):  # for the check to name
            refuse_used(store, "engine.take-over" if hasattr(config, "engine") else "take-over")
    if dry or store.desk == Path(store.where):  # in object storage the run itself checks it, once
        store.check("output.path" if nested else "output")


def start_of(presets: Mapping[str, Callable[[], Preset[Any]]], name: str, calibration: str | None) -> Preset[Any]:
    """Return the named preset with the settings of a `calibration.json`, if any, in place of its own."""
    preset = presets[name]()
    if calibration is None:
        return preset
    from clarep_ray.data.calibration_file import read_calibration

    settings = read_calibration(calibration)["settings"]
    found: dict[str, Origin] = dict.fromkeys(settings, "calibrated")
    return Preset(override(preset.config, settings), {**preset.origins, **found})


def start_of_sweep(preset: Preset[Any], sweeps: Mapping[str, Callable[[], Sweep]], name: str) -> Preset[Any]:
    """Return the preset with what the named sweep changes of it, and an output folder of the sweep's own."""
    if name not in sweeps:
        raise ValueError(f"--sweep: {name!r} is unknown; valid: {', '.join(sweeps)}")
    folder = "output.path" if "output.path" in flatten(preset.config) else "output"
    kind = "clarid" if folder == "output.path" else "cadistill"
    changes = {**sweeps[name]().changes, folder: f"outputs/sweep_{kind}_{name}"}
    return preset.replaced(tuned=changes)


def check_preset(presets: Mapping[str, Any], name: str) -> None:
    """Raise ValueError, listing the known ones, for an unknown preset."""
    if name not in presets:
        raise ValueError(f"--preset: {name!r} is unknown; valid: {', '.join(presets)}")


def preset_config(presets: Mapping[str, Callable[[], Preset[Any]]], name: str) -> Any:
    """Return the config of a named preset; raises as `check_preset`."""
    check_preset(presets, name)
    return presets[name]().config


def fail(message: str, code: int = USAGE_ERROR) -> NoReturn:
    """Print one line to stderr and exit; names of files in it cannot write on the terminal, nor passwords."""
    line = printable(redact(message))
    try:
        print(end="", flush=True)
    except OSError:  # standard output is full, or closed by who read it: nothing more goes there
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if len(line) > LONGEST_LINE:  # its field and its reason are at its ends
        line = f"{line[: LONGEST_LINE * 3 // 4]} ... {line[-LONGEST_LINE // 4 :]}"
    print(f"error: {line}", file=sys.stderr)
    sys.exit(code)


def print_config(preset: Preset[Any], resolved: Any) -> None:
    """Print every field with its value and origin."""
    rows = origin_table(preset, resolved)
    width = max(len(name) for name, _, _ in rows)
    with exit_codes():
        say(f"  {name:<{width}}  {redact(str(value)):<24}  {origin}" for name, value, origin in rows)


def say(lines: Iterable[str]) -> None:
    """Print lines as they come; names of files in them cannot write on the terminal."""
    for line in lines:
        for part in line.split("\n"):
            print(printable(part), flush=True)


@contextmanager
def exit_codes() -> Generator[None]:
    """End the process with one line and the exit code where a fault that has one is raised inside (`errors.table()`).

    Anything else keeps its traceback and exits with 1.
    """
    try:
        guards.check_start()
        yield
        if sys.stdout is not None:  # closed by who started this
            sys.stdout.flush()
    except Exception as error:
        known = known_fault(error)
        if (known is None or known[1] == ClusterLost.code) and (gone := control_plane.lost()):
            stopping.leave(ClusterLost.code, control_plane.line(f"{gone} is lost"))  # Ray's own end would wait for it
        if known is None:
            raise
        fail(*known)


def known_fault(error: BaseException) -> tuple[str, int] | None:
    """Return one line and the exit code of an error that has one, here or in a Ray worker; else None."""
    name = type(error).__name__
    if type(error).__module__.partition(".")[0] == "ray":  # its class may be the worker's error's too, its text is not
        cause = getattr(error, "cause", None)
        known = known_fault(cause) if isinstance(cause, Exception) else None
        return known or _known_line(f"{name}: {error}") or _raised_here(str(error))
    if isinstance(error, Fault):
        return str(error), error.code
    if isinstance(error, OSError):
        return _of_a_file(error)
    if isinstance(error, ValueError):
        return str(error), USAGE_ERROR
    if name.endswith(SHORT_OF_MEMORY):
        return _short_of_memory(str(error))
    return _known_line(str(error))


def _known_line(text: str) -> tuple[str, int] | None:
    """Return what the last line with a known fault says, "package.module.NAME: message": so Ray hands errors on."""
    for line in reversed(text.splitlines()):
        name, _, message = line.strip().partition(": ")
        name = name.rpartition(".")[2]
        if name.isidentifier() and name.endswith(SHORT_OF_MEMORY):
            return _short_of_memory(message)
        if name in STORE_FULL:
            return f"Ray's object store is full, and so is the disk it spills to: {message}", DiskFull.code
        if name in PARTS_LOST:
            return (
                f"Ray has lost a part of itself: {message[:LONGEST_OF_RAY]}; {control_plane.RESUMES}",
                ClusterLost.code,
            )
        if name in kinds():
            return message, kinds()[name].code
        kind = getattr(builtins, name, None)
        if isinstance(kind, type) and issubclass(kind, OSError) and (found := re.match(r"\[Errno (\d+)\] .*", message)):
            full = int(found[1]) in FULL
            if full or message.endswith("'"):
                return message, DiskFull.code if full else USAGE_ERROR
    return None


def _raised_here(text: str) -> tuple[str, int] | None:
    """Return what the last ValueError says that a line of this package raised, in a worker's traceback."""
    found = list(RAISED_HERE.finditer(text))
    return (found[-1]["message"], USAGE_ERROR) if found else None


def _of_a_file(error: OSError) -> tuple[str, int] | None:
    """Return what is wrong with a user's file or folder, or with a disk; None where it is a file of ours, or none."""
    if error.errno in FULL:
        return str(error), DiskFull.code
    name = error.filename
    if name is None and error.errno in FAILING:
        return f"a disk fails, or is gone: {error.strerror}", USAGE_ERROR
    if name is None and isinstance(error, BrokenPipeError):
        return "standard output was closed while there was more to say", USAGE_ERROR
    if not isinstance(name, str | bytes | os.PathLike) or OURS in Path(os.fsdecode(name)).parents:
        return None
    return f"{shortened(os.fsdecode(name))}: {error.strerror}", USAGE_ERROR


def _short_of_memory(message: str) -> tuple[str, int]:
    what = message.strip().partition("\n")[0] or "nothing more is known"
    return f"memory was short: {what}", UnitGivenUp.code
