"""Processes of this machine: told apart from later ones of the same number, or started within limits."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

MAX_BYTES, MAX_CPU_S, MAX_WALL_S = 4 * 2**30, 60, 600
LIMITS = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, ({MAX_BYTES}, {MAX_BYTES}))
resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 1))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
"""


def run_within_limits(program: str, data: bytes, cpu_s: int = MAX_CPU_S) -> subprocess.CompletedProcess[bytes]:
    """Run Python code on `data`, its standard input, in a process of its own that sees nothing of this one.

    For libraries that an untrusted file can keep busy, or fill with gigabytes, or end: it may take `cpu_s` seconds of
    CPU time and 4 GiB of address space. Raises subprocess.TimeoutExpired after ten minutes.
    """
    command = [sys.executable, "-I", "-c", LIMITS.replace("SECONDS", str(cpu_s)) + program]
    return subprocess.run(command, input=data, capture_output=True, check=False, timeout=MAX_WALL_S)


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
