"""The exact versions in pyproject.toml, what is asked for, and what the installed packages ask for in their turn."""

import tomllib
from collections.abc import Iterable, Iterator
from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
DEPENDENCIES = [Requirement(text) for text in PROJECT["project"]["dependencies"]]
EXTRAS = {
    name: [Requirement(text) for text in asked] for name, asked in PROJECT["project"]["optional-dependencies"].items()
}
CONSTRAINTS: list[str] = PROJECT["tool"]["uv"]["constraint-dependencies"]


def group(name: str) -> list[Requirement]:
    """Return what a dependency group asks for, included groups too."""
    found: list[Requirement] = []
    for item in PROJECT["dependency-groups"][name]:
        found += [Requirement(item)] if isinstance(item, str) else group(item["include-group"])
    return found


def pins() -> dict[str, tuple[str, ...]]:
    """Return the exact versions by name; several where Python's version chooses."""
    found: dict[str, tuple[str, ...]] = {}
    for text in CONSTRAINTS:
        requirement = Requirement(text)
        (only,) = requirement.specifier
        found[requirement.name] = (*found.get(requirement.name, ()), only.version)
    return found


def needed(asked: Iterable[Requirement]) -> Iterator[tuple[str, Requirement]]:
    """Yield every requirement that holds on this machine and who asks for it, through all that is installed."""
    waiting, done = [("pyproject.toml", item) for item in asked], set[tuple[str, str]]()
    while waiting:
        asker, item = waiting.pop()
        name = canonicalize_name(item.name)
        yield asker, item
        for extra in ({""} | item.extras) - {known for other, known in done if other == name}:
            done.add((name, extra))
            for text in requires(name) or ():
                further = Requirement(text)
                if further.marker is None or further.marker.evaluate({"extra": extra}):
                    waiting.append((name, further))
