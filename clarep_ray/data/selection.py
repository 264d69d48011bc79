"""Which rows of an input a config asks for: classes, a share of each, a limit."""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from itertools import islice
from pathlib import Path

from clarep_ray.config import DataConfig
from clarep_ray.data.class_list import LISTED, NUMBER, UNKNOWN, ClassList, display_name, imagenet_wnids
from clarep_ray.data.records import RejectedImage, shown
from clarep_ray.data.sources import Listed, Source
from clarep_ray.data.untrusted import read_lines
from clarep_ray.seeding import draw_rank

CLASS_SUBSETS: dict[str, tuple[int, ...]] = {
    "imagenet20": (
        *(15, 95, 146, 151, 211, 242, 281, 294, 385, 404),
        *(407, 409, 440, 444, 499, 544, 579, 717, 765, 814),
    )
}
"""Label numbers of named subsets; ImageNet20 as in the paper's Sec. 3.2.1."""
UNPUBLISHED_SUBSETS = ("imagenet100",)
"""Named in the paper without their classes."""
LOOKED_AT = 64
"""Files whose first bytes are looked at before a run."""
MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF")
"""First bytes of JPEG, PNG and WebP."""


def select(rows: Iterable[Listed], config: DataConfig, classes: ClassList | None = None) -> list[Listed]:
    """Return the rows a config asks for, in their order: classes, then per class and fraction, then the limit.

    `classes` is what the rows' labels stand for; None: their own names. A class is found by any of its names, else,
    where none is called so, by its label number. `fraction` and `per_class` are stratified; which rows they take
    follows from the seed and the row's id, so adding or removing other files does not reshuffle the choice. Raises
    ValueError for an unknown class or an empty result.
    """
    stratified = config.per_class is not None or config.fraction < 1
    if config.classes:
        chosen = _of_classes(rows, config.classes, classes)
    else:
        chosen = list(rows if stratified else islice(rows, config.limit))
    chosen = (_stratified(chosen, config) if stratified else chosen)[: config.limit]
    if not chosen:
        raise ValueError("data: no image is left after the selection")
    return chosen


def _of_classes(rows: Iterable[Listed], wanted: Sequence[str], classes: ClassList | None) -> list[Listed]:
    if classes is None:
        rows = list(rows)
        named = {row.label: row.class_name for row in rows if row.label != UNKNOWN}
        classes = ClassList(tuple(named.get(label, str(label)) for label in range(max(named, default=-1) + 1)))
    labels: dict[int, str] = {}
    names: set[str] = set()
    for name in read_class_files(wanted):
        if name in CLASS_SUBSETS:
            labels |= {_imagenet_label(number, classes, name): str(number) for number in CLASS_SUBSETS[name]}
        elif (label := _label(name, classes)) is None:
            names.add(name)
        else:
            labels[label] = name
    chosen: list[Listed] = []
    there: dict[int, str] = {}
    others: set[str] = set()
    for row in rows:
        there[row.label] = row.class_name
        others.add(row.class_name)
        if (row.label != UNKNOWN and row.label in labels) or row.class_name in names:
            chosen.append(row)
    for name in [*(name for label, name in labels.items() if label not in there), *sorted(names - others)]:
        raise ValueError(_not_there(name, classes, there, others))
    return chosen


def _label(name: str, classes: ClassList) -> int | None:
    """Return the label of a class by name; by number where none is called so; None where there is none."""
    found = classes.find(name)
    if found is not None or not NUMBER.fullmatch(name):
        return found
    if not classes.named and int(name) in (entries := [int(entry) for entry in classes.names]):
        return entries.index(int(name))  # a folder 007
    return int(name)


def _imagenet_label(number: int, classes: ClassList, subset: str) -> int:
    """Return the label of one of ImageNet's classes: by name, or by number where the input's classes are numbers."""
    wnid = imagenet_wnids()[number]
    found = classes.find(wnid)
    if all(NUMBER.fullmatch(name) for name in classes.names):
        found = next((label for label, name in enumerate(classes.names) if int(name) == number), None)
    if found is None:
        what = f"{display_name(wnid)!r}, class {number} of ImageNet and one of {subset!r},"
        raise ValueError(f"data.classes: {what} is not in the input; valid: {classes}")
    return found


def _not_there(name: str, classes: ClassList, there: dict[int, str], others: Collection[str]) -> str:
    """Return what is wrong with a class that has no image: the nearest names, or the first ones."""
    order = [there[label] for label in sorted(there) if label != UNKNOWN] or sorted(others)
    near = {display_name(other).lower(): display_name(other) for other in (*order, *others)}
    found = [] if NUMBER.fullmatch(name) else difflib.get_close_matches(name.lower(), near, 3)
    meant = f"; near: {', '.join(shown(near[each]) for each in found)}" if found else ""
    first = ", ".join(shown(display_name(other)) for other in order[:LISTED])
    more = f", ... ({len(order)})" if len(order) > LISTED else ""
    label = _label(name, classes)
    known = " (the class has no image)" if label is not None and 0 <= label < len(classes) else ""
    return f"data.classes: {shown(name)!r} is not in the input{known}{meant}; valid: {first}{more}"


def expand_classes(classes: Sequence[str]) -> list[str]:
    """Return the classes with named subsets and files of classes put in place; raises as `read_class_files` does."""
    return [str(each) for name in read_class_files(classes) for each in CLASS_SUBSETS.get(name, (name,))]


def read_class_files(classes: Sequence[str]) -> list[str]:
    """Return the classes with files of classes (@FILE, one a line, # comments) put in place.

    Raises ValueError for a file that cannot be read, or a subset whose classes nobody published.
    """
    expanded: list[str] = []
    for name in classes:
        if name in UNPUBLISHED_SUBSETS:
            raise ValueError(
                f"data.classes: {name!r} is not valid, for the paper does not list its classes; valid: @FILE with one "
                "WordNet id a line, such as imagenet100.txt of Tian et al. (2020), https://github.com/HobbitLong/CMC"
            )
        expanded += _lines(name) if name.startswith("@") else [name]
    return expanded


def _lines(name: str) -> list[str]:
    try:
        lines = read_lines(Path(name[1:]))
    except (OSError, ValueError) as error:
        raise ValueError(f"data.classes: {name!r} cannot be read: {error}") from None
    listed = [text for line in lines if (text := line.partition("#")[0].strip())]
    if not listed:  # no classes would mean all classes
        raise ValueError(f"data.classes: {name!r} names no class; valid: one a line")
    return listed


def _stratified(rows: Sequence[Listed], config: DataConfig) -> list[Listed]:
    by_class: dict[str, list[Listed]] = defaultdict(list)
    for row in rows:
        by_class[row.class_name].append(row)
    kept: set[str] = set()
    for members in by_class.values():
        count = max(1, round(config.fraction * len(members)))
        count = min(count, config.per_class or count)
        kept |= {row.id for row in sorted(members, key=lambda row: draw_rank(config.seed, row.id))[:count]}
    return [row for row in rows if row.id in kept]


def check_images(source: Source, rows: Sequence[Listed]) -> str | None:
    """Look at the first bytes of a spread of rows; return a warning where most begin as no image, else None.

    Raises ValueError where fewer than one in eight does: such an input is something else.
    """
    readable = [row for row in rows if not row.reason and row.label != UNKNOWN]
    tried = readable[:: max(1, len(readable) // LOOKED_AT)][:LOOKED_AT]
    others = [(row, reason) for row in tried if (reason := _why_no_image(source, row))]
    if not others or len(others) * 2 <= len(tried):
        return None
    row, reason = others[0]
    first = f"first: {shown(row.id)!r} ({reason})"
    if len(others) < 7 / 8 * len(tried):
        return f"{len(others)} of {len(tried)} files looked at are no images, {first}"
    count = len(tried) - len(others) or "not one"
    raise ValueError(f"data.path: {count} of {len(tried)} files looked at is an image; no image, {first}")


def _why_no_image(source: Source, row: Listed) -> str:
    try:
        head = source.head(row.source, row.offset, row.size)
    except RejectedImage as rejected:
        return rejected.reason.value.replace("_", " ")
    except OSError as error:
        return str(error.strerror)
    return "" if head.startswith(MAGIC) else "empty" if not head else "not an image"
