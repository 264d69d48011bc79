"""One driver at a time works on an output, out of courtesy: a second one would only waste its time.

Nothing rests on this: units are published put-if-absent, so that two drivers, or one that was thought dead and wakes
up, write the same output as one (`tests/faults/test_owner.py`). The owner is the process of the highest
`OUTPUT/tmp/owner.EPOCH`, a file made put-if-absent: with link(2), which is that on NFS too, or as objects are
(`data/object_owner.py`). A process that is gone from this machine, or one elsewhere that gave no sign of life for
SILENT_S, owns nothing.
"""

from __future__ import annotations

import json
import os
import re
import socket
import threading
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Generator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from clarep_ray import dotted, stopping
from clarep_ray.data.durable import make_folder, write_new
from clarep_ray.data.inside import read_inside, refuse_links
from clarep_ray.data.processes import machine_mark, start_ticks
from clarep_ray.data.store import RUN, WORK, OutputStore, Store, as_store
from clarep_ray.data.untrusted import parse_json_object
from clarep_ray.data.writable import check_writable
from clarep_ray.errors import OutputInUse, StorageFault

HEARTBEAT_S = 10.0
"""How often an owner gives a sign of life, and looks whether it still is the owner."""
MAX_CLAIM_BYTES = 4096
SILENT_S = 120.0
"""After so long without one, an owner on another machine counts as gone."""
PATIENCE_S, LOOK_AGAIN_S = 5.0, 0.05
"""How long a claim is tried: another run may be taking its empty folder away, and a listing may lag behind."""


@dataclass(frozen=True)
class Process:
    """A process, told apart from a later one of the same number."""

    host: str
    pid: int
    machine: str
    """Boot of the machine and its space of process numbers; empty where that cannot be known."""
    ticks: int
    """When the process started, in the machine's own count."""
    since: str
    """When it took the output, for people to read."""


class Claims(ABC):
    """Who said that an output is theirs, by epoch: the highest one counts."""

    where: str

    @abstractmethod
    def epochs(self) -> list[int]:
        """Return the epochs that somebody claimed and has not dropped."""

    @abstractmethod
    def put(self, epoch: int) -> bool:
        """Claim an epoch for this process; False where somebody has. FileNotFoundError: to be tried again."""

    @abstractmethod
    def read(self, epoch: int) -> Process | None:
        """Return who claimed an epoch, None where that cannot be told."""

    @abstractmethod
    def beat(self, epoch: int) -> None:
        """Give a sign of life; FileNotFoundError where the claim is gone."""

    @abstractmethod
    def silent(self, epoch: int) -> bool:
        """Say whether the signs of life have ended, by the clock that stamped them."""

    @abstractmethod
    def drop(self, epochs: Collection[int]) -> None:
        """Remove claims."""

    @abstractmethod
    def tidy(self) -> None:
        """Remove what claiming made in an output where no run has begun."""


@contextmanager
def owned(
    output: Path | Store, take_over: bool = False, say: Callable[[str], None] = print, setting: str = "engine.take-over"
) -> Generator[None]:
    """Own an output inside; OutputInUse, with nothing touched, where a living process does and it is not taken over.

    Raised inside as well, within HEARTBEAT_S, once another process has taken the output from this one.
    """
    claims = _claims(output)
    mine = _acquire(claims, take_over, say, setting)
    watch = _Watch(claims, mine)
    watch.start()
    release = stopping.at_end(lambda: claims.drop([mine]))
    try:
        yield
        watch.look()
    except KeyboardInterrupt:
        if not watch.lost:
            raise
    finally:
        watch.stopped.set()
        watch.join()
        with suppress(StorageFault):  # then the claim stays, of a process that is gone
            claims.drop([mine])
        stopping.not_at_end(release)
        claims.tidy()  # a run that was refused leaves nothing
    if watch.lost:
        raise OutputInUse(f"{claims.where}: another process has taken this output over; what it needs is there")


def refuse_used(output: Path | Store, setting: str) -> None:
    """Raise OutputInUse, with nothing touched, where a living process owns an output; cheap, to be asked first."""
    claims = _claims(output)
    taken = claims.epochs()
    if taken and (line := _in_the_way(claims, max(taken))) is not None:
        raise _in_use(line, setting)


def _claims(output: Path | Store) -> Claims:
    store = as_store(output)
    if isinstance(store, OutputStore):
        return FolderClaims(store.root)
    from clarep_ray.data.object_owner import claims_in

    return claims_in(store)


def _in_use(line: str, setting: str) -> OutputInUse:
    return OutputInUse(f"{line}; wait for it, or stop it from here with --{setting}")


class _Watch(threading.Thread):
    """Gives signs of life, and interrupts the main thread once the output is lost."""

    def __init__(self, claims: Claims, mine: int) -> None:
        super().__init__(name="owner of the output", daemon=True)
        self.claims, self.mine = claims, mine
        self.stopped, self.lost = threading.Event(), False
        self.interrupts = threading.current_thread() is threading.main_thread()

    def run(self) -> None:
        while not self.stopped.wait(HEARTBEAT_S):
            self.look()
            if self.lost:
                if self.interrupts:
                    stopping.interrupt_main()
                return

    def look(self) -> None:
        """Give a sign of life, and see whether the output is lost."""
        try:
            self.claims.beat(self.mine)
            self.lost = max(self.claims.epochs(), default=0) > self.mine
        except FileNotFoundError:
            self.lost = True
        except (OSError, StorageFault):  # a file system that is not there for a while: no reason to stop
            return


def _acquire(claims: Claims, take_over: bool, say: Callable[[str], None], setting: str) -> int:
    """Claim the output and return the epoch; OutputInUse, and ValueError where no claim can be made or seen."""
    until = time.monotonic() + PATIENCE_S
    while True:
        taken = claims.epochs()
        newest = max(taken, default=0)
        if newest and (line := _in_the_way(claims, newest)) is not None:
            if not take_over:
                raise _in_use(line, setting)
            say(f"taking over: {line}")
        elif newest:
            say(f"continuing: {_owner_line(claims, newest)} is gone")
        mine = newest + 1
        if _claimed(claims, mine, until):
            claims.drop(taken)
            return mine
        if time.monotonic() > until:
            raise ValueError(
                f"{claims.where}: it cannot be claimed for this process: within {PATIENCE_S:.0f} s its folder could "
                "not be made, or its listing did not show what was written; valid: a place that does"
            )
        time.sleep(LOOK_AGAIN_S)


def _claimed(claims: Claims, epoch: int, until: float) -> bool:
    """Claim an epoch, and say whether it was free and is the newest, once the listing shows it."""
    try:
        if not claims.put(epoch):
            return False
    except FileNotFoundError:  # a refused run has just taken its empty folder away
        return False
    while (newest := max(claims.epochs(), default=0)) < epoch and time.monotonic() <= until:
        time.sleep(LOOK_AGAIN_S)
    if newest != epoch:  # another one was faster, or the listing lags too far behind
        claims.drop([epoch])
    return newest == epoch


def _in_the_way(claims: Claims, epoch: int) -> str | None:
    """Return whose an output is, or None where that process is gone."""
    owner = claims.read(epoch)
    if owner is not None and owner.machine and owner.machine == this_process().machine:
        gone = start_ticks(owner.pid) != owner.ticks
    else:
        gone = claims.silent(epoch)
    return None if gone else _owner_line(claims, epoch)


def _owner_line(claims: Claims, epoch: int) -> str:
    owner = claims.read(epoch)
    who = f"process {owner.pid} on {owner.host}, since {owner.since}" if owner else "a process that cannot be told"
    return f"{claims.where} is in use by {who}"


def claim_name(epoch: int) -> str:
    """Return what the claim of an epoch is called."""
    return f"owner.{epoch:06d}"


def epochs_of(names: Collection[str]) -> list[int]:
    """Return the epochs of the claims among names."""
    return [int(found[1]) for name in names if (found := re.fullmatch(r"owner\.(\d{6,15})", name, re.ASCII))]


def process_bytes() -> bytes:
    """Return this process as a claim holds it."""
    return json.dumps(asdict(this_process())).encode()


def parse_process(data: bytes) -> Process | None:
    """Return the process of a claim, None where it is damaged."""
    try:
        found = Process(**parse_json_object(data, "a claim"))
        dotted.check_types(found)
        return found
    except (ValueError, TypeError):
        return None


class FolderClaims(Claims):
    """Claims as files in `OUTPUT/tmp`; their times are signs of life."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.absent = [path for path in (self.folder, *self.folder.parents) if not path.exists()]
        self.where = str(self.folder)

    @property
    def work(self) -> Path:
        """Where the claims lie; NotInside where that is a link."""
        return refuse_links(self.folder, WORK)

    def epochs(self) -> list[int]:
        return epochs_of([path.name for path in self.work.iterdir()] if self.work.is_dir() else [])

    def put(self, epoch: int) -> bool:
        check_writable(self.folder)
        make_folder(self.work)
        return _put(self._path(epoch))

    def read(self, epoch: int) -> Process | None:
        try:
            return parse_process(read_inside(self.folder, f"{WORK}/{claim_name(epoch)}", MAX_CLAIM_BYTES))
        except (OSError, ValueError):
            return None

    def beat(self, epoch: int) -> None:
        os.utime(self._path(epoch), follow_symlinks=False)

    def silent(self, epoch: int) -> bool:
        return _silent(self._path(epoch))

    def drop(self, epochs: Collection[int]) -> None:
        for epoch in epochs:
            self._path(epoch).unlink(missing_ok=True)

    def tidy(self) -> None:
        if not (self.folder / RUN).is_file():
            with suppress(OSError):
                self.work.rmdir()
                for path in self.absent:
                    path.rmdir()

    def _path(self, epoch: int) -> Path:
        return self.work / claim_name(epoch)


def _put(path: Path) -> bool:
    """Make the file of this process unless there is one; the link count says so even where NFS lost the answer."""
    work = path.with_name(uuid.uuid4().hex)
    write_new(work, process_bytes())
    try:
        with suppress(FileExistsError):
            os.link(work, path)
        return work.stat().st_nlink == 2
    finally:
        work.unlink()


def _silent(path: Path) -> bool:
    """Say whether an owner's signs of life have ended, by the clock of the file system where ours says so first."""
    try:
        last = path.lstat().st_mtime
        if time.time() - last <= SILENT_S:
            return False
        probe = path.with_name(uuid.uuid4().hex)
        probe.touch(exist_ok=False)
        now = probe.stat().st_mtime
        probe.unlink()
    except FileNotFoundError:  # it has just ended
        return True
    return now - last > SILENT_S


def this_process() -> Process:
    """Return this process, as it calls itself in an output."""
    since = datetime.now(UTC).isoformat(timespec="seconds")
    pid = os.getpid()
    return Process(socket.gethostname(), pid, machine_mark(), start_ticks(pid) or 0, since)
