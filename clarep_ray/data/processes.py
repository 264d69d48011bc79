"""Processes of this machine, told apart from later ones of the same number."""

from __future__ import annotations

from pathlib import Path


def machine_mark() -> str:
    """Return the boot of this machine and its space of process numbers; empty where that cannot be known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # no Linux: signs of life decide
        return ""


def start_ticks(pid: int) -> int | None:
    """Return when a living process started, None where there is none of that number."""
    try:
        state, *numbers = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state == "Z" else int(numbers[18])
