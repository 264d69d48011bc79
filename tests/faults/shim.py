"""Between the product and the file system: sees, refuses or reorders every file operation below a folder."""

import io
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


class Killed(BaseException):
    """The process is dead: nothing it still does reaches the disk."""


@dataclass(frozen=True)
class Op:
    """One operation: `create`, `write`, `fsync`, `link`, `replace`, `unlink`, `mkdir` or `fsync_folder`."""

    kind: str
    path: Path
    target: Path | None = None
    """Where `link` and `replace` lead."""
    data: bytes = b""
    """What `write` writes."""


Hook = Callable[[Op], int | None]
"""Called before an operation; raises in its place, or returns how many bytes a write may take (None: all)."""


class _Raw(io.FileIO):
    """The system calls of a file that is written; Python's own buffering lies above it, as in the product."""

    def __init__(self, path: Path, mode: str, hook: Hook) -> None:
        super().__init__(path, mode)
        self.path, self.hook = path, hook

    def write(self, data: Any) -> int:
        taken = self.hook(Op("write", self.path, data=bytes(data)))
        return super().write(data if taken is None else bytes(data)[:taken]) or 0


@contextmanager
def shimmed(folder: Path, hook: Hook) -> Iterator[None]:
    """Let every operation of this process below a folder pass through the hook."""
    plain = {name: getattr(os, name) for name in ("fsync", "link", "replace", "rename", "unlink", "mkdir", "open")}
    plain_open = io.open

    def ours(path: Any) -> bool:
        return isinstance(path, str | os.PathLike) and folder in (Path(path), *Path(path).parents)

    def open_file(path: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if not ours(path) or not set(mode) & set("wxa"):
            return plain_open(path, mode, *arguments, **options)
        hook(Op("create", Path(path)))
        file = io.BufferedWriter(_Raw(Path(path), mode.replace("b", ""), hook))
        return file if "b" in mode else io.TextIOWrapper(file, encoding="utf-8")

    def fsync(handle: int) -> None:
        path = Path(f"/proc/self/fd/{handle}").readlink()
        if ours(path):
            hook(Op("fsync_folder" if path.is_dir() else "fsync", path))
        # What a power loss leaves is worked out by `tests/faults/crashes.py`; the real disk need not wait for it.

    def below(path: Any, handle: int | None) -> Any:
        """Return a path that is relative to the handle of a folder, as it is."""
        return path if handle is None else Path(f"/proc/self/fd/{handle}").readlink() / path

    def one_path(name: str) -> Callable[..., None]:
        def call(path: Any, *arguments: Any, dir_fd: int | None = None, **options: Any) -> None:
            if ours(found := below(path, dir_fd)):
                hook(Op(name, Path(found)))
            plain[name](path, *arguments, dir_fd=dir_fd, **options)

        return call

    def two_paths(name: str, kind: str) -> Callable[..., None]:
        def call(source: Any, target: Any, **options: Any) -> None:
            here, there = (below(source, options.get("src_dir_fd")), below(target, options.get("dst_dir_fd")))
            if ours(there) and not Path(here).is_dir():
                hook(Op(kind, Path(here), Path(there)))
            plain[name](source, target, **options)

        return call

    def open_handle(path: Any, flags: int, *arguments: Any, dir_fd: int | None = None) -> int:
        if flags & os.O_CREAT and ours(found := below(path, dir_fd)) and not os.path.lexists(found):
            hook(Op("create", Path(found)))
        return plain["open"](path, flags, *arguments, dir_fd=dir_fd)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(io, "open", open_file)
        patch.setattr(os, "fsync", fsync)
        for name, kind in (("link", "link"), ("replace", "replace"), ("rename", "replace")):
            patch.setattr(os, name, two_paths(name, kind))
        patch.setattr(os, "open", open_handle)
        for name in ("unlink", "mkdir"):
            patch.setattr(os, name, one_path(name))
        yield


class Trace:
    """Notes operations that happened, and kills the process before operation `kill_at`."""

    def __init__(self, kill_at: int | None = None) -> None:
        self.ops: list[Op] = []
        self.kill_at = kill_at

    def __call__(self, op: Op) -> None:
        if self.kill_at is not None and len(self.ops) >= self.kill_at:
            raise Killed
        self.ops.append(op)


class FailsAt:
    """Lets one operation fail, or that one and every later write of its kind (a disk that stays full)."""

    def __init__(self, number: int, fault: Callable[[Op], int | None], lasting: bool = False) -> None:
        self.number, self.fault, self.lasting = number, fault, lasting
        self.seen = 0

    def __call__(self, op: Op) -> int | None:
        self.seen += 1
        due = self.seen > self.number if self.lasting else self.seen == self.number + 1
        return self.fault(op) if due else None


class TakingTurns:
    """Two threads' operations in a given order: each waits until it is its turn."""

    def __init__(self, turns: list[int]) -> None:
        self.turns, self.finished = turns, set[int]()
        self.names: dict[int, int] = {}
        self.changed = threading.Condition()

    def __call__(self, op: Op) -> None:
        me = self.names[threading.get_ident()]
        with self.changed:
            assert self.changed.wait_for(lambda: self._next() == me, timeout=20), "the other thread hangs"
            if self.turns:
                self.turns.pop(0)
            self.changed.notify_all()

    def _next(self) -> int | None:
        while self.turns and self.turns[0] in self.finished:
            self.turns.pop(0)
        if self.turns:
            return self.turns[0]
        return next((name for name in self.names.values() if name not in self.finished), None)

    def done(self) -> None:
        with self.changed:
            self.finished.add(self.names[threading.get_ident()])
            self.changed.notify_all()
