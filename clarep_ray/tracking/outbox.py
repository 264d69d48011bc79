"""What a run has to tell MLflow, on disk first: one append-only file per run, and how far each server has taken it.

`OUT/.mlflow-outbox/RUN/entries.jsonl` holds everything in order and is never shortened, so that a server that lost the
run, or another server, can be told all of it. `sent.json` counts, per server and experiment, the entries it has
acknowledged. A process that dies loses at most the entry it was writing; only a power failure can lose more.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from clarep_ray.tracking.uri import without_credentials

FOLDER = ".mlflow-outbox"
ENTRIES, SENT, LOCK, IMAGES = "entries.jsonl", "sent.json", "lock", "images"

Entry = dict[str, Any]


class OutboxBusy(RuntimeError):
    """Another process is logging this run."""


class Outbox:
    """The entries of one run; one process at a time. Raises OutboxBusy, and OSError where the folder cannot be used.

    `folder` is `OUTPUT/.mlflow-outbox/RUN`; RUN, 32 hexadecimal digits, is what the run is called everywhere.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run = folder.name
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise OutboxBusy(f"another process is logging the run of {str(self.output)!r}") from None
        self.entries: list[Entry] = list(_whole_entries(folder / ENTRIES))
        self._file = (folder / ENTRIES).open("ab", buffering=0)

    @property
    def output(self) -> Path:
        """The output folder the run is about."""
        return self.folder.parent.parent

    def append(self, entry: Mapping[str, Any]) -> None:
        """Write an entry behind the others; it is the operating system's when this returns."""
        line, before = json.dumps(entry).encode() + b"\n", self._file.tell()
        if self._file.write(line) != len(line):  # the disk is full: no half entry may stay in front of the next
            os.truncate(self.folder / ENTRIES, before)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.folder / ENTRIES))
        self.entries.append(json.loads(line))

    def sent(self, uri: str, experiment: str) -> tuple[int, str]:
        """Return how many entries a server has acknowledged, and its id of the run that has them."""
        count, run_id = _read_sent(self.folder / SENT).get(_server(uri, experiment), (0, ""))
        return min(count, len(self.entries)), run_id

    def acknowledge(self, uri: str, experiment: str, count: int, run_id: str) -> None:
        """Note in one step that a server has the first `count` entries, in its run of that id."""
        sent = _read_sent(self.folder / SENT) | {_server(uri, experiment): (count, run_id)}
        work = self.folder / f".tmp-{SENT}"
        work.write_text(json.dumps(sent))
        work.replace(self.folder / SENT)

    def close(self) -> None:
        """Let go of the files; other processes may then open the outbox."""
        self._file.close()
        os.close(self._lock)


def new_outbox(output: Path) -> Outbox:
    """Return an empty outbox for a new run about `output`."""
    return Outbox(output / FOLDER / uuid.uuid4().hex)


def find_outbox(output: Path, job: str, fingerprint: str) -> Outbox | None:
    """Return the outbox of the run that a job with this fingerprint began in `output`; None where there is none."""
    for folder in outboxes_of(output):
        first = next(_whole_entries(folder / ENTRIES, cut=False), {})
        if (first.get("job"), first.get("fingerprint")) == (job, fingerprint):
            return Outbox(folder)
    return None


def outboxes_of(output: Path) -> list[Path]:
    """Return the folders of all runs about `output`, the latest written first."""
    found = [path.parent for path in (output / FOLDER).glob(f"*/{ENTRIES}")]
    return sorted(found, key=lambda folder: ((folder / ENTRIES).stat().st_mtime_ns, folder.name), reverse=True)


def _whole_entries(path: Path, *, cut: bool = True) -> Iterator[Entry]:
    """Yield the entries; what a kill left of a last one is cut off the file first."""
    data = path.read_bytes() if path.is_file() else b""
    whole = data[: data.rfind(b"\n") + 1]
    if cut and len(whole) < len(data):
        os.truncate(path, len(whole))
    yield from map(json.loads, whole.splitlines())


def _read_sent(path: Path) -> dict[str, tuple[int, str]]:
    return json.loads(path.read_bytes()) if path.is_file() else {}


def _server(uri: str, experiment: str) -> str:
    """Return a name for a server and experiment that tells no password and does not change with it."""
    return hashlib.sha256(f"{without_credentials(uri)}\n{experiment}".encode()).hexdigest()[:16]
