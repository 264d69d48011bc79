"""Faults that a user meets, each with the exit code that a job ends with: what they say is that job's last line.

All of them are defined here: so the table of exit codes is whole, and a Ray worker's fault, which may arrive as text
alone, is known wherever it was raised.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

DONE, UNEXPECTED, USAGE_ERROR = 0, 1, 2
OTHERS = {
    DONE: "done, also where nothing was left to do",
    UNEXPECTED: "unexpected: our fault, with a traceback; `verify`: damaged; `replay`: MLflow still lacks something",
    USAGE_ERROR: "a wrong setting or input, or a path that cannot be read or written; before anything expensive",
    137: "killed from outside, without a line: mostly by the kernel, for want of memory",
}
"""What the codes mean that no fault below has."""


class Fault(Exception):
    """What ends a job with one line, and with an exit code of its own; a subclass of a fault keeps its code."""

    code: ClassVar[int]
    meaning: ClassVar[str]


class PoisonedInput(Fault):
    """Samples that kill or hang the process that works on them; everything else is done."""

    code, meaning = 3, "images kill or hang the process that works on them"


class ClusterLost(Fault):
    """Ray's control plane, or the part of Ray on this machine, is gone."""

    code, meaning = 4, "Ray's control plane, or its part on this machine, is lost; the same command continues"


class DiskFull(Fault):
    """A disk or quota is full, or Ray's object store and the disk that it spills to."""

    code, meaning = 5, "a disk or quota is full; with space, the same command continues"


class UnitGivenUp(Fault):
    """A unit was interrupted too often, and no single picture is why: the machine is failing, or memory is short."""

    code, meaning = 6, "a unit was interrupted, or memory was short, too often"


class ResumeRefused(Fault):
    """The output belongs to another run."""

    code, meaning = 7, "the output or the input belongs to another run"


class InputChanged(ResumeRefused):
    """An input file is not the one that was frozen into the manifest."""


class OutputInUse(Fault):
    """Another process works on the output."""

    code, meaning = 8, "another process works on the output, or has taken it over"


class NondeterministicUnit(Fault):
    """A unit was computed twice with different bytes."""

    code, meaning = 9, "a unit came out with other bytes"


class TooManyRejects(Fault):
    """More images than allowed were rejected; everything is written."""

    code, meaning = 10, "too many rejects; everything is written"


class DamagedUnit(Fault):
    """A committed unit whose manifest or files are not as they were committed."""

    code, meaning = 11, "a committed unit is damaged: `jobs/verify.py OUT --repair`"


class Untrusted(Fault):
    """A robust accuracy that gradient masking makes meaningless."""

    code, meaning = 12, "trust checks refused the robust accuracies"


class TrainingDiverged(Fault):
    """The loss or the gradient of a step is no finite number."""

    code, meaning = 13, "a training's loss or gradient is no number"


class StorageFault(Fault):
    """Object storage does not answer, or refuses what an output needs; nothing is damaged by it."""

    code, meaning = 14, "object storage does not answer, or refuses; the same command continues"


class Interrupted(Fault):
    """Stopped by Ctrl-C."""

    code, meaning = 130, "stopped by Ctrl-C; the same command continues"


class Terminated(Interrupted):
    """Stopped by SIGTERM: a time limit, a deletion, preemption."""

    code, meaning = 143, "stopped from outside (SIGTERM: a time limit, a deletion); the same command continues"


def kinds() -> dict[str, type[Fault]]:
    """Return every kind of fault by its name; Ray makes classes of its own from them, which are left out."""
    return {kind.__name__: kind for kind in _below(Fault) if kind.__module__ == __name__}


def _below(kind: type[Fault]) -> Iterator[type[Fault]]:
    for one in kind.__subclasses__():
        yield one
        yield from _below(one)


def meanings() -> dict[int, str]:
    """Return what every exit code means, in order."""
    return dict(sorted(({kind.code: kind.meaning for kind in kinds().values()} | OTHERS).items()))


def table() -> str:
    """Return the table of exit codes as README and the pages of deploy/ have it, in Markdown."""
    rows = [f"| {code} | {meaning} |" for code, meaning in meanings().items()]
    return "\n".join(["| exit code | meaning |", "|---|---|", *rows])
