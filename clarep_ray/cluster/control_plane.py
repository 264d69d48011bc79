"""Watches Ray's control plane from the driver: where it is lost, Ray's libraries wait for ever, or abort in C++."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from typing import NoReturn

from clarep_ray.errors import ClusterLost

LOOK_EVERY_S, ANSWER_WITHIN_S, LOST_AFTER_S = 3.0, 3.0, 40.0
"""How often it is looked at, and how long it must have been silent: one that can be started again has that time."""
_watches = threading.Lock()


def watch() -> None:
    """Watch the cluster that this process has joined, from a thread, as long as it stays joined; one thread does.

    A main thread that is inside Ray's C++ cannot be interrupted: the thread itself ends the process, with ClusterLost's
    code and a line. What was committed stays, and the same command goes on from there.
    """
    if _watches.acquire(blocking=False):
        threading.Thread(target=_watch, name="control plane", daemon=True).start()


def _watch() -> None:
    last_answer = time.monotonic()
    while (address := _address()) is not None:
        if _answers(address):
            last_answer = time.monotonic()
        elif time.monotonic() - last_answer > LOST_AFTER_S:
            _end(address)
        time.sleep(LOOK_EVERY_S)
    _watches.release()


def _address() -> str | None:
    """Return where the control plane of this process's cluster listens; None where it has left it."""
    import ray

    try:
        return ray.get_runtime_context().gcs_address if ray.is_initialized() else None
    except Exception:  # it is leaving: Ray's own state goes away piece by piece
        return None


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_WITHIN_S):
            return True
    except OSError:
        return False


def _end(address: str) -> NoReturn:
    print(
        f"error: Ray's control plane at {address} has been lost for {LOST_AFTER_S:.0f} s; what was committed is safe: "
        "re-run the same command to resume",
        file=sys.stderr,
        flush=True,
    )
    os._exit(ClusterLost.code)
