"""Files that outlive a power loss: whole under their final name, or not there.

A file's bytes are on disk only after fsync of the file, and its name only after fsync of the folder that holds it; what
was not synced may come back in any combination after a crash. An error of the disk names the path and, where it is
full, what is free.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from clarep_ray.data.inside import explained, make_folders_inside, parts_inside, refuse_links, with_path


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
            raise with_path(error, path) from error
        raise


def replace_file(work: Path, target: Path) -> None:
    """Move a synced file to its final name, in the place of an older one, and wait until that is on disk."""
    try:
        work.replace(target)
    except OSError as error:
        raise explained(error, target) from None
    sync_folder(target.parent)


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, each of them on disk before anything is put into it."""
    for path in reversed((folder, *folder.parents)):
        if not path.is_dir():
            path.mkdir(exist_ok=True)  # another process may be faster
            sync_folder(path.parent)


@contextmanager
def new_folder(root: Path, name: str) -> Generator[Path]:
    """Give a folder to fill inside, which then takes the place of `root/name`; on disk it is whole or absent.

    An older folder of that name, and what was left by a process that was killed, is removed; one at a time may do this.
    A link there is replaced and not followed. NotInside where a folder on the way is a link.
    """
    *folders, last = parts_inside(name)
    make_folder(root)
    if folders:
        make_folders_inside(root, "/".join(folders))
    parent = refuse_links(root, "/".join(folders)) if folders else root
    for left in parent.glob(f".tmp-*-{last}"):
        remove_whole(left)
    target = parent / last
    work, old = (parent / f".tmp-{uuid.uuid4().hex}-{last}" for _ in range(2))
    work.mkdir()
    try:
        yield work
        _sync_below(work)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    if os.path.lexists(target):
        target.rename(old)  # and not emptied under its name, file by file
    work.rename(target)
    sync_folder(parent)
    with suppress(OSError):
        remove_whole(old)


def remove_whole(path: Path) -> None:
    """Remove a file, a folder with everything in it, or a link and not what it leads to; none is no error."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sync_below(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
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
        raise with_path(error, folder) from error
    finally:
        os.close(handle)
