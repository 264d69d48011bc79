"""Which files an input is: what counts as an image file, which split a name says, and shards by pattern or list.

One rule for every reader (sources, trainings, benchmarks): a file is an image file whatever it is called, unless it is
hidden or one of the operating system's own. Whether it can be decoded is said later, file by file.
"""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from clarep_ray.config import DataConfig
from clarep_ray.data.records import shown
from clarep_ray.data.untrusted import check_plain_file, read_text

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
MAX_FILES = 100_000
"""Of one pattern or list."""
SPECIAL = re.compile(r"[*?\[{]")
RANGE = re.compile(r"(\d{1,9})\.\.(\d{1,9})")
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


def shard_root(text: str, suffix: str) -> Path:
    """Return the folder to which files of a `data.path` are relative in ids; ValueError where nothing is there.

    It is the folder itself, that of a single file, the part of a pattern before its first special character, or the
    deepest folder that holds all files of a list.
    """
    path = Path(text).absolute()
    if text.startswith("@"):
        return Path(os.path.commonpath([path.parent for path in _listed_in(text)]))
    if path.is_dir():
        return path
    if path.exists() or path.is_symlink():
        return path.parent
    if not SPECIAL.search(text):
        kinds = f"a folder, a {suffix} file, a pattern, or @FILE with one path a line"
        raise ValueError(f"data.path: {text!r} is not a folder or a file; valid: {kinds}")
    return Path(SPECIAL.split(str(path))[0].rpartition("/")[0] or "/")


def shard_files(root: Path, config: DataConfig, suffix: str, listing: Listing) -> list[Path]:
    """Return the files of the split that `data.path` and `data.split` name, sorted.

    `data.path` is a folder (every file with the suffix below it), one file, a glob, braces as in
    train-{000..127}.tar, or @FILE with one path a line (relative ones to that file's folder). Raises ValueError where
    there is none, a file is missing or no plain file, or several splits are there and none is chosen.
    """
    files = _expand(config.path or "", suffix, listing)
    if not files:
        raise ValueError(f"data.path: {config.path!r} has no {suffix} files")
    for path in files:
        check_plain_file(path)
    return _of_split(root, files, config, listing)


def _of_split(root: Path, files: list[Path], config: DataConfig, listing: Listing) -> list[Path]:
    """Return the files of the chosen split, or all where no name says one."""
    by_split: dict[str | None, list[Path]] = {}
    for path in files:
        by_split.setdefault(split_of(path.relative_to(root).as_posix()), []).append(path)
    there = sorted(split for split in by_split if split is not None)
    if not there:
        if config.split not in (None, split_of(root.name)):
            raise ValueError(
                f"data.split: {config.split!r} is not valid, for no file name below data.path: {config.path!r} says one"
            )
        return files
    if None in by_split and config.split is None:
        raise ValueError(
            f"data.path: {config.path!r} holds the splits {', '.join(there)} and {len(by_split[None])} files of none, "
            f"first: {by_split[None][0].name!r}; valid: one of them, as data.split"
        )
    chosen = choose_split(there, config.split, f"data.path: {config.path!r}", "data.split", listing)
    if len(by_split[chosen]) < len(files):
        listing.passed_over["files of other splits"] += len(files) - len(by_split[chosen])
    return by_split[chosen]


def _expand(text: str, suffix: str, listing: Listing) -> list[Path]:
    path = Path(text).absolute()
    if text.startswith("@"):
        return _listed_in(text)
    if path.is_dir():
        return _below(path, suffix, listing)
    if path.exists() or path.is_symlink():
        return [path]
    names = list(islice(braces(str(path)), MAX_FILES + 1))
    found: list[str] = []
    for name in names:
        matches = glob.iglob(name, recursive=True) if glob.has_magic(name) else [name]  # noqa: PTH207 (absolute)
        found += islice(matches, MAX_FILES + 1)
        if max(len(found), len(names)) > MAX_FILES:
            raise ValueError(f"data.path: {text!r} names more than {MAX_FILES} files; valid: at most so many")
    missing = [name for name in found if not Path(name).exists()]
    if missing or not found:
        what = f"lacks {len(missing)} of {len(found)} files, first: {missing[0]!r}" if missing else "matches no file"
        raise ValueError(f"data.path: {text!r} {what}")
    return [each for name in sorted(set(found)) for each in _file_or_below(Path(name), suffix, listing)]


def _file_or_below(path: Path, suffix: str, listing: Listing) -> list[Path]:
    return _below(path, suffix, listing) if path.is_dir() else [path]


def _below(root: Path, suffix: str, listing: Listing) -> list[Path]:
    """Return the files below `root` with a suffix, in order; folders may have it too (Spark's do)."""
    found: list[Path] = []
    for path in sorted(root.rglob(f"*{suffix}")):
        reasons = (why_passed_over(part) for part in path.relative_to(root).parts)
        reason = next(filter(None, reasons), None)
        if reason:
            listing.passed_over[reason] += 1
        elif not path.is_dir():
            found.append(path)
    return found


def _listed_in(text: str) -> list[Path]:
    file = Path(text[1:]).absolute()
    try:
        lines = read_text(file).splitlines()
    except (OSError, ValueError) as error:
        raise ValueError(f"data.path: {text!r} cannot be read: {error}") from None
    named = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    files = [Path(os.path.normpath(file.parent / name)) for name in named]
    if not files or len(files) > MAX_FILES:
        raise ValueError(f"data.path: {text!r} names {len(files)} files; valid: 1 to {MAX_FILES}, one a line")
    missing = [name for name, path in zip(named, files, strict=True) if not path.exists()]
    if missing:
        raise ValueError(f"data.path: {text!r} names {len(missing)} files that are not there, first: {missing[0]!r}")
    if len(set(files)) < len(files):
        twice = next(path for path in files if files.count(path) > 1)
        raise ValueError(f"data.path: {text!r} names {str(twice)!r} twice")
    return sorted(files)


def braces(text: str) -> Iterator[str]:
    """Yield a pattern with its braces expanded as a shell does: {a,b}, {000..127}; one without any stays as it is."""
    match = re.search(r"\{([^{}]*)\}", text)
    if match is None:
        yield text
        return
    numbers = RANGE.fullmatch(match[1])
    if numbers is None and "," not in match[1]:
        raise ValueError(f"data.path: {shown(text)!r} has {shown(match[0])!r}; valid: {{a,b}} or {{000..127}}")
    if numbers is None:
        inside: Iterator[str] = iter(match[1].split(","))
    else:
        first, last = int(numbers[1]), int(numbers[2])
        width = len(numbers[1]) if numbers[1].startswith("0") or len(numbers[1]) == len(numbers[2]) else 0
        inside = (f"{number:0{width}d}" for number in range(first, last + 1))
    for word in inside:
        yield from braces(text[: match.start()] + word + text[match.end() :])


def absolute_data(config: DataConfig, name: str) -> dict[str, Any]:
    """Return the fields of a `DataConfig` called `name` with paths, patterns and @FILEs as every process finds them."""

    def absolute(path: str) -> str:
        return f"@{Path(path[1:]).absolute()}" if path.startswith("@") else str(Path(path).absolute())

    paths = {f"{name}.path": config.path, f"{name}.labels_file": config.labels_file}
    changes: dict[str, Any] = {field: absolute(path) for field, path in paths.items() if path}
    changes[f"{name}.classes"] = tuple(absolute(each) if each.startswith("@") else each for each in config.classes)
    return changes
