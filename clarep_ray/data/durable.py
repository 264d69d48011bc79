"""Files that outlive a power loss: whole under their final name, or not there.

A file's bytes are on disk only after fsync of the file, and its name only after fsync of the folder that holds it; what
was not synced may come back in any combination after a crash. An error of the disk names the path and, where it is
full, what is free.
"""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path


def write_file(target: Path, data: bytes) -> None:
    """Write a file under its final name in one step, replacing an older one; the folder must exist."""
    work = target.with_name(f".tmp-{uuid.uuid4().hex}")
    write_new(work, data)
    replace_file(work, target)


def write_new(path: Path, data: bytes) -> None:
    """Write a new file and wait until its bytes are on disk; what a failed attempt wrote is removed again.

    Its name is on disk only once it, or the name it is moved to, is synced with its folder.
    """
    with whole_or_gone(path), path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def whole_or_gone(path: Path) -> Generator[None]:
    """Remove a file whose writing fails inside, and name it in an OSError."""
    try:
        yield
    except FileExistsError:  # not ours
        raise
    except BaseException as error:
        with suppress(OSError):
            path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise _named(error, path) from error
        raise


def replace_file(work: Path, target: Path) -> None:
    """Move a synced file to its final name, in the place of an older one, and wait until that is on disk."""
    work.replace(target)
    sync_folder(target.parent)


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, each of them on disk before anything is put into it."""
    for path in reversed((folder, *folder.parents)):
        if not path.is_dir():
            path.mkdir(exist_ok=True)  # another process may be faster
            sync_folder(path.parent)


@contextmanager
def new_folder(target: Path) -> Generator[Path]:
    """Give a folder to fill inside, which then takes the name of `target`; what lies on disk there is whole or absent.

    An older folder of that name, and what was left by a process that was killed, is removed; one at a time may do this.
    """
    make_folder(target.parent)
    for left in target.parent.glob(f".tmp-*-{target.name}"):
        shutil.rmtree(left)
    work, old = (target.with_name(f".tmp-{kind}-{target.name}") for kind in (os.getpid(), "old"))
    work.mkdir()
    try:
        yield work
        _sync_below(work)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    if target.exists():
        target.rename(old)  # and not emptied under its name, file by file
    work.rename(target)
    sync_folder(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def _sync_below(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            _sync_below(path)
        else:
            with path.open("rb") as file:
                os.fsync(file.fileno())
    sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        raise _named(error, folder) from error
    finally:
        os.close(handle)


def _named(error: OSError, path: Path) -> OSError:
    """Return the same error with its path: what a write or an fsync raises has none."""
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        reason += f" ({shutil.disk_usage(path.parent).free} bytes are free)"
    return OSError(error.errno, reason, str(path))
