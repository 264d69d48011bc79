"""WebDataset: plain tars of images and their classes, read at known offsets."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from clarep_ray.config import DataConfig
from clarep_ray.data.class_list import UNKNOWN, ClassList
from clarep_ray.data.records import RejectReason, shown
from clarep_ray.data.sources.files import Listing
from clarep_ray.data.sources.listed import NO_LABEL, Labels, Listed, Source
from clarep_ray.data.sources.shard_files import shard_files, shard_root
from clarep_ray.data.tar_index import Member, tar_index
from clarep_ray.data.untrusted import MAX_JSON_BYTES, parse_json_object

SUFFIX = ".tar"
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
NUMBER = re.compile(r"-?[0-9]{1,9}", re.ASCII)
MAX_LABEL_BYTES = 1000
MIXED = "valid: numbers alone, or names alone"
TOGETHER = "members of a sample lie one after another: tar --sort=name"


class WebDataset(Source):
    """Plain .tar files; a sample is a run of members that share a key: KEY.jpg|png|webp, KEY.cls, KEY.json.

    .cls holds a label number, or the name of a class. Where the JSON beside a number says `class_name`, as that of our
    own shards does, this is what the number stands for.
    """

    def __init__(self, config: DataConfig, known: ClassList | None, reader: str) -> None:
        super().__init__()
        self.root = shard_root(config.path or "", SUFFIX)
        self.config, self._known, self._reader = config, known, reader
        self._names: dict[int | str, str] = {}
        """{label as it is stored: name of its class}, where labels have names."""

    @cached_property
    def _opened(self) -> tuple[list[Path], Listing]:
        listing = Listing()
        return shard_files(self.root, self.config, SUFFIX, listing), listing

    def find_labels(self) -> Labels:
        """Read every label where labels have names or nobody says how many there are, else the first alone."""
        named: dict[int | str, str] = {}
        reads_json = True
        for path, key, members in self._all_samples():
            label = self._label(path, key, members)
            name = self._class_name(path, key, members) if reads_json and isinstance(label, int) else None
            reads_json = name is not None
            if isinstance(label, int) and name is None and self._known is not None and not named:
                return Labels(self._known)  # label numbers that nothing names
            if named and type(label) is not type(next(iter(named))):
                raise ValueError(f"{str(path)!r}: sample {key!r}: its label is {shown(str(label))!r}; {MIXED}")
            if label != NO_LABEL and named.setdefault(label, name or str(label)) != (name or str(label)):
                raise ValueError(
                    f"{str(path)!r}: sample {key!r} calls class {label} {shown(name or str(label))!r}; "
                    f"an earlier one {shown(named[label])!r}"
                )
        if not reads_json and all(isinstance(label, int) for label in named):
            return Labels(ClassList.of_count(1 + max(map(int, named), default=-1)))
        own = ClassList.of_folders(set(named.values()))
        if len(own) < len(named):
            raise ValueError(f"data.path: {self.config.path!r} has several label numbers for one class name")
        self._names = named
        return Labels.of(own, self._known, f"data.path: {self.config.path!r}", self._reader)

    def rows(self) -> Iterator[Listed]:
        files, opened = self._opened
        self.listing = opened.copy()
        labels = self.labels
        places = {name: place for place, name in enumerate((labels.own or labels.classes).names)}
        for path in files:
            source = path.relative_to(self.root).as_posix()
            for key, members in _samples(path, self.listing):
                image = next((members[s] for s in IMAGE_SUFFIXES if s in members), None)
                if image is None:
                    raise ValueError(f"{str(path)!r}: sample {key!r} lacks an image (.jpg .png .webp); {TOGETHER}")
                stored = self._label(path, key, members)
                number = places[self._names[stored]] if stored in self._names else stored
                if isinstance(number, str):
                    raise ValueError(f"{str(path)!r}: sample {key!r}: its label is {shown(number)!r}; {MIXED}")
                label, class_name = labels(number) if stored != NO_LABEL else (UNKNOWN, "")
                yield Listed(
                    id=f"{source}/{key}",
                    source=source,
                    offset=image.offset,
                    size=image.size,
                    label=label,
                    class_name=class_name,
                    reason=RejectReason.UNLABELLED.value if stored == NO_LABEL else "",
                )

    def read(self, source: str, offset: int, size: int) -> bytes:
        return _slice(self.root / source, Member("", offset, size))

    def head(self, source: str, offset: int, size: int) -> bytes:
        return _slice(self.root / source, Member("", offset, min(size, 16)))

    def _all_samples(self) -> Iterator[tuple[Path, str, Mapping[str, Member]]]:
        return ((path, key, members) for path in self._opened[0] for key, members in _samples(path, Listing()))

    @staticmethod
    def _label(path: Path, key: str, members: Mapping[str, Member]) -> int | str:
        """Return what .cls says, a number or a name, else `label` of .json."""
        where = f"{str(path)!r}: sample {key!r}"
        if ".cls" in members:
            return _number_or_name(_slice(path, members[".cls"], MAX_LABEL_BYTES), f"{where}: .cls")
        if ".json" in members:
            label = _json(path, key, members).get("label")
            if isinstance(label, int | str) and not isinstance(label, bool):
                return _number_or_name(str(label).encode()[: MAX_LABEL_BYTES + 1], f"{where}: its JSON's label")
        raise ValueError(f"{where} lacks .cls, or a label in .json; {TOGETHER}")

    @staticmethod
    def _class_name(path: Path, key: str, members: Mapping[str, Member]) -> str | None:
        """Return the name that .json gives the sample's class, None where there is none."""
        name = _json(path, key, members).get("class_name") if ".json" in members else None
        return name if isinstance(name, str) and 0 < len(name) <= MAX_LABEL_BYTES else None


def _json(path: Path, key: str, members: Mapping[str, Member]) -> dict[str, Any]:
    return parse_json_object(_slice(path, members[".json"], MAX_JSON_BYTES), f"{path}: sample {key}")


def _slice(path: Path, member: Member, limit: int | None = None) -> bytes:
    if limit is not None and member.size > limit:
        raise ValueError(f"{str(path)!r}: member {member.name!r} has {member.size} bytes; valid: at most {limit}")
    with path.open("rb") as file:
        file.seek(member.offset)
        return file.read(member.size)


def _samples(path: Path, listing: Listing) -> Iterator[tuple[str, dict[str, Member]]]:
    """Yield each run of members with one key: (key, {".suffix": member})."""
    seen: set[str] = set()
    key, members = None, dict[str, Member]()
    for member in tar_index(path):
        parts = [part for part in member.name.split("/") if part not in ("", ".")]
        if any(map(listing.passes, parts)):
            continue
        stem, dot, suffix = (parts or [""])[-1].partition(".")
        current = "/".join([*parts[:-1], stem])
        if current != key:
            if key is not None:
                yield key, members
            if current in seen:
                raise ValueError(f"{str(path)!r}: sample {current!r} appears twice, not in one run; {TOGETHER}")
            seen.add(current)
            key, members = current, {}
        if (dot + suffix).lower() in members:
            raise ValueError(f"{str(path)!r}: sample {current!r} has several members {(dot + suffix).lower()!r}")
        members[(dot + suffix).lower()] = member
    if key is not None:
        yield key, members


def _number_or_name(data: bytes, where: str) -> int | str:
    try:
        text = data.decode().strip()
    except UnicodeDecodeError:
        text = ""
    if not text or not text.isprintable() or len(data) > MAX_LABEL_BYTES:
        raise ValueError(f"{where} is {data[:20]!r}; valid: a label number, or the name of a class")
    return int(text) if NUMBER.fullmatch(text) else text
