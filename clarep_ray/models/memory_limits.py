"""Memory that the control groups of a container or a batch system leave to this process (cgroups(7))."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path


def room_in_cgroups(root: Path = Path("/")) -> float:
    """Return what may still be taken before the tightest limit above this process is met; inf without one [bytes].

    File pages that nobody has used lately count as room: the kernel drops them first.
    """
    found = [limit - used + idle for folder in _folders(root) for limit, used, idle in _usage(folder)]
    return min(found, default=math.inf)


def _folders(root: Path) -> Iterator[Path]:
    """Yield the folders of this process's groups and of all above them, version 2 and version 1.

    Within a container the path is often that of the host, of which only the mount's own root is there.
    """
    listing = root / "proc/self/cgroup"
    if not listing.is_file():
        return
    for line in listing.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / ("memory" if controllers else "")
        group = Path(path.lstrip("/"))
        yield from (mount / above for above in (group, *group.parents) if ".." not in above.parts)


def _usage(folder: Path) -> Iterator[tuple[float, float, float]]:
    """Yield limit, use and idle file pages of a group that has a limit [bytes]."""
    for limit, used, idle in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            wanted = (folder / limit).read_text().strip()
            if wanted != "max":
                stat = dict(line.split(maxsplit=1) for line in (folder / "memory.stat").read_text().splitlines())
                yield float(wanted), float((folder / used).read_text()), float(stat.get(idle, 0))
        except OSError:
            continue  # the root group has no limit, and another version has other files
