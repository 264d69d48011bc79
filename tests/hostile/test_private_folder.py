"""Ray's sockets, logs and token lie in a folder of one process that no other user can enter, and that goes with it."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from clarep_ray.cluster import private_folder

CODE = """
import sys
from clarep_ray.cluster.private_folder import private_folder
print(private_folder(), flush=True)
(private_folder() / "r").mkdir(mode=0o777)
open(sys.argv[1], "w").close()
sys.stdin.read()
"""


@pytest.fixture
def parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "t"
    folder.mkdir()
    monkeypatch.setattr(private_folder, "LONGEST", 1000)  # tests have long paths
    monkeypatch.setenv("RAY_TMPDIR", str(folder))
    return folder


def start(parent: Path, written: Path) -> tuple[subprocess.Popen[str], Path]:
    code = "from clarep_ray.cluster import private_folder\nprivate_folder.LONGEST = 1000\n" + CODE
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(written)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "RAY_TMPDIR": str(parent)},
        umask=0o022,
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def end(process: subprocess.Popen[str], *, kill: bool = False) -> None:
    if kill:
        process.send_signal(signal.SIGKILL)
    process.communicate("", timeout=60)


def test_it_is_one_users_and_one_process_s(parent: Path, tmp_path: Path) -> None:
    """Two processes have two; what they write elsewhere has the modes of their own umask."""
    first, of_first = start(parent, tmp_path / "first")
    second, of_second = start(parent, tmp_path / "second")
    assert of_first != of_second
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in (of_first, of_second)} == {0o700}
    end(first)
    end(second)
    assert {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("first", "second")} == {0o644}
    assert list(parent.iterdir()) == []


def test_what_a_killed_process_left_goes_with_the_next_start_and_nothing_else(parent: Path, tmp_path: Path) -> None:
    alive, of_alive = start(parent, tmp_path / "alive")
    killed, of_killed = start(parent, tmp_path / "killed")
    end(killed, kill=True)
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").touch()
    victim.chmod(0o700)
    (parent / f"{private_folder.PREFIX}12345678").symlink_to(victim)
    for name, mode in (("0open123", 0o755), ("backup_1", 0o700), ("12345", 0o700)):
        (parent / f"{private_folder.PREFIX}{name}").mkdir()
        (parent / f"{private_folder.PREFIX}{name}").chmod(mode)
    (parent / f"{private_folder.PREFIX}backup_1" / "thesis.tex").touch()
    (parent / "clarep-ray-000000-x.stack").touch()
    os.mkfifo(parent / f"{private_folder.PREFIX}fifo1234")
    left = {path.name for path in parent.iterdir()} - {of_killed.name}
    last, of_last = start(parent, tmp_path / "last")
    assert {path.name for path in parent.iterdir()} == left | {of_last.name}
    assert (victim / "file").exists()
    assert of_alive.is_dir()
    end(last)
    end(alive)


def test_a_folder_that_is_taken_before_it_is_held_is_made_again(parent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private_folder.private_folder.cache_clear()
    hold, calls = private_folder._hold, []

    def late(folder: Path) -> int | None:
        calls.append(folder)
        if len(calls) == 1:
            folder.rmdir()
        return hold(folder)

    monkeypatch.setattr(private_folder, "_hold", late)
    found = private_folder.private_folder()
    assert (len(calls), found) == (2, calls[1])
    monkeypatch.setattr(private_folder, "_hold", lambda folder: None)
    private_folder.private_folder.cache_clear()
    with pytest.raises(OSError, match="No locks available"):
        private_folder.private_folder()
    private_folder.private_folder.cache_clear()


def test_a_path_too_long_for_sockets_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    private_folder.private_folder.cache_clear()
    monkeypatch.setenv("RAY_TMPDIR", "/tmp/" + "x" * 40)
    with pytest.raises(ValueError, match=r"^environment: RAY_TMPDIR is '/tmp/x+'; valid: a path of at most 2\d bytes"):
        private_folder.private_folder()


def test_a_long_tmpdir_of_the_system_is_passed_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setattr(private_folder.tempfile, "gettempdir", lambda: "/scratch/" + "x" * 40)
    assert private_folder._parent() == Path("/tmp")
