"""From the outbox to the server, in a thread of its own: in order, each entry until it is acknowledged."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from clarep_ray.config import TrackingConfig
from clarep_ray.config.credentials import redact
from clarep_ray.data.inside import NotInside
from clarep_ray.tracking.delivery import MAX_METRICS, Delivery, Refused
from clarep_ray.tracking.entries import Entry
from clarep_ray.tracking.outbox import FOLDER, MAX_RUNS, Outbox, OutboxBusy, outboxes_of
from clarep_ray.tracking.uri import tracking_uri, without_credentials

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
"""How long the thread lets a server be after a fault: twice as long after each."""
LONGEST_PROBLEM = 300


class Sender:
    """Sends an outbox's entries from where this server's count stands."""

    def __init__(self, outbox: Outbox, uri: str, config: TrackingConfig) -> None:
        self._outbox, self._uri, self._experiment = outbox, uri, config.experiment
        self._delivery = Delivery(outbox, uri, config.experiment, config.registered_model)
        self._news, self._ending = threading.Event(), threading.Event()
        self._problem = ""
        self._refused: list[str] = []
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Say that there are new entries."""
        self._news.set()

    def end(self) -> None:
        """Stop once everything is sent, or at the next fault."""
        self._ending.set()
        self._news.set()

    def finish(self, patience_s: float | None = None) -> str | None:
        """Send what can be sent, stop, and return what is wrong; None where the server has everything.

        Without patience it lasts as long as the server takes entries.
        """
        self.end()
        self._thread.join(patience_s)
        left = len(self._outbox.entries) - self._outbox.sent(self._uri, self._experiment)[0]
        if not self._thread.is_alive():
            self._outbox.close()
        return self._describe(left)

    def _work(self) -> None:
        pause = FIRST_PAUSE_S
        while True:
            self._news.wait()
            self._news.clear()
            try:
                self._send_all()
                pause = FIRST_PAUSE_S
                if self._ending.is_set() and not self._news.is_set():
                    return
            except Exception as error:  # whatever MLflow raises, the entry stays and the job goes on
                self._problem = str(error) or type(error).__name__
                if self._ending.is_set():
                    return
                self._ending.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE_S)
                self._news.set()

    def _send_all(self) -> None:
        sent, _ = self._outbox.sent(self._uri, self._experiment)
        if not self._delivery.finds_run():
            sent = 0  # the server has lost the run, or never had it
        while sent < len(self._outbox.entries):
            for part in self._deliver(_together(self._outbox.entries, sent)):
                sent += len(part)
                self._outbox.acknowledge(self._uri, self._experiment, sent, self._delivery.run_id)
        self._problem = ""

    def _deliver(self, entries: Sequence[Entry]) -> Iterator[Sequence[Entry]]:
        """Send entries together, or one by one where together they are refused; yield what has been dealt with."""
        try:
            self._delivery.deliver(entries)
            yield entries
        except Refused as refused:
            if len(entries) == 1:
                self._refused.append(f"{entries[0]['op']}: {refused}")
                yield entries
                return
            for entry in entries:
                yield from self._deliver([entry])

    def _describe(self, left: int) -> str | None:
        where = without_credentials(self._uri)
        if left:
            problem = redact(self._problem or "it takes too long")[:LONGEST_PROBLEM]
            return (
                f"MLflow at {where} has not taken {left} of {len(self._outbox.entries)} entries: {problem}; they are "
                f"sent by the next run of this job, or by: uv run jobs/replay.py {self._outbox.output}"
            )
        if self._refused:
            shown = redact("; ".join(self._refused))[:LONGEST_PROBLEM]
            return f"MLflow at {where} refused {len(self._refused)} of {len(self._outbox.entries)} entries: {shown}"
        return None


def _together(entries: Sequence[Entry], start: int) -> Sequence[Entry]:
    """Return the next entry, or as many metrics as fit into one call."""
    stop, count = start, 0
    while stop < len(entries) and entries[stop]["op"] == "metrics":
        count += len(entries[stop]["values"])
        if count > MAX_METRICS:
            break
        stop += 1
    return entries[start : max(stop, start + 1)]


def replay(root: Path, config: TrackingConfig) -> dict[str, str | None]:
    """Send what is left in every outbox in `root` and below; return {output folder: what is wrong, or None}.

    Outer folders come first, for their runs are the parents of the inner ones. Raises ValueError where there is none.
    """
    folders: list[Path] = []
    for folder, names, _ in os.walk(root):  # follows no links
        if FOLDER in names:
            names.remove(FOLDER)
            folders += reversed(outboxes_of(Path(folder)))
        if len(folders) > MAX_RUNS:
            raise ValueError(f"output: {str(root)!r} holds more than {MAX_RUNS} runs; valid: a folder below it")
    if not folders:
        raise ValueError(
            f"output: {str(root)!r} is not valid; valid: an output folder of a run with --tracking.enabled"
        )
    found: dict[str, str | None] = {}
    for folder in sorted(folders, key=lambda folder: len(folder.parts)):
        output = folder.parent.parent
        try:
            outbox = Outbox(folder)
        except (OutboxBusy, OSError, NotInside) as error:
            found[str(output)] = str(error)
            continue
        sender = Sender(outbox, tracking_uri(config, output), config)
        sender.wake()
        found[str(output)] = sender.finish()
    return found
