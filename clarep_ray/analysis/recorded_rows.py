"""Rows that benchmarks measured, dated and with their hardware: one JSON object each, appended to a file of lines."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from clarep_ray import dotted
from clarep_ray.config.checks import require
from clarep_ray.data.inside import append_inside
from clarep_ray.data.untrusted import MAX_TEXT_BYTES, parse_json_object, read_bounded
from clarep_ray.measured import Table

LIBRARIES = ("torch", "ray", "diffusers", "numpy", "scipy", "torchattacks")


def check_record(file: Path, kind: str) -> None:
    """Raise ValueError where a kind measures nothing, or its rows could not be appended to a file."""
    require(kind != "plot", "record", str(file), "none: plot measures nothing")
    if not file.absolute().parent.is_dir() or (file.exists() and not file.is_file()):
        raise ValueError(f"record: '{file}' is not valid; valid: a file of JSON lines, to be made or not, in a folder")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that a benchmark may measure."""
    return {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES if find_spec(name)}


def hardware() -> dict[str, Any]:
    """Return this machine's processor, its cores that we may use, and its GPU if there is one."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"cpu": _cpu_name(), "cores": len(os.sched_getaffinity(0)), "load": os.getloadavg()[0], "gpu": gpu}


def _cpu_name() -> str:
    listed = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":", 1)[1].strip() for line in listed if line.startswith("model name")]
    return names[0] if names else platform.machine()


def record_rows(file: Path, kind: str, configs: Mapping[str, object], tables: Sequence[Table]) -> int:
    """Append one line for each row of the tables and return how many.

    `configs` are the benchmark's own and, where it starts from one, its preset's.
    """
    flat = {f"{name}.{field}": value for name, each in configs.items() for field, value in dotted.flatten(each).items()}
    about: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "kind": kind,
        "config": dotted.flatten(configs["benchmark"]),
        "fingerprint": dotted.fingerprint(json.loads(json.dumps(flat)))[:16],
        "hardware": hardware(),
        "versions": versions(),
    }
    lines = [json.dumps(about | {"row": row}, allow_nan=False) for table in tables for row in table.records()]
    place = file.resolve()  # the user names it, and may name a link
    append_inside(place.parent, place.name, "".join(f"{line}\n" for line in lines).encode())
    return len(lines)


def read_rows(file: Path) -> list[dict[str, Any]]:
    """Return what `record_rows` appended; ValueError naming a line that is no JSON object of its kind."""
    found: list[dict[str, Any]] = []
    for number, line in enumerate(read_bounded(file, MAX_TEXT_BYTES).splitlines(), 1):
        row = parse_json_object(line, f"{file}:{number}")
        if not {"date", "kind", "config", "row"} <= row.keys():
            raise ValueError(f"{file}:{number} is not valid; valid: a line of jobs/benchmark.py --record")
        found.append(row)
    return found
