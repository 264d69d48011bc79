"""Watches the Ray that this process has joined: where its control plane, or its part on this machine, is lost, Ray's
libraries wait for ever, abort in C++, end the process with code 1, or raise whatever they were at."""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

from clarep_ray import stopping
from clarep_ray.errors import ClusterLost

RAYLET = "Ray's part on this machine, the raylet,"
RESUMES = "what was committed is safe: re-run the same command to resume"
LOOK_EVERY_S, ANSWER_WITHIN_S, LOST_AFTER_S = 3.0, 3.0, 40.0
"""How often it is looked at, and how long it must have been silent: one that can be started again has that time."""
STOP_MAY_COME_S = 0.05
"""A signal that stops a terminal's processes may reach the raylet first."""
FIRST_LOOKS_S = 0.02
_watches, _guards, _joining = threading.Lock(), threading.Lock(), threading.Event()


@contextmanager
def watched() -> Generator[None]:
    """Watch the cluster that is joined inside, from two threads, as long as this process stays joined.

    A main thread that is inside Ray's C++ cannot be interrupted: the thread itself ends the process, with ClusterLost's
    code and a line. What was committed stays, and the same command goes on from there.
    """
    _joining.set()
    try:
        _start(_guards, _guard)
        yield
        _start(_watches, _watch)
    finally:
        _joining.clear()


def _start(lock: threading.Lock, work: Callable[[], None]) -> None:
    if lock.acquire(blocking=False):
        threading.Thread(target=work, name="control plane", daemon=True).start()


def lost() -> str | None:
    """Say which part of the cluster that this process has joined is gone now; None where it is there, or none is."""
    if "ray" not in sys.modules:
        return None
    address, raylet = _address(), _raylet()
    if raylet is not None and not _listens(raylet):
        return RAYLET
    if address is not None and not _answers(address):
        return f"Ray's control plane at {address}"
    return None


def _watch() -> None:
    last_answer = time.monotonic()
    while (address := _address()) is not None:
        if _answers(address):
            last_answer = time.monotonic()
        elif time.monotonic() - last_answer > LOST_AFTER_S:
            _end(f"Ray's control plane at {address} has been lost for {LOST_AFTER_S:.0f} s")
        time.sleep(LOOK_EVERY_S)
    _watches.release()


def _guard() -> None:
    """Wait at the raylet of this machine until it is gone: Ray's C++ ends a process that then talks to it."""
    while (raylet := _raylet()) is not None or _joining.is_set():
        if raylet is None:
            time.sleep(FIRST_LOOKS_S)
            continue
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.connect(raylet)
            while client.recv(4096):  # it has nothing to say to who says nothing
                pass
        if raylet == _raylet() and not _listens(raylet):
            stopping.silence(1)  # Ray puts twenty lines of the raylet's log there
            time.sleep(STOP_MAY_COME_S)
            _end(f"{RAYLET} is lost")
        time.sleep(LOOK_EVERY_S)
    _guards.release()


def _address() -> str | None:
    """Return where the control plane of this process's cluster listens; None where it has left it."""
    import ray

    try:
        return ray.get_runtime_context().gcs_address if ray.is_initialized() else None
    except Exception:  # it is leaving: Ray's own state goes away piece by piece
        return None


def _raylet() -> str | None:
    """Return the socket of the raylet that this process talks to; None where there is none, or it cannot be told."""
    import ray

    try:
        worker: Any = sys.modules["ray._private.worker"]
        joined = ray.is_initialized() or _joining.is_set()
        return worker._global_node.raylet_socket_name if joined else None
    except Exception:  # there is no node yet, or this Ray calls it something else: the control plane is still watched
        return None


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_WITHIN_S):
            return True
    except OSError:
        return False


def _listens(path: str) -> bool:
    """Say whether anybody has a socket open; one that is busy has."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(ANSWER_WITHIN_S)
        try:
            client.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            pass
        return True


def line(what: str) -> str:
    """Return what a job says that has lost its cluster."""
    return f"error: {what}; {RESUMES}"


def _end(what: str) -> NoReturn:
    if stopping.is_stopped():
        while True:
            time.sleep(LOOK_EVERY_S)  # that thread ends the process
    stopping.leave(ClusterLost.code, line(what))
