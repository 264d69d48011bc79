"""Check every hash and count of an output, and take out what is damaged so that it can be computed again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clarep_ray import dotted
from clarep_ray.data.clarep_index import INDEX, MAX_ROOT_BYTES, ROOT, ROOT_SEAL, TIMM_INFO, read_root
from clarep_ray.data.durable import sync_folder
from clarep_ray.data.manifest import MANIFEST, InputManifest
from clarep_ray.data.sealed import read_sealed
from clarep_ray.data.shards import read_shard, sha256_file
from clarep_ray.data.store import MAX_UNIT_BYTES, RUN, SHARDS, UNITS, DamagedUnit, OutputStore, check_entries
from clarep_ray.data.tar_index import DamagedTar
from clarep_ray.data.untrusted import read_json_object

ORPHAN = " belongs to no unit"


@dataclass(frozen=True)
class Damage:
    """Something that is not as it was committed; `unit` is None where it concerns the whole output."""

    unit: int | None
    what: str


def verify(folder: Path) -> list[Damage]:
    """Return everything wrong with an output; empty where every hash and count is right.

    An unfinished output is damaged in that it has no root; its committed units are checked by themselves. Raises
    ValueError where there is no extraction at all.
    """
    if not (folder / ROOT).is_file() and (folder / RUN).is_file():
        return [Damage(None, f"{ROOT} is missing: the extraction was not finished"), *_unfinished(OutputStore(folder))]
    store = OutputStore(folder)
    if not (folder / ROOT).is_file():
        read_root(folder)  # says that there is none
    try:
        root = read_root(folder)
        units, shards = root_units(root)
    except (ValueError, KeyError, TypeError, AttributeError):
        return [Damage(None, f"{ROOT} cannot be read"), *_unfinished(store)]
    found = list(_check_root(folder, root))
    if any(damage.what.startswith(ROOT) for damage in found):
        return [*found, *_unfinished(store)]  # nothing can be held against a root that is itself damaged
    for unit, sha in enumerate(units):
        found += [Damage(unit, what) for what in _check_unit(store, unit, sha)]
    listed = {f"{path.parent.name}/{path.name}" for path in (folder / SHARDS).glob("*") if not path.is_dir()}
    found += [Damage(None, f"{name}{ORPHAN}") for name in sorted(listed - shards)]
    return found


def root_units(root: dict[str, Any]) -> tuple[list[str], set[str]]:
    """Return the hash of every unit's manifest and the names of all files; KeyError or TypeError where they lack."""
    return [str(sha) for sha in root["unit_sha256"]], {str(entry["name"]) for entry in root["files"]}


def _unfinished(store: OutputStore) -> Iterator[Damage]:
    """Check `run.json` and committed units against their own hashes alone."""
    yield from _check_run(store.root, None)
    for path in sorted((store.root / UNITS).glob("*.json")):
        unit = int(path.stem)
        try:
            store.committed_unit(unit)
        except DamagedUnit as damaged:
            yield Damage(unit, str(damaged))
            continue
        yield from (Damage(unit, what) for what in _check_unit(store, unit, sha256_file(path)))


def withdraw(folder: Path, damages: Sequence[Damage]) -> list[int]:
    """Remove damaged units' manifests and files and return the units; the next run computes just those."""
    store = OutputStore(folder)
    units = sorted({damage.unit for damage in damages if damage.unit is not None})
    for unit in units:
        store.unit_path(unit).unlink(missing_ok=True)
    if units:
        sync_folder(folder / UNITS)  # a manifest must not come back without its files
    for unit in units:
        for path in folder.glob(f"*/{unit:06d}-*"):
            path.unlink()
    for damage in damages:
        if damage.unit is None and damage.what.endswith(ORPHAN):
            (folder / damage.what.removesuffix(ORPHAN)).unlink()
    return units


def _check_root(folder: Path, root: dict[str, Any]) -> Iterator[Damage]:
    try:
        read_sealed(folder / ROOT, ROOT_SEAL, MAX_ROOT_BYTES)
    except ValueError:
        yield Damage(None, f"{ROOT} does not match its own hash")
        return
    if not (folder / INDEX).is_file() or sha256_file(folder / INDEX) != root.get("index_sha256"):
        yield Damage(None, f"{INDEX} is missing or has another hash")
    if not (folder / TIMM_INFO).is_file() or sha256_file(folder / TIMM_INFO) != root.get("timm_info_sha256"):
        yield Damage(None, f"{TIMM_INFO} is missing or has another hash")
    yield from _check_run(folder, root)
    path = folder / MANIFEST
    if not path.is_file() or sha256_file(path) != root.get("input_file_sha256"):
        yield Damage(None, f"{MANIFEST} is missing or has another hash")
        return
    manifest = InputManifest(path)
    if manifest.digest() != root.get("input_sha256"):
        yield Damage(None, f"{ROOT} was made from another input")
    if manifest.num_units != len(root["unit_sha256"]):
        yield Damage(None, f"{ROOT} names {len(root['unit_sha256'])} units; the input has another number")


def _check_run(folder: Path, root: dict[str, Any] | None) -> Iterator[Damage]:
    try:
        fields = OutputStore(folder).read_run()["fields"]
        intact = root is None or dotted.fingerprint(fields) == root.get("fingerprint")
        intact &= root is None or fields.get("label_map_sha256") == root.get("label_map_sha256")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        intact = False
    if not intact:
        yield Damage(None, f"{RUN} is missing, damaged or has another fingerprint")


def _check_unit(store: OutputStore, unit: int, sha: str) -> Iterator[str]:
    path = store.unit_path(unit)
    if not path.is_file() or sha256_file(path) != sha:
        yield f"{path.name} is missing or has another hash"
        return
    manifest = read_json_object(path, MAX_UNIT_BYTES)
    try:
        entries = check_entries(manifest)
        keys = [row["key"] for row in manifest["rows"] if row["status"] == "ok"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        yield f"{path.name} is no manifest of a unit: {error!r}"
        return
    for entry in entries.values():
        file = store.root / entry["name"]
        if not file.is_file():
            yield f"{entry['name']} is missing"
        elif sha256_file(file) != entry["sha256"]:
            yield f"{entry['name']} has sha256 {sha256_file(file)[:12]}, committed was {entry['sha256'][:12]}"
    shard = store.root / entries[SHARDS]["name"]
    if not shard.is_file() or sha256_file(shard) != entries[SHARDS]["sha256"]:
        return
    try:
        held = [sample.key for sample in read_shard(shard)]
    except DamagedTar as error:
        yield f"{shard.name} is no shard: {error}"
        return
    if held != keys:
        yield f"{shard.name} does not hold the samples its manifest names"
