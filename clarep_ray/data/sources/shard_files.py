"""Tars and Parquet files that a `data.path` names: below a folder, one file, by pattern, or in a list; of one split."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from clarep_ray.config import DataConfig
from clarep_ray.data.records import shown
from clarep_ray.data.sources.files import Listing, choose_split, split_of, why_passed_over
from clarep_ray.data.untrusted import check_plain_file, read_lines

MAX_FILES = 100_000
"""Of one pattern or list."""
SPECIAL = re.compile(r"[*?\[{]")
RANGE = re.compile(r"(\d{1,9})\.\.(\d{1,9})")


def shard_root(text: str, suffix: str) -> Path:
    """Return the folder to which files of a `data.path` are relative in ids; ValueError where nothing is there.

    It is the folder itself, that of a single file, the part of a pattern before its first special character, or the
    deepest folder that holds all files of a list.
    """
    path = Path(text).absolute()
    if re.match(r"[a-z0-9]+://|pipe:", text):
        raise ValueError(f"data.path: {text!r} is no local file; valid: files that every node sees")
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
        lines = read_lines(file)
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
        twice = next(path for path, count in Counter(files).items() if count > 1)
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
