"""What a process takes on where others died before it: the search for the picture that kills, and its ledger.

Ray starts dead actors and tasks again for ever, and their work with them. So before a process begins on rows of a unit
it notes on disk which ones, and afterwards that it lived through them. A process that finds a note without an end knows
what its predecessor died of, and chooses what to try next from the notes alone.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from clarep_ray.cluster.deadline import deadline, new_trace, usual_limit
from clarep_ray.config import EngineConfig
from clarep_ray.data.plain_json import json_line
from clarep_ray.data.store import Store
from clarep_ray.data.untrusted import Fields, check_fields, parse_json_object
from clarep_ray.errors import PoisonedInput, UnitGivenUp

ATTEMPTS = "attempts"
TWICE = 2
"""Deaths that are no accident: of a whole unit, before its pictures are suspected, and of one picture alone."""
DIED, LIVED, RAISED = "died", "lived", "raised"
MAX_NOTE_BYTES = 16 * 2**20
"""Of a note, which lists the rows of a unit."""
NOTE_FIELDS: Fields = {"host": str, "rows": list, "probe": bool, "stack": str, "limit_s": (float, type(None))}
Result = TypeVar("Result")


@dataclass(frozen=True)
class Attempt:
    """Rows that a process takes on: for the unit's result, or as a probe, only to see whether it lives."""

    rows: frozenset[int]
    probe: bool = False


Work = Callable[[Attempt, Mapping[int, str]], Result]
"""What does an attempt; the rows it is to do without, poison, each with how its last process ended."""


@dataclass(frozen=True)
class Past:
    """An attempt and how it ended; `host` and `stack` say where a hang left its stack trace."""

    attempt: Attempt
    outcome: str
    host: str = ""
    stack: str = ""
    limit_s: float | None = None

    @property
    def how(self) -> str:
        """Say how the process ended, and where a hang has left its stack trace."""
        if not self.stack:
            return f"died on {self.host}"
        stack = Path(self.stack)
        if self.host == socket.gethostname():
            hung = stack.is_file() and stack.stat().st_size > 0
            return f"hung, {self.stack} on {self.host} says where" if hung else f"died on {self.host}"
        return f"died on {self.host}, or hung if {self.stack} there says where"


def search(count: int, most: int) -> Generator[Attempt, bool, None]:
    """Yield what to try next of a unit of `count` rows and be told if the process died; end where it is given up.

    It is over once an attempt on the whole unit, without the rows that were convicted before, is lived through. Of U
    rows, one that always kills is found by at most 3 + log2(U) deaths:

    1. The whole unit is tried until it has killed twice: an accident does not come back.
    2. A stand-in picture is tried alone. If that kills, it is not the pictures; the unit is tried again.
    3. One half is tried, or, where it lives, the other one taken for guilty, until one row is left. That row must kill
       twice alone. If it does not, one of these deaths was an accident, or several pictures kill only together: nothing
       is concluded and the unit is tried again.
    4. The whole unit without that row must live. Only then is the row poison: alone it killed twice, with everything
       else of its unit and without it the same program lives, and before that a process worked on a stand-in.

    `most` deaths of the whole unit, or of a stand-in, since the last conviction end the search: no single picture is
    to blame. What can be blamed wrongly is a picture under which the machine itself failed twice in a row while it was
    tried alone, after it had failed twice under the whole unit.
    """
    rest, deaths = frozenset(range(count)), 0
    while deaths < most:
        yield Attempt(rest)  # gone on with only where the process died
        deaths += 1
        if deaths < min(TWICE, len(rest), most):
            continue
        if (yield Attempt(frozenset(), probe=True)):
            deaths += 1
        elif (found := (yield from _culprit(sorted(rest)))) is not None:
            rest, deaths = rest - {found}, 0


def _culprit(suspects: Sequence[int]) -> Generator[Attempt, bool, int | None]:
    """Return the row that kills alone, twice; None where there is no such row."""
    alone = 0
    while len(suspects) > 1:
        half = suspects[: len(suspects) // 2]  # the smaller one: where it lives, nobody has died
        died = yield Attempt(frozenset(half), probe=True)
        suspects, alone = (half, int(len(half) == 1)) if died else (suspects[len(half) :], 0)
    while suspects and alone < TWICE:
        if not (yield Attempt(frozenset(suspects), probe=True)):
            return None
        alone += 1
    return suspects[0] if suspects else None


def next_attempt(count: int, most: int, past: Sequence[Past]) -> Attempt | None:
    """Return what to try after what has been tried; None where the unit is given up.

    What ended in an error of Python counts for nothing, nor does a finished unit whose result was lost with a node.
    """
    plan = search(count, most)
    attempt: Attempt | None = next(plan)
    for event in past:
        told = event.outcome == DIED or (event.outcome == LIVED and event.attempt.probe)
        if told and event.attempt == attempt:
            try:
                attempt = plan.send(event.outcome == DIED)
            except StopIteration:
                return None
    return attempt


@dataclass(frozen=True)
class Ledger:
    """Notes of one run about one unit: `attempts/RUN/UNIT.NUMBER`, and `.end` beside it."""

    store: Store
    run_id: str
    unit: int | str
    """Its number in an extraction, its name elsewhere."""
    stage: str = ""
    """A stage before the model's, which has attempts of its own: `UNIT-STAGE.NUMBER`."""

    @property
    def piece(self) -> str:
        unit = f"{self.unit:06d}" if isinstance(self.unit, int) else self.unit
        return f"{unit}-{self.stage}" if self.stage else unit

    def begin(self, number: int, attempt: Attempt, stack: str, limit_s: float | None) -> bool:
        """Note that this process begins on rows; False where another one has begun on an attempt of that number."""
        note = {"host": socket.gethostname(), "pid": os.getpid(), "rows": sorted(attempt.rows)}
        note |= {"probe": attempt.probe, "stack": stack, "limit_s": limit_s}
        return self.store.put_new(self._name(number), json_line(note))

    def end(self, number: int, outcome: str) -> None:
        """Note that this process has come to the end of an attempt."""
        self.store.put_new(f"{self._name(number)}.end", outcome.encode())

    def past(self, number: int) -> Past:
        """Return an earlier attempt; one that has no end has died."""
        name = self._name(number)
        note = check_fields(parse_json_object(self.store.read(name, MAX_NOTE_BYTES), name), NOTE_FIELDS, name)
        try:
            outcome = self.store.read(f"{name}.end", MAX_NOTE_BYTES).decode()
        except FileNotFoundError:
            outcome = DIED
        attempt = Attempt(frozenset(note["rows"]), note["probe"])
        return Past(attempt, outcome, note["host"], note["stack"], note["limit_s"])

    def _name(self, number: int) -> str:
        return f"{ATTEMPTS}/{self.run_id}/{self.piece}.{number}"


def survive(ledger: Ledger, count: int, engine: EngineConfig, work: Work[Result], alike: bool = True) -> Result:
    """Return what `work` makes of all rows of a unit but those that kill, over as many processes as that takes.

    What it returns for a probe is dropped. It ends with the process where it takes longer than
    `engine.unit_deadline_s`, or, of units that are `alike`, than is usual here. Raises UnitGivenUp.
    """
    past: list[Past] = []
    while (attempt := next_attempt(count, engine.max_attempts, past)) is not None:
        number, limit_s = len(past) + 1, _limit(engine, past, ledger.stage if alike else None)
        trace = new_trace(ledger.piece) if limit_s is not None else None
        if not ledger.begin(number, attempt, str(trace or ""), limit_s):
            _drop(trace)
            past.append(ledger.past(number))  # of a process that died, or is thought to
            continue
        poison = {} if attempt.probe else {row: _last_words(past, row) for row in set(range(count)) - attempt.rows}
        with _ended(ledger, number), deadline(limit_s, trace, ledger.stage if alike and not attempt.probe else None):
            result = work(attempt, poison)
        if not attempt.probe:
            return result
        past.append(Past(attempt, LIVED))
    deaths = [event for event in past if event.outcome == DIED]
    raise UnitGivenUp(
        f"unit {ledger.unit} was interrupted {len(deaths)} times, and no picture of it kills by itself; "
        f"the last process {deaths[-1].how}; either machines fail, or the kernel kills for want of memory (dmesg, "
        f"OOMKilled of a pod), where what helps is {less_memory(engine)}"
    )


def less_memory(engine: EngineConfig) -> str:
    """Return the settings with which a machine's actors take less memory."""
    return f"--engine.num-actors or --engine.units-in-flight below the present ones, or {smaller_batch(engine)}"


def smaller_batch(engine: EngineConfig) -> str:
    """Return the setting with which one actor takes less memory."""
    return f"--engine.micro-batch below {engine.micro_batch} in a new output (it changes the bits)"


@contextmanager
def _ended(ledger: Ledger, number: int) -> Generator[None]:
    """Note how what is done inside ends, where the process is left to note it."""
    try:
        yield
    except BaseException:
        ledger.end(number, RAISED)
        raise
    ledger.end(number, LIVED)


def _limit(engine: EngineConfig, past: Sequence[Past], kind: str | None) -> float | None:
    """Return how long an attempt may take [s]: as set, or usual here, or, in a new process, as for those before it."""
    if engine.unit_deadline_s is not None:
        return engine.unit_deadline_s
    known = [event.limit_s for event in past if event.limit_s is not None]
    return (None if kind is None else usual_limit(kind)) or max(known, default=None)


def _drop(trace: Path | None) -> None:
    if trace is not None:
        trace.unlink(missing_ok=True)


def _last_words(past: Sequence[Past], row: int) -> str:
    """Say how the last process that was alone with a convicted row ended."""
    alone = [event for event in past if event.outcome == DIED and event.attempt.rows == frozenset({row})]
    return alone[-1].how


def name_poison(what: str, keys: Sequence[str], poison: Mapping[int, str]) -> None:
    """Raise PoisonedInput, naming the pictures of a piece of work and how they killed, where there are any.

    For calibrations and evaluations, whose figures are of all their pictures: none is set aside. To be called after
    the others were lived through.
    """
    if poison:
        named = "; ".join(f"{keys[row]} ({how})" for row, how in sorted(poison.items()))
        raise PoisonedInput(f"{what}: pictures kill or hang the process that works on them: {named}; take them out")
