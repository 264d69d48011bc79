"""Files inside a folder that somebody else may have filled: by a relative path, through no link, within bounds.

An output is passed from user to user. A link in it could lead a reader to a file that was never meant to be read, and a
writer or a repair to one that was never meant to be changed; a pipe would never end. Every function here opens each
folder on the way and the file itself without following links. The folder itself, which the user names, may be a link.
Libraries that open a path themselves get one that was looked at (`file_inside`, `new_inside`): who can change the
folder at that moment could still put a link there.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import uuid
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path, PurePosixPath
from typing import Any

from clarep_ray.data.untrusted import MAX_JSON_BYTES, Fields, check_fields, parse_json_object

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # opening a pipe would wait for a writer
NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class NotInside(ValueError):
    """A path that leaves its folder, goes through a link, or is not what it should be."""


def parts_inside(name: str) -> tuple[str, ...]:
    """Return the components of a relative path with slashes; NotInside for one that could lead out of its folder."""
    parts = name.split("/")
    if name != str(PurePosixPath(name)) or name[:1] == "/" or "\0" in name or {"", ".", ".."} & set(parts):
        raise NotInside(f"{name[:200]!r} is not a path inside the folder")
    return tuple(parts)


def refuse_links(root: Path, name: str) -> Path:
    """Return the path of a name below `root`; NotInside where it, or a folder on the way, is a link."""
    path = root
    for part in parts_inside(name):
        path = path / part
        if path.is_symlink():
            raise explained(OSError(errno.ELOOP, os.strerror(errno.ELOOP)), path)
    return path


def file_inside(root: Path, name: str) -> Path:
    """Return the path of a regular file for a library that opens it; raises as `read_inside`."""
    with open_inside(root, name):
        return root / name


@contextmanager
def open_inside(root: Path, name: str) -> Generator[BufferedReader]:
    """Give a regular file, open for reading; NotInside as above, OSError where it cannot be opened."""
    with os.fdopen(handle_inside(root, name), "rb") as file:
        yield file


def handle_inside(root: Path, name: str) -> int:
    """Return a handle that reads a regular file, to be closed by the caller; raises as `open_inside`."""
    with _opened(root, name, READ) as handle:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise NotInside(f"{str(root / name)!r} is not a regular file")
        return os.dup(handle)


def read_inside(root: Path, name: str, max_bytes: int) -> bytes:
    """Return the bytes of a file; NotInside as above or where it is too large, OSError where it cannot be opened."""
    with open_inside(root, name) as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise NotInside(f"{str(root / name)!r} has more than {max_bytes} bytes")
    return data


def read_start_inside(root: Path, name: str, max_bytes: int) -> bytes:
    """Return the first bytes of a file, at most so many; raises as `read_inside`."""
    with open_inside(root, name) as file:
        return file.read(max_bytes)


def read_json_inside(root: Path, name: str, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """Return the object that a JSON file holds; raises as `read_inside` and `parse_json_object`."""
    return parse_json_object(read_inside(root, name, max_bytes), str(root / name))


def read_record_inside(root: Path, name: str, kinds: Fields) -> dict[str, Any]:
    """Return what a JSON file says, with these fields; empty where there is none. Raises as `read_json_inside` and
    `check_fields`."""
    try:
        record = read_json_inside(root, name)
    except FileNotFoundError:
        return {}
    return check_fields(record, kinds, str(root / name))


def read_text_inside(root: Path, name: str, max_bytes: int) -> str:
    """Return a text file in UTF-8; raises as `read_inside`, and ValueError for other bytes."""
    try:
        return read_inside(root, name, max_bytes).decode()
    except UnicodeDecodeError:
        raise NotInside(f"{str(root / name)!r} is not UTF-8") from None


def has_file_inside(root: Path, name: str) -> bool:
    """Whether there is a regular file, not a link, of this name; raises as `parts_inside`."""
    parts_inside(name)
    try:
        with _opened(root, name, READ) as handle:
            return stat.S_ISREG(os.fstat(handle).st_mode)
    except (OSError, NotInside):
        return False


def write_inside(root: Path, name: str, data: bytes) -> None:
    """Write a file in one step, in the place of an older one or of a link; the folders on the way are made.

    The bytes and the name are on disk when this returns. Raises as `read_inside`.
    """
    with new_inside(root, name) as path, path.open("wb") as file:
        file.write(data)


@contextmanager
def new_inside(root: Path, name: str) -> Generator[Path]:
    """Give an empty new file to fill, under a name nobody can guess, which then becomes `name`, whole or not at all.

    What was there before, a link too, is replaced, and no link followed; the folders on the way are made. Bytes and
    name are on disk afterwards. Raises as `read_inside`, NotInside where a folder is in the way.
    """
    *folders, last = parts_inside(name)
    if folders:
        make_folders_inside(root, "/".join(folders))
    with _folder(root, folders) as parent:
        work = f".tmp-{uuid.uuid4().hex}"
        os.close(os.open(work, NEW, 0o666, dir_fd=parent))
        try:
            yield root.joinpath(*folders, work)
            handle = os.open(work, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
            os.rename(work, last, src_dir_fd=parent, dst_dir_fd=parent)  # replaces a link, does not follow it
        except BaseException as error:
            with suppress(OSError):
                os.unlink(work, dir_fd=parent)
            if isinstance(error, OSError) and (error.filename is None or error.filename == work):
                raise explained(error, root / name) from error
            raise
        os.fsync(parent)


def append_inside(root: Path, name: str, data: bytes) -> None:
    """Append to a file, which is made where there is none; raises as `read_inside`."""
    with os.fdopen(open_for_append(root, name), "ab") as file:
        file.write(data)


def open_for_append(root: Path, name: str) -> int:
    """Return a handle that reads and appends to a file, which is made where there is none; raises as `read_inside`."""
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    *folders, last = parts_inside(name)
    with _folder(root, folders) as parent:
        try:
            handle = os.open(last, flags, 0o666, dir_fd=parent)
        except OSError as error:
            raise explained(error, root / name) from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise NotInside(f"{str(root / name)!r} is not a regular file")
    return handle


def make_folders_inside(root: Path, name: str) -> None:
    """Make a folder and those above it below `root`, which exists; raises as `read_inside`."""
    parts = parts_inside(name)
    for depth, part in enumerate(parts):
        with _folder(root, parts[:depth]) as parent, suppress(FileExistsError):
            os.mkdir(part, 0o777, dir_fd=parent)
            os.fsync(parent)
    with _folder(root, parts):
        pass


def files_inside(root: Path, name: str = "") -> list[str]:
    """Return the names of the regular files in a folder, in order; links and everything else are left out."""
    with _folder(root, parts_inside(name) if name else ()) as handle, os.scandir(handle) as entries:
        return sorted(entry.name for entry in entries if entry.is_file(follow_symlinks=False))


def entries_inside(root: Path, name: str = "") -> dict[str, bool]:
    """Return {name: whether it is a folder} of all there is in a folder, in order; a link is no folder."""
    with _folder(root, parts_inside(name) if name else ()) as handle, os.scandir(handle) as entries:
        return dict(sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries))


@contextmanager
def _opened(root: Path, name: str, flags: int) -> Generator[int]:
    *folders, last = parts_inside(name)
    with _folder(root, folders) as parent:
        try:
            handle = os.open(last, flags, dir_fd=parent)
        except OSError as error:
            raise explained(error, root / name) from None
    try:
        yield handle
    finally:
        os.close(handle)


@contextmanager
def _folder(root: Path, parts: Sequence[str]) -> Generator[int]:
    """Give a handle of the folder below `root` that the parts name, opened one after the other."""
    handle = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for depth, part in enumerate(parts, 1):
            try:
                below = os.open(part, FOLDER, dir_fd=handle)
            except OSError as error:
                raise explained(error, root.joinpath(*parts[:depth])) from None
            os.close(handle)
            handle = below
        yield handle
    finally:
        os.close(handle)


def explained(error: OSError, path: Path) -> OSError | NotInside:
    """Return the error with its path, and what is free where the disk is full; that of a link is NotInside."""
    if error.errno == errno.ELOOP or (error.errno in (errno.ENOTDIR, errno.EMLINK) and path.is_symlink()):
        return NotInside(f"{str(path)!r} is a link, and links inside an output are not followed")
    if error.errno == errno.ENXIO:
        return NotInside(f"{str(path)!r} is not a regular file")
    if error.errno == errno.EISDIR:
        return NotInside(f"{str(path)!r} is a folder where a file belongs; move it away")
    if error.errno == errno.ENOTDIR:
        return NotInside(f"{str(path)!r} is no folder; move it away")
    return with_path(error, path)


def with_path(error: OSError, path: Path) -> OSError:
    """Return the same error with its path, which what a write or an fsync raises has not, and what is free."""
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        reason += f" ({shutil.disk_usage(path.parent).free} bytes are free)"
    return type(error)(error.errno, reason, str(path))
