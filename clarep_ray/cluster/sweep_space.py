"""Search spaces: read, checked against the config, and laid out as points. Does not import Ray."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from clarep_ray import dotted
from clarep_ray.config import Block, Point, Range, SearchConfig, Space
from clarep_ray.config.found import check_found, may_be_found
from clarep_ray.data.untrusted import read_json
from clarep_ray.seeding import numpy_generator

if TYPE_CHECKING:
    import numpy as np

DRAWS_PER_TRIAL = 20
"""Random draws that may repeat a point before a space counts as exhausted."""


def read_space(path: str) -> Space:
    """Return the space of a JSON file; ValueError where it is none."""
    try:
        found = read_json(Path(path))
    except (OSError, ValueError) as error:
        raise ValueError(f"search.space: {path!r} cannot be read ({error}); valid: a JSON file") from None
    blocks = found if isinstance(found, list) else [found]
    if not all(isinstance(block, dict) for block in blocks):
        raise ValueError(f"search.space: {path!r} holds no space; valid: {{field: values}}, or a list of such")
    return tuple({name: _values(name, given) for name, given in block.items()} for block in blocks)


def _values(name: str, given: Any) -> tuple[Any, ...] | Range:
    if isinstance(given, list):
        values = cast("list[Any]", given)
        return tuple(tuple(value) if isinstance(value, list) else value for value in values)
    if not isinstance(given, dict) or not {"low", "high"} <= set(given) <= {"low", "high", "log"}:
        raise ValueError(f'{name}: {given!r} is not valid; valid: [values], or {{"low": a, "high": b, "log": true}}')
    try:
        return Range(**given)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: {given!r} is not valid: {error}") from None


def check_space(space: Space, config: object, search: SearchConfig) -> None:
    """Raise ValueError for an unknown field, one that cannot change a result, a value of another type, or none."""
    known = dotted.flatten(config)
    if not space or not all(space):
        raise ValueError(f"space: {space!r} is not valid; valid: one field and more in every block")
    for name, values in ((name, values) for block in space for name, values in block.items()):
        dotted.override(config, {name: known.get(name)})  # an unknown one is refused with the known ones
        if not may_be_found(type(config), name) or name.endswith("seed") or name.startswith("output."):
            raise ValueError(f"space: {name!r} is not swept; valid: what changes a result (seeds: --search.seeds)")
        if isinstance(values, Range):
            _check_range(name, values, config, search)
            continue
        if not values:
            raise ValueError(f"{name}: () is not valid; valid: one value or more to try")
        for value in values:
            check_found(type(config), name, value, "space")


def _check_range(name: str, values: Range, config: object, search: SearchConfig) -> None:
    if search.method == "grid":
        raise ValueError(f"{name}: {values} is not valid; valid: a list of values (search.method is grid)")
    for end in (values.low, values.high):
        check_found(type(config), name, end, "space")


def choices(space: Space, name: str) -> tuple[Any, ...]:
    """Return every value of a field that a space can take; of a range, its ends."""
    found = [block[name] for block in space if name in block]
    parts = [(values.low, values.high) if isinstance(values, Range) else values for values in found]
    return tuple(dict.fromkeys(value for part in parts for value in part))


def fields_of(space: Space) -> tuple[str, ...]:
    """Return the fields that a space varies, in its order."""
    return tuple(dict.fromkeys(name for block in space for name in block))


def holds(block: Block, point: Point) -> bool:
    """Say whether a point is one of a block."""
    if set(point) != set(block):
        return False
    pairs = [(block[name], value) for name, value in point.items()]
    return all(
        values.low <= value <= values.high if isinstance(values, Range) else value in values for values, value in pairs
    )


def planned_points(space: Space, search: SearchConfig) -> list[Point]:
    """Return the points that are known before the first trial: all of a grid or of random draws, none of Optuna's.

    Equal points are one. Raises ValueError where a space has fewer points than are to be drawn.
    """
    if search.method == "optuna":
        if len(space) != 1:
            raise ValueError(f"space: {len(space)} blocks are not valid; valid: one where search.method is optuna")
        return []
    points = grid_points(space) if search.method == "grid" else random_points(space, search)
    return list({json.dumps(point, sort_keys=True): point for point in points}.values())


def grid_points(space: Space) -> Iterator[Point]:
    """Yield every combination of every block."""
    for block in space:
        values = cast("Mapping[str, tuple[Any, ...]]", block)
        for chosen in itertools.product(*values.values()):
            yield dict(zip(values, chosen, strict=True))


def random_points(space: Space, search: SearchConfig) -> list[Point]:
    """Return `num_trials` distinct points; the first of them do not depend on how many there are."""
    found: dict[str, Point] = {}
    for number in range(search.num_trials * DRAWS_PER_TRIAL):
        generator = numpy_generator(search.sampler_seed, f"point/{number}", "search")
        block: Block = space[int(generator.integers(len(space)))]
        point = {name: draw(values, generator) for name, values in block.items()}
        found.setdefault(json.dumps(point, sort_keys=True), point)
        if len(found) == search.num_trials:
            return list(found.values())
    raise ValueError(
        f"search.num_trials: {search.num_trials} is not valid; valid: at most the {len(found)} points of this space"
    )


def draw(values: tuple[Any, ...] | Range, generator: np.random.Generator) -> Any:
    """Return one value; of a continuous range with six significant digits, as a table shows it."""
    if not isinstance(values, Range):
        return values[int(generator.integers(len(values)))]
    share = float(generator.random())
    if values.whole and not values.log:
        return int(values.low) + int(share * (values.high - values.low + 1))
    if values.log:
        value = math.exp(math.log(values.low) + share * (math.log(values.high) - math.log(values.low)))
    else:
        value = values.low + share * (values.high - values.low)
    return round(value) if values.whole else float(f"{value:.6g}")
