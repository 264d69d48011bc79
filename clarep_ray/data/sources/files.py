"""Which files of a folder are images, and which split a name says.

One rule for every reader (sources, trainings, benchmarks): a file is an image file whatever it is called, unless it is
hidden or one of the operating system's own. Whether it can be decoded is said later, file by file.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from clarep_ray.config import DataConfig
from clarep_ray.data.records import shown

SYSTEM_NAMES = frozenset(
    ("__macosx", "lost+found", "@eadir", "#recycle", "$recycle.bin", "system volume information", "__pycache__")
) | {"thumbs.db", "ehthumbs.db", "desktop.ini"}
"""What macOS, Windows, file systems and network drives leave in folders of images, in lower case."""
SPLIT_NAMES: dict[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
"""What a name may call each part of a data set."""
SPLIT_OF = {word: split for split, words in SPLIT_NAMES.items() for word in words}
BESIDE = "beside the class folders"


class Listing:
    """What a reader passes over, counted by reason, and what it chose by itself: said in the plan and the report."""

    def __init__(self) -> None:
        self.passed_over: Counter[str] = Counter()
        self.chosen: list[str] = []
        self.empty: list[str] = []
        """Class folders without a file."""

    def copy(self) -> Listing:
        """Return what was found so far, to count on from."""
        found = Listing()
        found.passed_over, found.chosen, found.empty = Counter(self.passed_over), [*self.chosen], [*self.empty]
        return found

    def passes(self, name: str) -> bool:
        """Say whether an entry of a folder or of a tar is passed over, and count it."""
        reason = why_passed_over(name)
        if reason:
            self.passed_over[reason] += 1
        return reason is not None

    def lines(self) -> list[str]:
        """Return what was chosen and passed over as short lines."""
        counts = [f"{count} {reason}" for reason, count in sorted(self.passed_over.items())]
        lines = [*self.chosen, *([f"passed over: {', '.join(counts)}"] if counts else [])]
        if self.empty:
            lines.append(f"{len(self.empty)} class folders without a file, first: {shown(self.empty[0])!r}")
        return lines


def why_passed_over(name: str) -> str | None:
    """Return why a file or folder is never an input, by its own name; None for one that is."""
    if name.lower() in SYSTEM_NAMES:
        return "of the operating system"
    return "hidden" if name.startswith(".") else None


def split_of(path: str) -> str | None:
    """Return the split that a relative path says, its last part first; None where a part says none or several."""
    parts = path.split("/")
    for part in reversed([*parts[:-1], parts[-1].rpartition(".")[0]]):
        found = {SPLIT_OF[word] for word in re.split(r"[^a-z]+", part.lower()) if word in SPLIT_OF}
        if found:
            return found.pop() if len(found) == 1 else None
    return None


def split_folders(root: Path) -> dict[str, str]:
    """Return {split: folder} where `root` holds splits (train/CLASS/IMAGE), empty where it holds classes.

    A folder called train may be a class (the vehicle). It is a split where all folders are called so. Raises ValueError
    where such a folder, as those of classes do not, holds folders and no file beside others that are none, or where
    two folders are one split.
    """
    there = folder_names(root, Listing())
    names, others = ([name for name in there if (name.lower() in SPLIT_OF) is split] for split in (True, False))
    if others:
        names = [name for name in names if _holds_only_folders(root / name)]
        alike = len(names) < 2 and all(_holds_only_folders(root / name) for name in others)
        names = [] if alike else names
    if names and others:
        raise ValueError(
            f"{str(root)!r} holds the split {names[0]!r} beside other folders, first: {shown(others[0])!r}; "
            f"valid: the folder of one split, such as {str(root / names[0])!r}"
        )
    found: dict[str, str] = {}
    for name in names:
        split = SPLIT_OF[name.lower()]
        if split in found:
            raise ValueError(f"{str(root)!r} has the split {split!r} twice, as {found[split]!r} and {name!r}")
        found[split] = name
    return found


def choose_split(there: Sequence[str], wanted: str | None, where: str, field: str, listing: Listing) -> str:
    """Return the wanted one of some splits, or the only one. Raises ValueError naming those there."""
    named = ", ".join(there)
    if wanted is not None and wanted not in there:
        raise ValueError(f"{field}: {wanted!r} is not in {where}; valid: {named}")
    if wanted is None and len(there) > 1:
        raise ValueError(f"{where} holds the splits {named}; valid: one of them, as {field}")
    if wanted is None:
        listing.chosen.append(f"split {there[0]!r}, the only one")
    return wanted or there[0]


def only_split(root: Path, field: str) -> Path:
    """Return the folder with class folders: `root`, or that of the only split in it; ValueError for several."""
    splits = split_folders(root)
    if len(splits) > 1:
        first = str(root / next(iter(splits.values())))
        raise ValueError(f"{field}: {str(root)!r} holds the splits {', '.join(splits)}; valid: one, such as {first!r}")
    return root / next(iter(splits.values()), "")


def folder_names(root: Path, listing: Listing) -> list[str]:
    """Return the names of the folders, or links to folders, that may be classes, sorted; the rest is passed over."""
    found: list[str] = []
    for entry in sorted_entries(root):
        if listing.passes(entry.name):
            continue
        if entry.is_dir():
            found.append(entry.name)
        else:
            listing.passed_over[BESIDE] += 1
    return found


def image_files(root: Path, folder: str, listing: Listing) -> Iterator[tuple[os.DirEntry[str], str]]:
    """Yield every image file below `root/folder` with its path relative to `root`, in the order of path components.

    Raises ValueError where `folder` holds splits: CLASS/train and CLASS/val.
    """
    entries = sorted_entries(root / folder)
    splits = [entry.name for entry in entries if entry.name.lower() in SPLIT_OF and entry.is_dir()]
    if len({SPLIT_OF[name.lower()] for name in splits}) > 1:
        raise ValueError(
            f"the class folder {str(root / folder)!r} holds the splits {', '.join(splits)}; "
            "valid: ROOT/SPLIT/CLASS/IMAGE, with ROOT as the path"
        )
    empty = True
    for found in _files(root, folder, entries, listing):
        empty = False
        yield found
    if empty:
        listing.empty.append(folder)


def _files(
    root: Path, folder: str, entries: Sequence[os.DirEntry[str]], listing: Listing
) -> Iterator[tuple[os.DirEntry[str], str]]:
    for entry in entries:
        path = f"{folder}/{entry.name}"
        if listing.passes(entry.name):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _files(root, path, sorted_entries(root / path), listing)
        elif is_file(entry):
            yield entry, path
        else:
            listing.passed_over["neither file nor folder"] += 1


def sorted_entries(folder: Path) -> list[os.DirEntry[str]]:
    """Return the entries of a folder by name; ValueError where it cannot be listed."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise ValueError(f"data.path: {str(folder)!r} cannot be listed: {error.strerror}") from None


def is_file(entry: os.DirEntry[str]) -> bool:
    """Say whether an entry is a file, or a link, even one that leads nowhere: not a pipe or a device."""
    return entry.is_symlink() or entry.is_file()


def _holds_only_folders(folder: Path) -> bool:
    entries = [entry for entry in sorted_entries(folder) if why_passed_over(entry.name) is None]
    return bool(entries) and all(entry.is_dir() for entry in entries)


def absolute_data(config: DataConfig, name: str) -> dict[str, Any]:
    """Return the fields of a `DataConfig` called `name` with paths, patterns and @FILEs as every process finds them."""

    def absolute(path: str) -> str:
        return f"@{Path(path[1:]).absolute()}" if path.startswith("@") else str(Path(path).absolute())

    paths = {f"{name}.path": config.path, f"{name}.labels_file": config.labels_file}
    changes: dict[str, Any] = {field: absolute(path) for field, path in paths.items() if path}
    changes[f"{name}.classes"] = tuple(absolute(each) if each.startswith("@") else each for each in config.classes)
    return changes
