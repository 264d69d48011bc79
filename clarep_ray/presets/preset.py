"""What a preset is: a complete config that says where each of its values comes from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Any, Generic, Literal, TypeVar

from clarep_ray.dotted import flatten, override

Origin = Literal["paper", "inferred", "tuned", "default", "calibrated", "user"]
Config = TypeVar("Config")


@dataclass(frozen=True)
class Preset(Generic[Config]):
    """A config and where its values come from.

    `origins` maps dotted fields to `paper` (in its text, of this very experiment), `inferred` (from public code, prior
    work or another of the paper's experiments) or `tuned` (chosen here by measurement); fields it does not name are
    engineering defaults.
    """

    config: Config
    origins: Mapping[str, Origin]

    def replaced(self, **groups: dict[str, Any]) -> Preset[Config]:
        """Return the preset with the fields of each origin group replaced, and their origins."""
        config, origins = self.config, dict[str, Origin](self.origins)
        for origin, changes in groups.items():
            config = override(config, changes)
            origins.update(dict.fromkeys(changes, origin))  # type: ignore[arg-type]
        return Preset(config, origins)

    def elsewhere(self, *also: str) -> Preset[Config]:
        """Return the preset as the start of another experiment, of which the paper says the same in fields `also`.

        What it says of the first alone is inferred for the other.
        """
        wrong = [name for name in also if self.origins.get(name) != "paper"]
        if wrong:
            raise ValueError(f"also: {wrong[0]!r} is not of the paper in the preset")
        taken_over: dict[str, Origin] = {
            name: "inferred" if origin == "paper" and name not in also else origin
            for name, origin in self.origins.items()
        }
        return Preset(self.config, taken_over)


def with_own_output(make: Callable[[], Preset[Config]], field: str, prefix: str = "") -> Callable[[], Preset[Config]]:
    """Return the preset's function with `field`, its output folder, named after it, so that no preset meets another."""

    @wraps(make)
    def preset() -> Preset[Config]:
        return make().replaced(default={field: f"outputs/{prefix}{make.__name__}"})

    return preset


def origin_table(preset: Preset[Any], resolved: Any) -> list[tuple[str, Any, Origin]]:
    """Return (dotted field, value, origin) rows; a value that differs from the preset's came from the user."""
    before = flatten(preset.config)
    return [
        (name, value, preset.origins.get(name, "default") if value == before[name] else "user")
        for name, value in flatten(resolved).items()
    ]
