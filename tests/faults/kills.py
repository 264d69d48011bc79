"""kill -9 of a fork of this process, before one operation on files below a folder."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

FORK = multiprocessing.get_context("fork")
CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.truncate")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def killed_before(number: int, folder: Path, work: Callable[[], Any]) -> bool:
    """Do work in a fork, killed before its operation `number` on files below a folder; False where it has fewer.

    Operations are those that Python's audit events tell of, every fsync, and what safetensors writes, which is also
    killed half-way.
    """
    process = FORK.Process(target=_work, args=(number, folder, work))
    process.start()
    process.join(timeout=120)
    assert process.exitcode in (0, -signal.SIGKILL), f"operation {number}: exit code {process.exitcode}"
    return process.exitcode == -signal.SIGKILL


def _work(number: int, folder: Path, work: Callable[[], Any]) -> None:
    seen = 0

    def operation() -> bool:
        """Count one; say whether it is the one after which there are no more."""
        nonlocal seen
        seen += 1
        return seen > number

    def step() -> None:
        if operation():
            os.kill(os.getpid(), signal.SIGKILL)

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            changes = isinstance(path, str | os.PathLike) and isinstance(flags, int) and bool(flags & WRITING)
        else:
            path = arguments[0] if event in CHANGES else None
            changes = path is not None
        # shutil.rmtree names files relative to an open folder, of which the event tells no more than its handle
        if changes and (str(path).startswith(str(folder)) or not Path(str(path)).is_absolute()):
            step()

    plain_fsync = os.fsync

    def fsync(handle: int) -> None:
        step()
        plain_fsync(handle)

    import safetensors.torch

    plain_write = safetensors.torch.serialize_file

    def serialize_file(tensors: Any, path: Any, *rest: Any, **more: Any) -> None:
        step()
        plain_write(tensors, path, *rest, **more)
        if operation():
            os.truncate(path, Path(path).stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    os.fsync, safetensors.torch.serialize_file = fsync, serialize_file
    sys.addaudithook(audit)
    work()
