"""Every crash of the commit protocol: each file operation, each subset of names not yet synced, torn files.

A run is traced once; from its trace follows everything that a power loss at any moment may leave (`crashes.py`). Each
different outcome is put on disk and the same command continues: what was reported is there, nothing is computed again,
and the output ends as that of an undisturbed run, to the byte. Mutants show that each step of the protocol is needed.
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from clarep_ray.data.clarep_index import ROOT
from clarep_ray.data.shards import sha256_file
from clarep_ray.data.store import UNITS, WORK, OutputStore
from clarep_ray.data.verify import verify
from tests.faults.crashes import Tree, crash_states, in_work
from tests.faults.mutants import MANY_NAMES, MUTANTS, unsynced_start
from tests.faults.shim import Killed, Op, Trace, shimmed
from tests.faults.small_run import NUM_UNITS, SmallRun, visible


def nothing(op: Op) -> None:
    pass


@dataclass
class Traced:
    """Operations, and what had been reported by when: (operations done, unit), None for the whole run."""

    ops: list[Op]
    reports: list[tuple[int, int | None]]
    first: int = 0
    """Crashes before this operation are not looked at."""

    def states(self, base: Path) -> Iterator[tuple[int, Tree, frozenset[int | None]]]:
        for done, tree in crash_states(base, self.ops, self.first):
            yield done, tree, frozenset(unit for when, unit in self.reports if when <= done)


def traced(base: Path, runs: int = 1, kill_at: int | None = None) -> Traced:
    """Trace a run into an empty folder; with two, the first is killed before operation `kill_at`."""
    shutil.rmtree(base, ignore_errors=True)
    base.mkdir()
    trace, reports, first = Trace(kill_at), list[tuple[int, int | None]](), 0
    for _ in range(runs):
        run = SmallRun(on_report=lambda unit: reports.append((len(trace.ops), unit)))
        first, ended = len(trace.ops), False
        with shimmed(base, trace), suppress(Killed):
            run(base / "out")
            ended = True
        if ended:
            reports.append((len(trace.ops), None))
        trace.kill_at = None
    return Traced(trace.ops, reports, first if runs > 1 else 0)


def put(tree: Tree, base: Path) -> None:
    shutil.rmtree(base, ignore_errors=True)
    base.mkdir()
    for path in sorted(tree):
        data = tree[path]
        if data is None:
            (base / path).mkdir()
        else:
            (base / path).write_bytes(data)


def what_is_wrong(root: Path, reported: frozenset[int | None], golden: dict[str, bytes]) -> str | None:
    """Continue a run on what a crash left and return what is lost, doubled or damaged; None where nothing is."""
    store, before = OutputStore(root), set[int]()
    if (root / UNITS).is_dir():
        for unit, manifest in store.each_committed():
            before.add(unit)
            for entry in manifest["files"].values():
                if sha256_file(root / entry["name"]) != entry["sha256"]:
                    return f"unit {unit} is taken for committed, and {entry['name']} is damaged"
    if lost := {unit for unit in reported if unit is not None} - before:
        return f"units {lost} were reported and are lost"
    finished = (root / ROOT).is_file()
    if finished and (found := verify(root)):
        return f"there is a root manifest, and {found[0].what}"
    if None in reported and not finished:
        return "the run was finished, and has no root manifest"
    run = SmallRun()
    with shimmed(root.parent, nothing):
        run(root)
    if set(run.computed) & before:
        return f"units {set(run.computed) & before} were computed again"
    if visible(root) != golden:
        return f"other files or bytes: {visible(root).keys() ^ golden.keys()}"
    return f"{found[0]}" if (found := verify(root)) else None


class Judge:
    """Judges crash states, each different one once."""

    def __init__(self, base: Path, golden: dict[str, bytes]) -> None:
        self.base, self.golden = base, golden
        self.seen: dict[Any, str | None] = {}
        self.states = 0

    def __call__(self, tree: Tree, reported: frozenset[int | None]) -> str | None:
        self.states += 1
        # Names in the work folder are random, and the driver's own temporary files carry its number.
        known = {path: data for path, data in tree.items() if not in_work(path)}
        key = (frozenset(known.items()), reported)
        if key not in self.seen:
            put(tree, self.base)
            try:
                self.seen[key] = what_is_wrong(self.base / "out", reported, self.golden)
            except Exception as error:  # a run that cannot go on is wrong, whatever keeps it
                self.seen[key] = repr(error)
        return self.seen[key]


def first_fault(runs: Sequence[Traced], judge: Judge) -> str | None:
    for run in runs:
        for done, tree, reported in run.states(judge.base):
            if (fault := judge(tree, reported)) is not None:
                last = run.ops[done - 1] if done else None
                return f"power loss after operation {done} ({last and last.kind} {last and last.path.name}): {fault}"
    return None


def test_no_crash_loses_doubles_or_damages_anything(base: Path, golden: dict[str, bytes]) -> None:
    judge = Judge(base, golden)
    run = traced(judge.base)
    assert first_fault([run], judge) is None
    assert judge.states >= 100
    assert {unit for _, unit in run.reports} == {*range(NUM_UNITS), None}


def continued_after_kills(base: Path, golden: dict[str, bytes], everywhere: bool) -> Judge:
    judge = Judge(base, golden)
    whole = traced(base).ops
    # After other operations there is as much in the folders that are read, and as much of it is synced, or more.
    names = [i + 1 for i, op in enumerate(whole) if op.kind == "mkdir" or (op.target and op.target.parent.name != WORK)]
    for kill_at in range(len(whole)) if everywhere else (0, *names):
        fault = first_fault([traced(judge.base, runs=2, kill_at=kill_at)], judge)
        assert fault is None, f"killed before operation {kill_at}: {fault}"
    return judge


def test_a_power_loss_while_a_killed_run_is_continued_loses_nothing(base: Path, golden: dict[str, bytes]) -> None:
    """The killed run's names are not all on disk when the second one starts to build on them."""
    assert continued_after_kills(base, golden, everywhere=False).states >= 400


@pytest.mark.nightly
def test_the_same_after_a_kill_at_every_operation(base: Path, golden: dict[str, bytes]) -> None:
    assert continued_after_kills(base, golden, everywhere=True).states >= 10_000


@pytest.mark.parametrize("name", MUTANTS)
def test_every_step_is_needed(name: str, base: Path, golden: dict[str, bytes]) -> None:
    run = traced(base)
    mutated = MUTANTS[name](run.ops)
    assert len(mutated) == len(run.ops)
    assert mutated != run.ops
    first = run.reports[0][0] if name == MANY_NAMES else 0  # before, nothing was reported that could be lost
    assert first_fault([Traced(mutated, run.reports, first)], Judge(base, golden)) is not None


def test_a_run_must_sync_what_a_killed_one_left(base: Path, golden: dict[str, bytes]) -> None:
    """Killed when the last unit's manifest has its name, and the name is not on disk yet."""
    whole = traced(base).ops
    kill_at = 1 + max(i for i, op in enumerate(whole) if op.kind == "link")
    run = traced(base, runs=2, kill_at=kill_at)
    assert first_fault([run], Judge(base, golden)) is None
    assert first_fault([Traced(unsynced_start(run.ops), run.reports, run.first)], Judge(base, golden)) is not None
