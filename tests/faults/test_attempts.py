"""The picture that kills is found, whatever its place; accidents convict nobody; processes know what others died of."""

import itertools
import json
import math
import multiprocessing
import os
import signal
import socket
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest

from clarep_ray.cluster.attempts import DIED, LIVED, RAISED, Attempt, Ledger, Past, next_attempt, survive
from clarep_ray.config import EngineConfig
from clarep_ray.data.store import OutputStore
from clarep_ray.dotted import override
from clarep_ray.errors import UnitGivenUp

SIZES = (1, 2, 3, 8, 64)
MOST = EngineConfig().max_attempts
Kills = Callable[[frozenset[int]], bool]


def play(count: int, kills: Kills, accidents: Collection[int] = ()) -> tuple[set[int] | None, int]:
    """Return the rows set aside in the end (None: given up) and how many processes died; some by accident."""
    past: list[Past] = []
    while (attempt := next_attempt(count, MOST, past)) is not None:
        died = kills(attempt.rows) or len(past) in accidents
        if not died and not attempt.probe:
            return set(range(count)) - attempt.rows, sum(event.outcome == DIED for event in past)
        past.append(Past(attempt, DIED if died else LIVED))
        assert len(past) < 1000, "it never ends"
    return None, sum(event.outcome == DIED for event in past)


def any_of(*poison: int) -> Kills:
    return lambda rows: not rows.isdisjoint(poison)


@pytest.mark.parametrize("count", SIZES)
def test_one_poisonous_row_is_found_wherever_it_is(count: int) -> None:
    deaths = []
    for row in range(count):
        found, died = play(count, any_of(row))
        assert found == {row}
        deaths.append(died)
    assert max(deaths) <= 3 + math.log2(count)


@pytest.mark.parametrize("count", SIZES[1:])
def test_two_poisonous_rows_are_both_found(count: int) -> None:
    for pair in itertools.combinations(range(count), 2):
        found, died = play(count, any_of(*pair))
        assert found == set(pair)
        assert died <= 2 * (3 + math.log2(count))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_unit_of_poison_alone_keeps_nothing(count: int) -> None:
    assert play(count, any_of(*range(count)))[0] == set(range(count))


@pytest.mark.parametrize("count", SIZES)
def test_an_accident_at_any_attempt_changes_no_verdict(count: int) -> None:
    for accident in range(24):
        assert play(count, any_of(), {accident})[0] == set()
        for row in range(count):
            assert play(count, any_of(row), {accident})[0] == {row}, f"accident at attempt {accident}"


@pytest.mark.parametrize("count", [2, 3, 8])
def test_three_accidents_convict_nobody(count: int) -> None:
    for accidents in itertools.combinations(range(16), 3):
        assert play(count, any_of(), accidents)[0] == set(), f"accidents at attempts {accidents}"


@pytest.mark.parametrize(
    "kills",
    [
        pytest.param(lambda rows: True, id="every process dies, whatever it does"),
        pytest.param(lambda rows: {2, 5} <= rows, id="two pictures kill together alone"),
        pytest.param(lambda rows: len(rows) > 2, id="more than two pictures are too much memory"),
    ],
)
def test_deaths_that_no_single_picture_explains_give_the_unit_up(kills: Kills) -> None:
    found, died = play(8, kills)
    assert found is None
    assert died <= MOST * (2 + math.log2(8))


def test_errors_and_results_that_were_lost_count_for_nothing() -> None:
    whole = Attempt(frozenset(range(4)))
    past = [Past(whole, RAISED), Past(whole, LIVED), Past(whole, RAISED), Past(whole, LIVED)]
    assert next_attempt(4, MOST, past) == whole
    assert next_attempt(4, MOST, [*past, Past(whole, DIED)]) == whole
    assert next_attempt(4, MOST, [*past, *2 * [Past(whole, DIED)]]) == Attempt(frozenset(), probe=True)


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def worker(root: Path, engine: EngineConfig, kill: Callable[[], Any], poison: int) -> None:
    """Be a process that works on a unit of four rows; its result says which were set aside, and how they killed."""

    def work(attempt: Attempt, aside: Any) -> str:
        if poison in attempt.rows:
            kill()
        return json.dumps(dict(aside))

    store = OutputStore(root)
    result = survive(Ledger(store, "run", 3), 4, engine, work)
    (root / "result").write_text(result)


def processes(root: Path, engine: EngineConfig, kill: Callable[[], Any], poison: int) -> int:
    """Start one process after another until one has a result; return how many died."""
    OutputStore(root).prepare()
    for died in range(20):
        process = multiprocessing.get_context("fork").Process(target=worker, args=(root, engine, kill, poison))
        process.start()
        process.join(timeout=30)
        if process.exitcode == 0:
            return died
    raise AssertionError("it never ends")


def test_processes_learn_from_the_ledger_what_their_predecessors_died_of(tmp_path: Path) -> None:
    assert processes(tmp_path, EngineConfig(), killed, poison=2) <= 3 + math.log2(4)
    assert (tmp_path / "result").read_text() == json.dumps({2: f"died on {socket.gethostname()}"})
    notes = [path.name for path in (tmp_path / "attempts" / "run").iterdir()]
    assert len([name for name in notes if name.endswith(".end")]) < len(notes) / 2


def test_a_row_that_hangs_is_found_by_its_deadline_and_its_stack_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    engine = override(EngineConfig(), {"unit_deadline_s": 0.5})
    began = time.monotonic()
    died = processes(tmp_path, engine, lambda: time.sleep(1000), poison=1)
    assert died <= 3 + math.log2(4)
    assert time.monotonic() - began < died * (0.5 + 2)
    (how,) = json.loads((tmp_path / "result").read_text()).values()
    words = how.split()
    assert words[0] == "hung,"
    assert "work" in Path(words[1]).read_text()


def test_a_unit_that_no_picture_explains_is_named_with_what_its_last_process_did(tmp_path: Path) -> None:
    OutputStore(tmp_path).prepare()
    ledger = Ledger(OutputStore(tmp_path), "run", 3)
    for number in range(1, MOST + 1):
        attempt = next_attempt(4, MOST, [ledger.past(earlier) for earlier in range(1, number)])
        assert attempt is not None
        assert ledger.begin(number, attempt, "/gone.stack" if number == MOST else "", 5.0)
    ledger.begin(MOST + 1, Attempt(frozenset(), probe=True), "", None)
    with pytest.raises(UnitGivenUp, match=r"unit 3 was interrupted 5 times, and no picture of it kills by itself"):
        survive(ledger, 4, EngineConfig(), lambda attempt, poison: None)


def test_an_error_is_raised_as_it_is_and_the_next_process_begins_anew(tmp_path: Path) -> None:
    OutputStore(tmp_path).prepare()
    ledger = Ledger(OutputStore(tmp_path), "run", 3)
    for _ in range(MOST + 2):
        with pytest.raises(ZeroDivisionError):
            survive(ledger, 4, EngineConfig(), lambda attempt, poison: 1 // 0)
    assert survive(ledger, 4, EngineConfig(), lambda attempt, poison: len(attempt.rows)) == 4


def test_a_new_process_takes_over_the_limit_of_those_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from clarep_ray.cluster import attempts, deadline

    monkeypatch.setattr(deadline, "_seconds", defaultdict(list))  # what this process did before is none of its own
    seen: list[float | None] = []
    plain = attempts.deadline
    monkeypatch.setattr(
        attempts, "deadline", lambda limit, *rest, **more: seen.append(limit) or plain(limit, *rest, **more)
    )
    OutputStore(tmp_path).prepare()
    ledger = Ledger(OutputStore(tmp_path), "run", 3)
    assert ledger.begin(1, Attempt(frozenset(range(4))), "", 77.0)
    survive(ledger, 4, EngineConfig(), lambda attempt, poison: None)
    assert seen == [77.0]
