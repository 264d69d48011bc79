"""A folder for what Ray keeps on this machine (sockets, logs, token) that this user alone can enter.

Ray gives its own folders mode 0777 and leaves them behind. They lie inside this one, which is 0700 and goes with the
process; what a killed process left goes with the next start. No umask is touched: what a job writes elsewhere keeps
the modes that its user chose.
"""

from __future__ import annotations

import atexit
import errno
import fcntl
import os
import shutil
import stat
import tempfile
import time
from functools import lru_cache, partial
from pathlib import Path

from clarep_ray import stopping
from clarep_ray.data.durable import make_folder
from clarep_ray.data.writable import check_writable

PREFIX, TOKEN, SESSIONS = "clarep.", "auth_token", "r"
"""How its name begins, and all that lies in it; short, for the paths of sockets are."""
LONGEST = 107 - len("/r/session_2026-12-01_00-00-00_000000_4194304/sockets/plasma_store") - 2
"""Of the folder's path: Linux takes 107 bytes of a socket's, and Ray may add a number."""
TRIES, REMOVALS, PAUSE_S = 10, 5, 0.2
"""How often a folder is made, and removed at the end, with a pause: Ray's last processes may still write into it."""


@lru_cache(maxsize=1)
def private_folder() -> Path:
    """Return this process's folder, made on the first call and removed at its end.

    It lies in RAY_TMPDIR, else in the system's folder for temporary files, else in /tmp. Raises ValueError where that
    path is too long for Ray's sockets or cannot be written, OSError where its disk is full.
    """
    parent = _parent()
    check_writable(parent, f"environment: {'RAY_TMPDIR' if os.environ.get('RAY_TMPDIR') else 'TMPDIR'}")
    make_folder(parent)
    _remove_leftovers(parent)
    for _ in range(TRIES):  # another process that starts may take a new one for a leftover
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        if _hold(folder) is not None:  # for as long as this process lives: no program it starts inherits the handle
            atexit.register(stopping.at_end(partial(_remove, folder, os.getpid())))
            return folder
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK), str(parent))


def _parent() -> Path:
    chosen = os.environ.get("RAY_TMPDIR")
    for parent in map(Path, [chosen] if chosen else [tempfile.gettempdir(), "/tmp"]):
        if len(os.fsencode(parent.absolute() / f"{PREFIX}12345678")) <= LONGEST:
            return parent.absolute()
    raise ValueError(
        f"environment: {'RAY_TMPDIR' if chosen else 'TMPDIR'} is {chosen or tempfile.gettempdir()!r}; valid: a path of "
        f"at most {LONGEST - len(PREFIX) - 9} bytes, for Ray's sockets lie below it"
    )


def _hold(folder: Path) -> int | None:
    """Lock a folder of ours and return the handle; None where another process has it, or it is gone or not ours."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        found = os.fstat(handle)
        if found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(found, os.lstat(folder)):  # else it was taken for a leftover before it was locked
                return handle
    except OSError:
        pass
    os.close(handle)
    return None


def _remove_leftovers(parent: Path) -> None:
    """Remove the folders of processes of this user that are gone."""
    for folder in parent.glob(f"{PREFIX}{'?' * 8}"):
        handle = _hold(folder)
        if handle is not None:
            if {path.name for path in folder.iterdir()} <= {TOKEN, SESSIONS}:
                shutil.rmtree(folder, ignore_errors=True)
            os.close(handle)


def _remove(folder: Path, process: int) -> None:
    if os.getpid() != process:  # a fork of it
        return
    for _ in range(REMOVALS):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(PAUSE_S)
