"""What a list of classes is, and how two of them meet: by name where both have names, else by number, or not at all.

Data, diffusion models, prompts, judges, students, teachers, CLAReps and benchmarks each number their classes in an
order of their own. Label 3 of one is label 3 of another only by accident, so every place that joins two lists asks
`match` which label of one is which of the other.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise
from typing import Any, Literal

from clarep_ray.data.records import shown

IMAGENET_CLASSES = 1000
UNKNOWN = -1
"""In place of a label: the other list has no such class."""
LISTED = 3
"""Names that a message shows of a list."""
SPACES = str.maketrans("_-", "  ")
MAX_SHOWN = 80
"""Characters of a name in a gallery or a table."""
NUMBER, WNID = re.compile(r"[0-9]{1,9}"), re.compile(r"n[0-9]{8}")
SAME_CLASS = {"plane": "airplane", "aeroplane": "airplane", "car": "automobile"}
"""Other words for CIFAR-10's classes."""
IN_ORDER = 0.5
"""Share of a thousand names that must stand where ImageNet has them for its order to settle the doubtful ones."""


class ClassMismatch(ValueError):
    """Two lists of classes contradict each other, or nothing says how their labels correspond."""


@dataclass(frozen=True)
class ClassList:
    """What the labels 0..n-1 stand for.

    Without names (`named` is False) an entry of `names` is a number as text: the label's own, or that of a folder.
    """

    names: tuple[str, ...]
    named: bool = True
    assumed: bool = False
    """Nothing names the classes: their number alone says what they are (`by_convention`)."""

    def __post_init__(self) -> None:
        if not self.named and not all(NUMBER.fullmatch(name) for name in self.names):
            raise ValueError("class list: entries without names are numbers")

    def __len__(self) -> int:
        return len(self.names)

    @staticmethod
    def of_count(count: int) -> ClassList:
        """Return `count` classes of which nothing says what they are."""
        return ClassList(tuple(map(str, range(count))), named=False)

    @staticmethod
    def by_convention(count: int) -> ClassList:
        """Return `count` classes that nothing names: a thousand are ImageNet-1k's in their usual order.

        Released models of ImageNet seldom name their classes, and no other thousand is in use. Of ten, say, no such
        thing holds: they have no names.
        """
        if count != IMAGENET_CLASSES:
            return ClassList.of_count(count)
        return ClassList(imagenet_wnids(), assumed=True)

    @staticmethod
    def of_names(names: Sequence[object]) -> ClassList:
        """Return the list of a file that gives each label's name.

        "0", "1", ... or "LABEL_0", ... in their order are no names: libraries write them where nobody gave any.
        """
        given = tuple(map(str, names))
        numbers = tuple(map(str, range(len(given))))
        if given in (numbers, tuple(f"LABEL_{number}" for number in numbers)):
            return ClassList.of_count(len(given))
        return ClassList(given)

    @staticmethod
    def of_labels(names: Mapping[Any, object]) -> ClassList:
        """Return the list of a mapping {label: name}, as `id2label` of a config.json; labels may be text.

        Raises ValueError where the labels are not 0 to n - 1.
        """
        try:
            by_label = {int(label): name for label, name in names.items()}
            return ClassList.of_names([by_label[label] for label in range(len(names))])
        except (KeyError, TypeError, ValueError):
            first = ", ".join(shown(repr(label))[:40] for label in list(names)[:LISTED])
            raise ValueError(f"labels {first} are not 0 to {len(names) - 1}") from None

    @staticmethod
    def of_folders(folders: Iterable[str]) -> ClassList:
        """Return the list of class folders: by their numbers where all are numbers (007 is 7), else sorted by name.

        Raises ClassMismatch where two folders are the same number.
        """
        found = sorted(folders)
        if not found or not all(NUMBER.fullmatch(name) for name in found):
            return ClassList(tuple(found))
        found.sort(key=int)
        for one, other in pairwise(found):
            if int(one) == int(other):
                raise ClassMismatch(f"class folders: {one!r} and {other!r} are the same number")
        return ClassList(tuple(found), named=False)

    def find(self, name: str) -> int | None:
        """Return the label of a class by any of its names; None where none has it or several might."""
        return self._found(_keys(name))

    def labels_of(self, other: ClassList) -> list[int]:
        """Return the label here of each class of another list, by name; UNKNOWN where there is none."""
        found = (self._found(other._keys_of(label)) for label in range(len(other)))
        return [UNKNOWN if label is None else label for label in found]

    def shown(self, label: int) -> str:
        """Return a label's name for people: "tench (n01440764)" for a WordNet id of ImageNet."""
        return display_name(self.names[label])

    def __str__(self) -> str:
        """Return the first names and how many there are, on one short line."""
        first = ", ".join(repr(shown(name)[:40]) for name in self.names[:LISTED])
        return f"{first}{', ...' if len(self) > LISTED else ''} ({len(self)})"

    def _found(self, keys: Sequence[str | None]) -> int | None:
        for key, table in zip(keys, self._tables, strict=True):
            if key is not None and table.get(key, UNKNOWN) != UNKNOWN:
                return table[key]
        return None

    @cached_property
    def _tables(self) -> tuple[dict[str, int], ...]:
        """One table a tier of `_keys`: {key: label}, UNKNOWN for a key that several classes have."""
        tables: tuple[dict[str, int], ...] = ({}, {}, {}, {})
        for label, keys in enumerate(map(self._keys_of, range(len(self)))):
            for key, table in zip(keys, tables, strict=True):
                if key is not None:
                    table[key] = UNKNOWN if key in table else label
        return tables

    def _keys_of(self, label: int) -> tuple[str | None, ...]:
        exact, plain, wnid, same = _keys(self.names[label])
        return exact, plain, self._imagenet_by_place(label, wnid), same

    def _imagenet_by_place(self, label: int, wnid: str | None) -> str | None:
        """Return the WordNet id of a name; of one that says it not alone, by its place in a list in ImageNet's order.

        "crane" is two classes, "Cardigan" a dog and "cardigan" a garment, "crane bird" no name of ImageNet's.
        """
        if not self._in_imagenet_order:
            return wnid
        placed = imagenet_wnids()[label]
        return placed if wnid is None or _plain(self.names[label]) in _lemmas(placed) else wnid

    @cached_property
    def _in_imagenet_order(self) -> bool:
        wnids = imagenet_wnids() if len(self) == IMAGENET_CLASSES else ()
        if not self.named or len(self) != len(wnids):
            return False
        pairs = zip(self.names, wnids, strict=True)
        there = sum(name == wnid or _plain(name) in _lemmas(wnid) for name, wnid in pairs)
        return there >= IN_ORDER * len(wnids)


@dataclass(frozen=True)
class Match:
    """How the labels of one list (`theirs`) are those of another (`ours`)."""

    labels: tuple[int, ...]
    """For each label of theirs the label of ours, UNKNOWN where ours has no such class."""
    by: Literal["name", "number"]
    theirs: ClassList
    ours: ClassList

    @property
    def missing(self) -> tuple[str, ...]:
        """Names of theirs that ours does not have."""
        pairs = zip(self.theirs.names, self.labels, strict=True)
        return tuple(name for name, label in pairs if label == UNKNOWN)

    @property
    def unused(self) -> tuple[str, ...]:
        """Names of ours that theirs does not have."""
        used = set(self.labels)
        return tuple(name for label, name in enumerate(self.ours.names) if label not in used)

    @property
    def same(self) -> bool:
        """Whether every label is the same number in both lists, and both are equally long."""
        return self.labels == tuple(range(len(self.ours)))

    def describe(self) -> str:
        """Return one short line for a plan or a report."""
        total, found = len(self.labels), len(self.labels) - len(self.missing)
        if self.by == "number":
            return f"{found} of {total} classes matched by number: nothing names them on both sides"
        order = ", in another order" if any(one > other for one, other in pairwise(self._known)) else ""
        assumed = self.theirs.assumed or self.ours.assumed
        how = "; a thousand classes without names are taken for ImageNet's in their usual order" if assumed else ""
        return f"{found} of {total} classes matched by name{order}{how}"

    @property
    def _known(self) -> tuple[int, ...]:
        return tuple(label for label in self.labels if label != UNKNOWN)


def match(theirs: ClassList, ours: ClassList, their_owner: str, our_owner: str) -> Match:
    """Return which label of `ours` each label of `theirs` is.

    Where both have names: by name, synonyms included (WordNet id and ImageNet name, plane and airplane). A class that
    ours lacks is UNKNOWN. Where one has none: by number, which needs numbers that ours has, or equally many classes;
    entries that are the same numbers as text ("3" and "7" of digits) are the same classes. The owners are for
    messages, such as "data.path: '/data'" and "the diffusion model". Raises ClassMismatch where no name is in both,
    where two classes of theirs would be one of ours, or where a number is outside.
    """
    named = theirs.named and ours.named
    found = list(range(len(ours))) if theirs.names == ours.names else ours.labels_of(theirs)
    numerals = all(NUMBER.fullmatch(name) for name in theirs.names)
    if numerals and ours.assumed and all(label == UNKNOWN for label in found):
        named = False  # digits and a model of a thousand nameless classes: nothing is contradicted
    if named or UNKNOWN not in found:
        if all(label == UNKNOWN for label in found):
            raise ClassMismatch(f"{their_owner} has the classes {theirs}, {our_owner} has {ours}; none is in both")
        _refuse_doubled(theirs, ours, found, their_owner, our_owner)
        return Match(tuple(found), "name" if named else "number", theirs, ours)
    if theirs.named and not numerals:
        if any(label != UNKNOWN for label in found):  # folders "0", "1" and "walrus", which is no class
            return Match(tuple(found), "number", theirs, ours)
        if len(theirs) != len(ours):
            raise ClassMismatch(
                f"{their_owner} has the classes {theirs}, {our_owner} has {len(ours)} classes without names; "
                "valid: equally many classes, class numbers, or names for both"
            )
        return Match(tuple(range(len(theirs))), "number", theirs, ours)
    numbers = tuple(map(int, theirs.names))
    outside = [number for number in numbers if number >= len(ours)]
    if outside:
        raise ClassMismatch(
            f"{their_owner} has the class number {outside[0]}, {our_owner} has {ours}; valid: 0 to {len(ours) - 1}"
        )
    return Match(numbers, "number", theirs, ours)


def match_all(theirs: ClassList, ours: ClassList, their_owner: str, our_owner: str) -> Match:
    """Return a match in which every class of both lists has a partner; raises ClassMismatch as `match`, or for less."""
    found = match(theirs, ours, their_owner, our_owner)
    for missing, owner, other in ((found.missing, their_owner, our_owner), (found.unused, our_owner, their_owner)):
        if missing:
            raise ClassMismatch(
                f"{owner} has {len(missing)} classes that {other} lacks, first: {shown(missing[0])!r}; "
                f"{their_owner}: {theirs}; {our_owner}: {ours}"
            )
    return found


def display_name(name: str) -> str:
    """Return a class name for people, short and on one line: "tench (n01440764)" for a WordNet id of ImageNet."""
    known = WNID.fullmatch(name) and name in _imagenet()
    text = f"{_lemma_list(name)[0]} ({name})" if known else shown(name)
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 1]}\u2026"


@cache
def imagenet_wnids() -> tuple[str, ...]:
    """Return the WordNet ids of ImageNet-1k in the order of their labels, which is that of their names."""
    from timm.data.imagenet_info import ImageNetInfo

    return tuple(ImageNetInfo().label_names())


def _refuse_doubled(theirs: ClassList, ours: ClassList, found: Sequence[int], their_owner: str, our_owner: str) -> None:
    first: dict[int, str] = {}
    for name, label in zip(theirs.names, found, strict=True):
        if label != UNKNOWN and label in first:
            raise ClassMismatch(
                f"{their_owner}: {shown(first[label])!r} and {shown(name)!r} are both "
                f"{shown(ours.names[label])!r} of {our_owner}"
            )
        first[label] = name


@cache
def _keys(name: str) -> tuple[str | None, ...]:
    """Return what a name can be found by, strictest first: itself, without case, its WordNet id, a common synonym."""
    plain = _plain(name)
    wnid = name if WNID.fullmatch(name) else _by_name().get(plain)
    return name, plain, wnid or None, SAME_CLASS.get(plain, plain)


def _plain(name: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", name).translate(SPACES).casefold().split())


@cache
def _imagenet() -> dict[str, str]:
    """Return {WordNet id: names, separated by commas} of ImageNet-1k."""
    from timm.data.imagenet_info import ImageNetInfo

    info = ImageNetInfo()
    return {wnid: info.label_name_to_description(wnid) for wnid in imagenet_wnids()}


def _lemma_list(wnid: str) -> list[str]:
    return [lemma.strip() for lemma in _imagenet()[wnid].split(",")]


@cache
def _lemmas(wnid: str) -> frozenset[str]:
    return frozenset({_plain(lemma) for lemma in _lemma_list(wnid)} | {_plain(_imagenet()[wnid])})


@cache
def _by_name() -> dict[str, str]:
    """Return {name: WordNet id} of ImageNet-1k, empty where several classes have the name ("crane").

    A class's names in full ("partridge") win over one of several names of another class.
    """
    single, full = dict[str, str](), dict[str, str]()
    for wnid in imagenet_wnids():
        whole = _plain(_imagenet()[wnid])
        full[whole] = "" if whole in full else wnid
        for lemma in _lemmas(wnid) - {whole}:
            single[lemma] = "" if lemma in single else wnid
    return single | full
