"""Check every hash and count of an output, and take out what is damaged so that it can be computed again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clarep_ray import dotted
from clarep_ray.data.clarep_index import INDEX, MAX_ROOT_BYTES, ROOT, ROOT_SEAL, TIMM_INFO, read_root
from clarep_ray.data.derived import (
    DERIVED,
    K_STEPS,
    MEMBERS,
    MEMBERS_SHA256,
    file_sha256,
    not_covered,
    recorded,
    wrong_derived,
)
from clarep_ray.data.inside import entries_inside
from clarep_ray.data.manifest import MANIFEST, InputManifest
from clarep_ray.data.sealed import parse_sealed, sealed_file_sha256
from clarep_ray.data.shards import read_shard, sha256_file
from clarep_ray.data.store import (
    MAX_UNIT_BYTES,
    RUN,
    SHARDS,
    SPECTRA,
    UNITS,
    OutputStore,
    Store,
    as_store,
    check_rows,
    check_unit,
    unit_name,
)
from clarep_ray.data.tar_index import DamagedTar
from clarep_ray.data.untrusted import parse_json_object
from clarep_ray.errors import DamagedUnit

ORPHAN = " belongs to no unit"
AGAIN = ": --repair makes it again from the units"
COVERED = (ROOT, INDEX, TIMM_INFO, MANIFEST, RUN, DERIVED, MEMBERS, MEMBERS_SHA256)
"""Files of an output's top that are checked here, beside those that `derived.json` names."""


@dataclass(frozen=True)
class Damage:
    """Something that is not as it was committed; `unit` is None where it concerns the whole output."""

    unit: int | None
    what: str


def verify(output: Path | Store) -> list[Damage]:
    """Return everything wrong with an output; empty where every hash and count is right.

    An unfinished output is damaged in that it has no root; its committed units are checked by themselves. Raises
    ValueError where there is no extraction at all.
    """
    store = as_store(output)
    return [*_verify(store), *_check_k_steps(store)]


def _verify(store: Store) -> list[Damage]:
    if not store.has(ROOT) and store.has(RUN):
        return [Damage(None, f"{ROOT} is missing: the extraction was not finished"), *_unfinished(store)]
    if not store.has(ROOT):
        read_root(store)  # says that there is none
    try:
        root = read_root(store)
        units, shards = root_units(root)
    except (ValueError, KeyError, TypeError, AttributeError):
        return [Damage(None, f"{ROOT} cannot be read"), *_unfinished(store)]
    found = list(_check_root(store, root))
    if any(damage.what.startswith(ROOT) for damage in found):
        return [*found, *_unfinished(store)]  # nothing can be held against a root that is itself damaged
    for unit, sha in enumerate(units):
        found += [Damage(unit, what) for what in _check_unit(store, unit, sha)]
    listed = {f"{folder}/{name}" for folder in (SHARDS, SPECTRA, UNITS) for name in store.names(folder)}
    named = shards | {unit_name(unit) for unit in range(len(units))}
    found += [Damage(None, f"{name}{ORPHAN}") for name in sorted(listed - named)]
    return found


def uncovered(output: Path | Store) -> list[str]:
    """Return what of an output is checked against no hash, a line each: what it is, and why it cannot mislead."""
    store = as_store(output)
    return list(not_covered(store, {*COVERED, *(recorded(store) or {})}))


def root_units(root: dict[str, Any]) -> tuple[list[str], set[str]]:
    """Return the hash of every unit's manifest and the names of all files; KeyError or TypeError where they lack."""
    return [str(sha) for sha in root["unit_sha256"]], {str(entry["name"]) for entry in root["files"]}


def _unfinished(store: Store) -> Iterator[Damage]:
    """Check `run.json` and committed units against their own hashes alone."""
    yield from _check_run(store, None)
    for unit in store.units():
        try:
            manifest = store.committed_unit(unit)
        except DamagedUnit as damaged:
            yield Damage(unit, str(damaged))
            continue
        yield from (Damage(unit, what) for what in _check_unit(store, unit, sealed_file_sha256(manifest)))


def withdraw(output: Path | Store, damages: Sequence[Damage]) -> list[int]:
    """Remove damaged units' manifests and files and return the units; the next run computes just those."""
    store = as_store(output)
    units = sorted({damage.unit for damage in damages if damage.unit is not None})
    if units:  # first and for good: a manifest must not come back without its files
        store.remove(UNITS, [unit_name(unit).removeprefix(f"{UNITS}/") for unit in units])
    for folder in (SHARDS, SPECTRA) if units else ():
        mine = tuple(f"{unit:06d}-" for unit in units)
        if gone := [name for name in store.names(folder) if name.startswith(mine)]:
            store.remove(folder, gone)
    for damage in damages:
        if damage.unit is None and damage.what.endswith(ORPHAN):
            folder, _, name = damage.what.removesuffix(ORPHAN).partition("/")
            store.remove(folder, [name])
    return units


def _check_root(store: Store, root: dict[str, Any]) -> Iterator[Damage]:
    try:
        parse_sealed(store.read(ROOT, MAX_ROOT_BYTES), ROOT_SEAL)
    except ValueError:
        yield Damage(None, f"{ROOT} does not match its own hash")
        return
    if file_sha256(store, INDEX) != root.get("index_sha256"):
        yield Damage(None, f"{INDEX} is missing or has another hash")
    if file_sha256(store, TIMM_INFO) != root.get("timm_info_sha256"):
        yield Damage(None, f"{TIMM_INFO} is missing or has another hash")
    yield from _check_run(store, root)
    yield from (Damage(None, f"{name} {what}{AGAIN}") for name, what in wrong_derived(store, root).items())
    if file_sha256(store, MANIFEST) != root.get("input_file_sha256"):
        yield Damage(None, f"{MANIFEST} is missing or has another hash")
        return  # and is not opened: one wrong bit may end the process that reads it
    with store.local(MANIFEST) as path:
        manifest = InputManifest(path, str(root["input_file_sha256"]))
        if manifest.digest() != root.get("input_sha256"):
            yield Damage(None, f"{ROOT} was made from another input")
        if manifest.num_units != len(root["unit_sha256"]):
            yield Damage(None, f"{ROOT} names {len(root['unit_sha256'])} units; the input has another number")


def _check_k_steps(store: Store) -> Iterator[Damage]:
    """Check the decodings at fixed k, which are outputs inside this one; in object storage there are none."""
    if not isinstance(store, OutputStore) or K_STEPS not in entries_inside(store.root):
        return
    for name, is_folder in entries_inside(store.root, K_STEPS).items():
        step = OutputStore(store.root / K_STEPS / name)
        if not is_folder or not step.has(RUN):
            yield Damage(None, f"{K_STEPS}/{name} is no decoding of this output; delete it")
            continue
        command = f"; run: uv run jobs/verify.py {step.root} --repair"
        yield from (Damage(None, f"{K_STEPS}/{name}: {damage.what}{command}") for damage in _verify(step))


def _check_run(store: Store, root: dict[str, Any] | None) -> Iterator[Damage]:
    try:
        fields = store.read_run()["fields"]
        intact = root is None or dotted.fingerprint(fields) == root.get("fingerprint")
        intact &= root is None or fields.get("label_map_sha256") == root.get("label_map_sha256")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        intact = False
    if not intact:
        yield Damage(None, f"{RUN} is missing, damaged or has another fingerprint")


def _check_unit(store: Store, unit: int, sha: str) -> Iterator[str]:
    name = unit_name(unit)
    try:
        data = store.read(name, MAX_UNIT_BYTES)
    except (OSError, ValueError):  # none, no plain file, or one that is far too large
        data = b""
    short = name.removeprefix(f"{UNITS}/")
    if hashlib.sha256(data).hexdigest() != sha:
        yield f"{short} is missing or has another hash"
        return
    manifest = parse_json_object(data, f"{store.where}/{name}")
    try:
        entries = check_unit(manifest, unit)
        check_rows(manifest)
        keys = [row["key"] for row in manifest["rows"] if row["status"] == "ok"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        yield f"{short} is no manifest of a unit: {error!r}"
        return
    for folder, entry in entries.items():
        yield from _check_file(store, entry, keys if folder == SHARDS else None)


def _check_file(store: Store, entry: dict[str, Any], keys: list[str] | None) -> Iterator[str]:
    """Check a file's hash and, of a shard, that it holds the samples of these keys."""
    name = entry["name"]
    try:
        with store.local(name) as path:
            sha = sha256_file(path)
            held = [sample.key for sample in read_shard(path)] if keys is not None and sha == entry["sha256"] else keys
    except FileNotFoundError:
        yield f"{name} is missing"
        return
    except DamagedTar as error:
        yield f"{name.removeprefix(f'{SHARDS}/')} is no shard: {error}"
        return
    if sha != entry["sha256"]:
        yield f"{name} has sha256 {sha[:12]}, committed was {entry['sha256'][:12]}"
    elif held != keys:
        yield f"{name.removeprefix(f'{SHARDS}/')} does not hold the samples its manifest names"
