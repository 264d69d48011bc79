"""Two drivers on one output: the second is told to wait, may take over, and neither can harm what the other does."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clarep_ray import cli
from clarep_ray.cluster import compare, distill, train_cdm
from clarep_ray.cluster.calibrate_report import run_calibration
from clarep_ray.cluster.evaluate_report import run_evaluation
from clarep_ray.config import CalibrateConfig, DistillConfig, EvaluateConfig, TrainCdmConfig
from clarep_ray.data import owner
from clarep_ray.data.owner import owned
from clarep_ray.data.store import OutputStore
from clarep_ray.dotted import override
from clarep_ray.errors import NondeterministicUnit, OutputInUse
from tests.faults.crashes import Disk
from tests.faults.light_driver import NUM_UNITS, unit_files
from tests.faults.shim import Op, TakingTurns, shimmed
from tests.faults.small_run import SmallRun, visible

ROOT = Path(__file__).parents[2]
Start = Callable[..., "subprocess.Popen[str]"]


def quiet(line: str) -> None:
    pass


def tree(root: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(root.rglob("*"))}


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts drivers on `tmp_path/out` and ends them all."""
    running: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "tests.faults.light_driver", str(tmp_path / "out"), *arguments]
        pipe = subprocess.PIPE
        running.append(subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=ROOT))
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.communicate()


def until(process: "subprocess.Popen[str]", words: str) -> None:
    assert process.stdout is not None
    assert any(words in line for line in process.stdout), process.communicate()[1]


def check(root: Path) -> None:
    units = OutputStore(root).committed_units()
    assert sorted(units) == list(range(NUM_UNITS))
    for unit, manifest in units.items():
        assert (root / manifest["files"]["shards"]["name"]).read_bytes() == unit_files(unit)["shards"]
    assert len(list((root / "shards").iterdir())) == NUM_UNITS


def test_a_second_driver_is_refused_may_take_over_and_a_zombie_harms_nothing(tmp_path: Path, start: Start) -> None:
    root = tmp_path / "out"
    first = start("0.3")
    until(first, "unit 1")
    first.send_signal(signal.SIGSTOP)
    before, began = tree(root), time.monotonic()
    second = start("0")
    _, error = second.communicate(timeout=60)
    seconds = time.monotonic() - began
    assert second.returncode == 8, error
    assert f"is in use by process {first.pid} on " in error
    assert "--engine.take-over" in error
    assert tree(root) == before
    assert seconds < 5 or (os.getloadavg()[0] > 2 * (os.cpu_count() or 1))  # what it takes is its imports
    third = start("0", "take-over")
    output, error = third.communicate(timeout=60)
    assert third.returncode == 0, error
    assert f"taking over: {root} is in use by process {first.pid}" in output
    check(root)
    before = visible(root)
    first.send_signal(signal.SIGCONT)
    _, error = first.communicate(timeout=30)
    assert first.returncode == 8, error
    assert "another process has taken this output over" in error
    check(root)
    assert visible(root) == before


def test_a_driver_whose_output_is_taken_stops_while_the_other_works(tmp_path: Path, start: Start) -> None:
    first = start("1")
    until(first, "unit 0")
    second = start("0.2", "take-over")
    until(second, "started")
    _, error = first.communicate(timeout=30)
    assert first.returncode == 8, error
    assert second.wait(timeout=60) == 0
    check(tmp_path / "out")


def test_a_killed_driver_is_followed_at_once(tmp_path: Path, start: Start) -> None:
    first = start("0.1")
    until(first, "unit 3")
    first.kill()
    first.wait()
    second = start("0")
    output, error = second.communicate(timeout=60)
    assert second.returncode == 0, error
    assert f"continuing: {tmp_path / 'out'} is in use by process {first.pid}" in output
    assert "unit 3" not in output
    check(tmp_path / "out")
    assert list((tmp_path / "out" / "tmp").glob("owner.*")) == []


ELSEWHERE = replace(owner.this_process(), host="elsewhere", machine="another boot")


def leave_owner(root: Path, monkeypatch: pytest.MonkeyPatch, process: owner.Process, age_s: float) -> None:
    (root / "tmp").mkdir(parents=True)
    with monkeypatch.context() as patch:
        patch.setattr(owner, "this_process", lambda: process)
        assert owner._put(root / "tmp" / "owner.000007")
    os.utime(root / "tmp" / "owner.000007", (time.time() - age_s,) * 2)


def test_an_owner_elsewhere_is_gone_when_it_is_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave_owner(tmp_path / "out", monkeypatch, ELSEWHERE, owner.SILENT_S + 5)
    said: list[str] = []
    with owned(tmp_path / "out", say=said.append):
        assert [path.name for path in (tmp_path / "out" / "tmp").iterdir()] == ["owner.000008"]
    assert len(said) == 1
    assert said[0].startswith("continuing: ")


@pytest.mark.parametrize("jump_s", [-86_400, 0, 86_400], ids=["clock back a day", "clock right", "clock ahead a day"])
def test_an_owner_elsewhere_that_gives_signs_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump_s: float
) -> None:
    leave_owner(tmp_path / "out", monkeypatch, ELSEWHERE, 5)
    before, plain = tree(tmp_path), time.time
    monkeypatch.setattr(owner.time, "time", lambda: plain() + jump_s)
    with pytest.raises(OutputInUse, match="on elsewhere, since"), owned(tmp_path / "out"):
        pass
    assert tree(tmp_path) == before


def test_a_later_process_of_the_same_number_is_another_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    me = owner.this_process()
    leave_owner(tmp_path / "out", monkeypatch, replace(me, ticks=me.ticks - 1), 0)
    with owned(tmp_path / "out", say=quiet):
        pass


def test_of_many_at_once_one_owns_the_output(tmp_path: Path) -> None:
    owners: list[int] = []

    def contend(number: int, together: threading.Barrier, over: threading.Barrier) -> None:
        together.wait()
        try:
            with owned(tmp_path / "out", say=quiet):
                owners.append(number)
                over.wait()
        except OutputInUse:
            over.wait()

    for _ in range(20):
        owners.clear()
        together, over = threading.Barrier(6, timeout=20), threading.Barrier(6, timeout=20)
        threads = [threading.Thread(target=contend, args=(number, together, over)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=30)
        assert len(owners) == 1
    assert list(tmp_path.rglob("*owner*")) == []


def refused(job: Callable[[], Any], root: Path) -> None:
    with owned(root):
        before = tree(root)
        with pytest.raises(SystemExit) as ended, cli.exit_codes():
            job()
        assert ended.value.code == 8
        assert tree(root) == before


@pytest.mark.parametrize("name", ["calibrate", "evaluate", "distill", "compare", "train_cdm"])
def test_every_job_waits_for_the_owner_of_its_output(tmp_path: Path, name: str) -> None:
    output = {"output": str(tmp_path)}
    jobs: dict[str, Callable[[], Any]] = {
        "calibrate": lambda: run_calibration(override(CalibrateConfig(), output), "digits", quiet),
        "evaluate": lambda: run_evaluation(override(EvaluateConfig(), output), "digits", quiet),
        "distill": lambda: distill.distill(override(DistillConfig(), output)),
        "compare": lambda: compare.compare(override(DistillConfig(), output), (0, 1), quiet),
        "train_cdm": lambda: train_cdm.train_cdm(override(TrainCdmConfig(), output)),
    }
    refused(jobs[name], tmp_path)


def test_an_extraction_waits_for_the_owner_of_its_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from clarep_ray.cluster.extract import run_extraction
    from clarep_ray.config import ExtractConfig

    refused(lambda: run_extraction(override(ExtractConfig(), {"output.path": str(tmp_path)}), quiet), tmp_path)
    run = SmallRun()
    with owned(tmp_path), pytest.raises(OutputInUse):
        run(tmp_path)
    assert run.computed == []
    run(tmp_path, **{"engine.take_over": True})
    assert run.computed == [0, 1]


UNITS = (0, 1)


def interleaved(
    root: Path, seed: int, files: Callable[[int, int], dict[str, bytes]]
) -> tuple[list[Any], list[Op], list]:
    """Let two drivers commit the same units, their file operations in an order drawn from the seed."""
    store = OutputStore(root)
    store.prepare()
    draw = random.Random(seed)
    turns = TakingTurns([draw.randrange(2) for _ in range(80)])
    ops, reports, results = list[Op](), list[tuple[int, int]](), list[Any]()

    def hook(op: Op) -> None:
        turns(op)
        ops.append(op)

    def driver(me: int, ready: threading.Barrier) -> None:
        turns.names[threading.get_ident()] = me
        ready.wait()
        try:
            for unit in UNITS:
                results.append((unit, store.commit(unit, files(me, unit), {"rows": []})))
                reports.append((len(ops), unit))
        except NondeterministicUnit as error:
            results.append(error)
        finally:
            turns.done()

    ready = threading.Barrier(2)
    threads = [threading.Thread(target=driver, args=(me, ready)) for me in range(2)]
    with shimmed(root, hook):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
    return results, ops, reports


@pytest.mark.parametrize("part", range(3))
def test_without_an_owner_two_drivers_still_write_one_output(tmp_path: Path, part: int) -> None:
    """A hundred orders of their operations each; and the power may go as soon as one of them has reported a unit."""
    for seed in range(100 * part, 100 * part + 100):
        root = tmp_path / str(seed) / "out"
        results, ops, reports = interleaved(root, seed, lambda me, unit: unit_files(unit))
        fresh = sorted(unit for unit, first in results if first)
        assert (len(results), fresh) == (4, list(UNITS)), f"seed {seed}: {results}"
        for unit, manifest in OutputStore(root).each_committed():
            assert (root / manifest["files"]["shards"]["name"]).read_bytes() == unit_files(unit)["shards"]
        disk, done = Disk(root.parent, names=dict.fromkeys(FOLDERS), sure=dict.fromkeys(FOLDERS)), 0
        for count, unit in reports:
            for op in ops[done:count]:
                disk.apply(op)
            done = count
            shard = f"out/shards/{unit:06d}-"
            for left in disk.after_power_loss():
                assert left.get(f"out/units/{unit:06d}.json"), f"seed {seed}: unit {unit} was reported and is lost"
                (found,) = [data for name, data in left.items() if name.startswith(shard)]
                assert found == unit_files(unit)["shards"], f"seed {seed}"


FOLDERS = ("out", "out/shards", "out/spectra", "out/units", "out/tmp")


def test_two_drivers_of_different_bytes_are_found_out(tmp_path: Path) -> None:
    for seed in range(10):
        results, _, _ = interleaved(tmp_path / f"out-{seed}", seed, lambda me, unit: {"shards": bytes([me, unit])})
        assert [type(result) for result in results].count(NondeterministicUnit) >= 1, f"seed {seed}: {results}"
        OutputStore(tmp_path / f"out-{seed}").committed_units()


@pytest.mark.parametrize("job", ["extract", "calibrate", "evaluate", "distill", "train_cdm"])
def test_a_command_is_refused_before_anything_large_is_imported(tmp_path: Path, job: str) -> None:
    path = ["--output.path" if job == "extract" else "--output", str(tmp_path)]
    with owned(tmp_path):
        before = tree(tmp_path)
        command = [sys.executable, "-X", "importtime", str(ROOT / "jobs" / f"{job}.py"), *path]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert tree(tmp_path) == before
    assert ended.returncode == 8, ended.stderr[-500:]
    assert f"is in use by process {os.getpid()}" in ended.stderr
    assert "| torch\n" not in ended.stderr
    assert "| ray\n" not in ended.stderr
