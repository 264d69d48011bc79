"""Files of an output that are made from its units, under hashes of their own; and what of an output no hash covers.

Summary, figures and pages come after the root manifest and may be made again, so their hashes stand in a sealed file
of their own, which the root manifest promises.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import suppress
from typing import Any

from clarep_ray.data.inside import NotInside, entries_inside
from clarep_ray.data.sealed import parse_sealed, sealed
from clarep_ray.data.shards import sha256_file
from clarep_ray.data.store import SHARDS, SPECTRA, UNITS, WORK, OutputStore, Store
from clarep_ray.data.untrusted import MAX_JSON_BYTES

DERIVED, SEAL, PROMISE = "derived.json", "record_sha256", "derived"
"""The file of the hashes, what it calls the hash of itself, and the entry of a root manifest that there is one."""
SUMMARY, HEALTH, PAGE = "summary.json", "health.json", "report.html"
FIGURES = ("contact_sheet.png", "evr_curves.png", "k_histogram.png")
NAMES = (SUMMARY, HEALTH, PAGE, *FIGURES)
MEMBERS, MEMBERS_SHA256 = "members.parquet", "members.sha256"
"""What the first opening by a training found and the stamps of the files it checked, and the hash of that; can be
deleted."""
NOT_COVERED = {
    "input_stamps.jsonl": "only says which input files need no second look; what is read of them is hashed again",
    WORK: "unfinished files and claims of running processes, which no reader opens",
    "attempts": "what processes took on; it decides nothing once a unit is committed",
    ".mlflow-outbox": "what an MLflow server is told; nothing of the output is read from it",
}
"""Files and folders that verify does not hash, and why they cannot mislead who reads the output."""
UNKNOWN = "unknown; no reader of the output opens it"
K_STEPS = "k_steps"
"""Folder of decodings at fixed k, each an output of its own."""


def record_derived(store: Store, names: Collection[str], gone: Collection[str] = ()) -> None:
    """Note the hashes of files that were just made, in place of what was noted of them and of those that are gone."""
    known = {name: sha for name, sha in (recorded(store) or {}).items() if name not in gone}
    known |= {name: file_sha256(store, name) for name in names}
    store.put(DERIVED, sealed({"files": dict(sorted(known.items()))}, SEAL))


def recorded(store: Store) -> dict[str, str] | None:
    """Return {name: sha256} of the derived files; None where that is missing or damaged."""
    with suppress(OSError, ValueError, TypeError, AttributeError):
        files: dict[str, Any] = parse_sealed(store.read(DERIVED, MAX_JSON_BYTES), SEAL)["files"]
        if files.keys() <= set(NAMES):
            return {name: str(sha256) for name, sha256 in files.items()}
    return None


def is_changed(store: Store, name: str) -> bool:
    """Say whether a derived file is not as it was recorded; one that is in no record counts as it is."""
    known = recorded(store) or {}
    return name in known and file_sha256(store, name) != known[name]


def wrong_derived(store: Store, root: dict[str, Any]) -> dict[str, str]:
    """Return {name: what is wrong} of derived files; of an output of an earlier version, which noted no hashes, none.

    Also of what a training noted, which has its hash beside it.
    """
    wrong = _wrong_members(store)
    known = recorded(store)
    if known is None:
        lost = PROMISE in root or _is_there(store, DERIVED)
        return wrong | ({DERIVED: "is missing or damaged"} if lost else {})
    wrong |= {name: "is missing or has another hash" for name, sha in known.items() if file_sha256(store, name) != sha}
    extra = [name for name in NAMES if PROMISE in root and name not in known and _is_there(store, name)]
    return wrong | dict.fromkeys(extra, f"has no hash in {DERIVED}")


def _wrong_members(store: Store) -> dict[str, str]:
    if not _is_there(store, MEMBERS) and not _is_there(store, MEMBERS_SHA256):
        return {}
    with suppress(OSError, ValueError):
        if store.read(MEMBERS_SHA256, 64) == file_sha256(store, MEMBERS).encode():
            return {}
    return {MEMBERS: f"or {MEMBERS_SHA256} is missing or damaged"}


def _is_there(store: Store, name: str) -> bool:
    """Say whether there is a file of that name, or a link, which is not followed."""
    try:
        return store.has(name)
    except NotInside:
        return True


def not_covered(store: Store, known: Collection[str]) -> Iterator[str]:
    """Yield every file and folder that no hash covers, and why that may be so; `known` are the names that one does."""
    folders = {SHARDS, SPECTRA, UNITS, K_STEPS}
    for name in sorted(set(_entries(store)) - folders - set(known)):
        if name == WORK and not _entries(store, WORK):
            continue
        if name in NOT_COVERED:
            yield f"{name}: {NOT_COVERED[name]}"
        elif name in NAMES:
            yield f"{name}: of an earlier version, which noted no hash of it; the command that made it does now"
        elif not name.startswith(".tmp-"):
            yield f"{name}: {UNKNOWN}"
    for folder in sorted(folders - {K_STEPS}):
        yield from (f"{folder}/{name}: {UNKNOWN}" for name, is_folder in _entries(store, folder).items() if is_folder)


def _entries(store: Store, folder: str = "") -> dict[str, bool]:
    """Return {name: whether it is a folder} of what is there; in object storage there are no folders to list."""
    if not isinstance(store, OutputStore):
        return dict.fromkeys(store.names(folder), False)
    try:
        return entries_inside(store.root, folder)
    except FileNotFoundError:
        return {}


def file_sha256(store: Store, name: str) -> str:
    """Return the hash of a file, of which there may be none, or a link in its place: then a text that is no hash."""
    try:
        with store.local(name) as path:
            return sha256_file(path)
    except (FileNotFoundError, NotInside):
        return "missing"
