"""What a run has to tell MLflow, on disk first: one append-only file per run, and how far each server has taken it.

`OUT/.mlflow-outbox/RUN/entries.jsonl` holds everything in order and is never shortened, so that a server that lost the
run, or another server, can be told all of it. `sent.json` counts, per server and experiment, the entries it has
acknowledged. A process that dies loses at most the entry it was writing; only a power failure can lose more.

An outbox may be somebody else's: its files are opened through no link (`data/inside.py`), and an entry that asks for
more than words (`entries.py`) is kept where it is and never sent.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from clarep_ray.data.inside import (
    NotInside,
    has_file_inside,
    make_folders_inside,
    open_for_append,
    read_inside,
    read_start_inside,
    write_inside,
)
from clarep_ray.data.plain_json import json_line
from clarep_ray.data.untrusted import MAX_JSON_BYTES, parse_json_object
from clarep_ray.tracking.entries import FILES, REFUSED, RUN, Entry, check_entry
from clarep_ray.tracking.uri import without_credentials

FOLDER = ".mlflow-outbox"
ENTRIES, SENT, LOCK, IMAGES = "entries.jsonl", "sent.json", "lock", "images"
MAX_ENTRIES_BYTES, MAX_FIRST_BYTES = 64 * 2**20, 2**20
"""Of one run's entries, and of the first of them; a training of a week tells some 20 MB."""
MAX_FILES, MAX_RUNS = 10_000, 10_000
"""Files that one run tells, and runs about one output; others are not looked at."""


class OutboxBusy(RuntimeError):
    """Another process is logging this run."""


class Outbox:
    """The entries of one run; one process at a time. Raises OutboxBusy, OSError or NotInside for an unusable folder.

    `folder` is `OUTPUT/.mlflow-outbox/RUN`; RUN, 32 hexadecimal digits, is what the run is called everywhere.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run = folder.name
        if not RUN.fullmatch(self.run):
            raise NotInside(f"{str(folder)!r} is not the outbox of a run; valid: 32 hexadecimal digits")
        self.output.mkdir(parents=True, exist_ok=True)
        make_folders_inside(self.output, self._inside())
        self._lock = open_for_append(self.output, self._inside(LOCK))
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise OutboxBusy(f"another process is logging the run of {str(self.output)!r}") from None
        self._file = os.fdopen(open_for_append(self.output, self._inside(ENTRIES)), "ab", buffering=0)
        data = _read_entries(folder)
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):  # what a kill left of a last entry
            os.truncate(self._file.fileno(), len(whole))
        self.entries: list[Entry] = list(_parsed(whole))

    @property
    def output(self) -> Path:
        """The output folder the run is about."""
        return self.folder.parent.parent

    def _inside(self, name: str = "") -> str:
        """Return the path of one of the outbox's own files relative to the output."""
        return "/".join(part for part in (FOLDER, self.run, name) if part)

    def append(self, entry: Mapping[str, Any]) -> None:
        """Write an entry behind the others; it is the operating system's when this returns.

        Raises ValueError as `check_entry`, OSError where the disk is full.
        """
        check_entry(entry)
        if entry["op"] in FILES and sum(each["op"] in FILES for each in self.entries) >= MAX_FILES:
            raise ValueError(f"a run tells MLflow at most {MAX_FILES} files")
        line, before = json_line(entry), os.fstat(self._file.fileno()).st_size
        if before + len(line) > MAX_ENTRIES_BYTES:
            raise ValueError(f"a run tells MLflow at most {MAX_ENTRIES_BYTES} bytes")
        if self._file.write(line) != len(line):  # the disk is full: no half entry may stay in front of the next
            os.truncate(self._file.fileno(), before)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.folder / ENTRIES))
        self.entries.append(parse_json_object(line, ENTRIES))

    def sent(self, uri: str, experiment: str) -> tuple[int, str]:
        """Return how many entries a server has acknowledged, and its id of the run that has them."""
        count, run_id = self._sent().get(_server(uri, experiment), (0, ""))
        return min(count, len(self.entries)), run_id

    def acknowledge(self, uri: str, experiment: str, count: int, run_id: str) -> None:
        """Note in one step that a server has the first `count` entries, in its run of that id."""
        sent = self._sent() | {_server(uri, experiment): (count, run_id)}
        write_inside(self.output, self._inside(SENT), json_line(sent))

    def save(self, name: str, data: bytes) -> Path:
        """Keep the bytes of an image that an entry will name, under a name of its own; return its path."""
        inside = self._inside(f"{IMAGES}/{name}")
        if not has_file_inside(self.output, inside):
            write_inside(self.output, inside, data)
        return self.output / inside

    def _sent(self) -> dict[str, tuple[int, str]]:
        """Return what is noted of each server; nothing where the note is damaged: entries can be sent again."""
        try:
            found = parse_json_object(read_inside(self.output, self._inside(SENT), MAX_JSON_BYTES), SENT)
        except (OSError, ValueError):
            return {}
        return {
            server: (pair[0], pair[1])
            for server, pair in found.items()
            if isinstance(pair, list) and [type(each) for each in pair] == [int, str] and pair[0] >= 0
        }

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
        first = next(_parsed(_read_entries(folder, first=True)), {})
        if (first.get("job"), first.get("fingerprint")) == (job, fingerprint):
            return Outbox(folder)
    return None


def outboxes_of(output: Path) -> list[Path]:
    """Return the folders of all runs about `output`, the latest written first; links are passed over."""
    times: dict[Path, int] = {}
    root = output / FOLDER
    if root.is_dir() and not root.is_symlink():
        for folder in root.iterdir():
            if RUN.fullmatch(folder.name) and not folder.is_symlink():
                with suppress(OSError):
                    times[folder] = (folder / ENTRIES).lstat().st_mtime_ns
    return sorted(times, key=lambda folder: (times[folder], folder.name), reverse=True)[:MAX_RUNS]


def _read_entries(folder: Path, first: bool = False) -> bytes:
    """Return the bytes of an outbox's entries; none where there are none yet, NotInside where they are no file."""
    name = f"{FOLDER}/{folder.name}/{ENTRIES}"
    try:
        if first:
            return read_start_inside(folder.parent.parent, name, MAX_FIRST_BYTES)
        return read_inside(folder.parent.parent, name, MAX_ENTRIES_BYTES)
    except FileNotFoundError:
        return b""


def _parsed(data: bytes) -> Iterator[Entry]:
    """Yield the whole entries, in place of one that asks for more than it may the reason why it is never sent."""
    files = 0
    for line in data[: data.rfind(b"\n") + 1].splitlines():
        try:
            entry = parse_json_object(line, ENTRIES)
            check_entry(entry)
            if entry["op"] in FILES:
                files += 1
                if files > MAX_FILES:
                    raise ValueError(f"it is the file {files} of at most {MAX_FILES}")
            yield entry
        except ValueError as error:
            yield {"op": REFUSED, "why": str(error)}


def _server(uri: str, experiment: str) -> str:
    """Return a name for a server and experiment that tells no password and does not change with it."""
    return hashlib.sha256(f"{without_credentials(uri)}\n{experiment}".encode()).hexdigest()[:16]
