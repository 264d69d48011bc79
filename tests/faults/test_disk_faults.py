"""A disk that is full or fails, at every file operation: no unit half committed, the path named, then continued."""

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from clarep_ray import cli
from clarep_ray.data.store import UNITS, WORK, OutputStore
from clarep_ray.data.verify import verify
from tests.faults.shim import FailsAt, Op, Trace, shimmed
from tests.faults.small_run import SmallRun, unit_bytes, visible

NEEDS_SPACE = ("create", "write", "link", "replace", "mkdir")
FSYNC = ("fsync", "fsync_folder")
ROWS = {"rows": [], "num_ok": 0}


def disk_full(op: Op) -> None:
    if op.kind in NEEDS_SPACE:
        raise _error(errno.ENOSPC, op)


def half_a_write_and_full(op: Op) -> int | None:
    """Take half of the bytes; the rest comes as a write of its own, which `lasting` lets fail."""
    if op.kind == "write":
        if len(op.data) > 1:
            return len(op.data) // 2
        raise _error(errno.ENOSPC, op)
    return None


def io_error(op: Op) -> None:
    if op.kind != "unlink":
        raise _error(errno.EIO, op)


def read_only(op: Op) -> None:
    raise _error(errno.EROFS, op)


def _error(number: int, op: Op) -> OSError:
    """Return what the system call raises: with names where Python puts them, without for an open file."""
    names = () if op.kind in ("write", *FSYNC) else (str(op.path),)
    return OSError(number, os.strerror(number), *names)


def store_at(root: Path) -> OutputStore:
    shutil.rmtree(root, ignore_errors=True)
    store = OutputStore(root)
    store.prepare()
    return store


def num_operations(root: Path) -> int:
    trace, store = Trace(), store_at(root)
    with shimmed(root, trace):
        store.commit(0, unit_bytes(0), ROWS)
    return len(trace.ops)


FAULTS = [(fault, lasting) for fault in (disk_full, io_error, read_only) for lasting in (False, True)]


@pytest.mark.parametrize(("fault", "lasting"), [*FAULTS, (half_a_write_and_full, True)])
def test_a_fault_at_any_operation_of_a_commit(tmp_path: Path, fault: Callable[[Op], int | None], lasting: bool) -> None:
    root, failed = tmp_path / "out", 0
    for number in range(num_operations(root)):
        store = store_at(root)
        hook = FailsAt(number, fault, lasting)
        error = None
        with shimmed(root, hook):
            try:
                store.commit(0, unit_bytes(0), ROWS)
            except OSError as caught:
                error = caught
        committed = store.committed_units()  # raises where a unit is half there
        if error is not None:
            failed += 1
            assert error.filename is not None, f"operation {number}: {error} names no path"
            assert root in Path(error.filename).parents
            full = error.errno == errno.ENOSPC
            line, code = cli.known_fault(error) or ("", 0)
            assert error.filename in line
            assert code == (5 if full else 2)
        else:
            assert set(committed) == {0}
        assert store.commit(0, unit_bytes(0), ROWS) == (not committed)
        assert {file.name for file in (root / UNITS).iterdir()} == {"000000.json"}
        for entry in store.committed_unit(0)["files"].values():
            assert (root / entry["name"]).read_bytes() in unit_bytes(0).values()
    assert failed >= 3


@pytest.mark.parametrize("number", [0, 1, 2, 3, 8])
def test_short_and_interrupted_writes_are_completed(tmp_path: Path, number: int) -> None:
    def interrupted(op: Op) -> None:
        if op.kind == "write":
            raise InterruptedError(errno.EINTR, "Interrupted system call")

    def a_few_bytes(op: Op) -> int | None:
        return 100 if op.kind == "write" else None

    for hook in (FailsAt(number, interrupted), a_few_bytes):
        store = store_at(tmp_path / "out")
        with shimmed(store.root, hook):
            assert store.commit(0, unit_bytes(0), ROWS)
        for entry in store.committed_unit(0)["files"].values():
            assert (store.root / entry["name"]).read_bytes() in unit_bytes(0).values()


def test_what_a_failed_write_left_takes_no_space(tmp_path: Path) -> None:
    store = store_at(tmp_path / "out")
    with shimmed(store.root, FailsAt(1, half_a_write_and_full, lasting=True)), pytest.raises(OSError, match="free"):
        store.commit(0, unit_bytes(0), ROWS)
    assert list((store.root / WORK).iterdir()) == []


def test_a_disk_full_at_any_operation_of_a_run_exits_with_5_and_is_continued(
    base: Path, golden: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    trace = Trace()
    shutil.rmtree(base)
    base.mkdir()
    with shimmed(base, trace):
        SmallRun()(base / "out")
    for number in (i for i, op in enumerate(trace.ops) if op.kind in NEEDS_SPACE):
        shutil.rmtree(base)
        base.mkdir()
        first, second = SmallRun(), SmallRun()
        with pytest.raises(SystemExit) as ended, cli.exit_codes(), shimmed(base, FailsAt(number, disk_full, True)):
            first(base / "out")
        assert ended.value.code == 5, number
        assert str(base) in capsys.readouterr().err
        with shimmed(base, lambda op: None):
            second(base / "out")
        assert visible(base / "out") == golden, number
        assert not set(first.reported) & set(second.computed), number
    assert verify(base / "out") == []


def test_a_small_disk_that_is_really_full(tmp_path: Path) -> None:
    """A tmpfs of 48 KB takes one unit of two; the job ends with 5 and, given space, ends as ever."""
    command = [
        "unshare",
        "--map-root-user",
        "--mount",
        sys.executable,
        "-m",
        "tests.faults.on_small_disk",
        str(tmp_path),
    ]
    if subprocess.run([*command[:3], "mount", "-t", "tmpfs", "none", str(tmp_path)], capture_output=True).returncode:
        pytest.skip("this machine lets no user mount a tmpfs (unshare --map-root-user --mount)")
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=Path(__file__).parents[2])
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "[Errno 28] No space left on device" in ended.stderr
    assert str(tmp_path) in ended.stderr
