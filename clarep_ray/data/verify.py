"""Check every hash and count of an output, and take out what is damaged so that it can be computed again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clarep_ray import dotted
from clarep_ray.data.clarep_index import INDEX, ROOT, TIMM_INFO, read_root, root_sha256
from clarep_ray.data.manifest import MANIFEST, InputManifest
from clarep_ray.data.shards import read_shard, sha256_file
from clarep_ray.data.store import RUN, SHARDS, UNITS, DamagedUnit, OutputStore


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
    try:
        root = read_root(folder)
    except (json.JSONDecodeError, UnicodeDecodeError):
        return [Damage(None, f"{ROOT} cannot be read"), *_unfinished(store)]
    found = list(_check_root(folder, root))
    if any(damage.what.startswith(ROOT) for damage in found):
        return [*found, *_unfinished(store)]  # nothing can be held against a root that is itself damaged
    shards = {entry["name"] for entry in root["files"]}
    for unit, sha in enumerate(root["unit_sha256"]):
        found += [Damage(unit, what) for what in _check_unit(store, unit, sha)]
    listed = {f"{path.parent.name}/{path.name}" for path in (folder / SHARDS).glob("*")}
    found += [Damage(None, f"{name} belongs to no unit") for name in sorted(listed - shards)]
    return found


def _unfinished(store: OutputStore) -> Iterator[Damage]:
    """Check committed units against their own manifests alone."""
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
        for path in folder.glob(f"*/{unit:06d}-*"):
            path.unlink()
    for damage in damages:
        if damage.unit is None and damage.what.endswith("belongs to no unit"):
            (folder / damage.what.split()[0]).unlink()
    return units


def _check_root(folder: Path, root: dict[str, Any]) -> Iterator[Damage]:
    if root.get("root_sha256") != root_sha256(root):
        yield Damage(None, f"{ROOT} does not match its own hash")
        return
    if not (folder / INDEX).is_file() or sha256_file(folder / INDEX) != root["index_sha256"]:
        yield Damage(None, f"{INDEX} is missing or has another hash")
    if not (folder / TIMM_INFO).is_file() or sha256_file(folder / TIMM_INFO) != root["timm_info_sha256"]:
        yield Damage(None, f"{TIMM_INFO} is missing or has another hash")
    try:
        fields = json.loads((folder / RUN).read_bytes())["fields"]
        intact = dotted.fingerprint(fields) == root["fingerprint"]
        intact &= fields.get("label_map_sha256") == root.get("label_map_sha256")
    except (OSError, ValueError, KeyError, TypeError):
        intact = False
    if not intact:
        yield Damage(None, f"{RUN} is missing or has another fingerprint")
    try:
        same_input = InputManifest(folder / MANIFEST).digest() == root["input_sha256"]
    except Exception:  # whatever the Parquet reader makes of damaged bytes
        same_input = False
    if not same_input:
        yield Damage(None, f"{MANIFEST} is missing or has another hash")


def _check_unit(store: OutputStore, unit: int, sha: str) -> Iterator[str]:
    path = store.unit_path(unit)
    if not path.is_file() or sha256_file(path) != sha:
        yield f"{path.name} is missing or has another hash"
        return
    manifest = json.loads(path.read_text())
    for entry in manifest["files"].values():
        file = store.root / entry["name"]
        if not file.is_file():
            yield f"{entry['name']} is missing"
        elif sha256_file(file) != entry["sha256"]:
            yield f"{entry['name']} has sha256 {sha256_file(file)[:12]}, committed was {entry['sha256'][:12]}"
    shard = store.root / manifest["files"][SHARDS]["name"]
    expected = [row["key"] for row in manifest["rows"] if row["status"] == "ok"]
    intact = shard.is_file() and sha256_file(shard) == manifest["files"][SHARDS]["sha256"]
    if intact and [sample.key for sample in read_shard(shard)] != expected:
        yield f"{shard.name} does not hold the samples its manifest names"
