"""What a run has told already, read from its entries, so that a job that continues tells nothing twice."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from clarep_ray.tracking.entries import Entry


class Told:
    """The sum of a run's entries."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.params: dict[str, str] = {}
        self.tags: dict[str, str] = {}
        self.metrics: dict[tuple[str, int], float] = {}
        self.images: dict[tuple[str, int], str] = {}
        self.artifacts: dict[str, str] = {}
        self.datasets: list[dict[str, Any]] = []
        self.models: list[str] = []
        self.status: str | None = None
        """How the run ended; None while it goes on."""
        for entry in entries:
            self.add(entry)

    def add(self, entry: Entry) -> None:
        """Take in one entry."""
        match entry["op"]:
            case "open":
                self.tags |= entry["tags"]
            case "params":
                self.params |= entry["values"]
            case "tags":
                self.tags |= entry["values"]
            case "metrics":
                self.metrics |= {(name, entry["step"]): as_number(value) for name, value in entry["values"].items()}
            case "image":
                self.images[entry["key"], entry["step"]] = entry["version"]
            case "artifact":
                self.artifacts[entry["path"]] = entry["version"]
            case "text":
                self.artifacts[entry["name"]] = entry["text"]
            case "dataset":
                self.datasets.append({name: entry[name] for name in ("name", "digest", "source", "context")})
            case "model":
                self.models.append(entry["name"])
            case _:
                pass
        self.status = entry["status"] if entry["op"] == "close" else None

    def has_point(self, key: str, step: int, value: float) -> bool:
        """Say whether the last value of a metric at this step was this one; NaN equals NaN."""
        before = self.metrics.get((key, step))
        return before is not None and (before == value or (math.isnan(before) and not math.isfinite(value)))


def as_number(value: float | None) -> float:
    """Return a metric's value as an entry holds it: NaN for None, which stands for whatever is not finite."""
    return math.nan if value is None else value
