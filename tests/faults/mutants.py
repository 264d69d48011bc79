"""Traces of commit protocols that lack a step, or do it too early or too late: crashes must show what that costs."""

from collections.abc import Callable
from pathlib import Path

from clarep_ray.data.clarep_index import ROOT
from tests.faults.shim import Op

Mutant = Callable[[list[Op]], list[Op]]
"""Turns the product's trace into that of a protocol with a step dropped or out of order; the length stays."""
NO_STEP = "dropped"


def without(kind: str, place: str, final: str = "") -> Mutant:
    """Drop fsyncs: of the folder `place`, or of files that are going to `place`, or to the one file `final` there."""

    def mutant(ops: list[Op]) -> list[Op]:
        targets = {op.path: op.target for op in ops if op.target is not None}

        def drops(op: Op) -> bool:
            target = op.path if kind == "fsync_folder" else targets.get(op.path)
            if op.kind != kind or target is None:
                return False
            return target.name == place if kind == "fsync_folder" else _lies_in(target, place, final)

        return [Op(NO_STEP, op.path) if drops(op) else op for op in ops]

    return mutant


def _lies_in(target: Path, place: str, final: str) -> bool:
    return target.parent.name == place and (not final or target.name == final)


def in_place(place: str, final: str = "") -> Mutant:
    """Write files under their final name at once."""

    def mutant(ops: list[Op]) -> list[Op]:
        found = {op.path: op.target for op in ops if op.target is not None and _lies_in(op.target, place, final)}
        kept = [
            Op(NO_STEP, op.path) if op.path in found and op.kind in ("replace", "link", "unlink") else op for op in ops
        ]
        return [Op(op.kind, found.get(op.path) or op.path, op.target, op.data) for op in kept]

    return mutant


def folder_synced_too_early(place: str) -> Mutant:
    """Sync a folder before the name in it is there instead of after."""

    def mutant(ops: list[Op]) -> list[Op]:
        ops = list(ops)
        for i, op in reversed(list(enumerate(ops))):
            if op.target is not None and op.target.parent.name == place:
                later = next(
                    j for j in range(i, len(ops)) if ops[j].kind == "fsync_folder" and ops[j].path.name == place
                )
                ops[i : later + 1] = [ops[later], *ops[i:later]]
        return ops

    return mutant


def file_synced_too_late(place: str) -> Mutant:
    """Sync a file only when the name in its folder is on disk already."""

    def mutant(ops: list[Op]) -> list[Op]:
        ops = list(ops)
        for i, op in enumerate(ops):
            if (
                op.kind == "fsync"
                and ops[i + 1].target is not None
                and _lies_in(ops[i + 1].target or op.path, place, "")
            ):
                later = next(
                    j for j in range(i, len(ops)) if ops[j].kind == "fsync_folder" and ops[j].path.name == place
                )
                ops[i : later + 1] = [*ops[i + 1 : later + 1], Op("fsync", ops[i + 1].target or op.path)]
        return ops

    return mutant


def _publishes_unit(op: Op) -> bool:
    return op.kind == "link" and op.target is not None and op.target.parent.name == "units"


def manifest_first(ops: list[Op]) -> list[Op]:
    """Publish each unit's manifest before its files."""
    ops, start = list(ops), 0
    while (link := next((i for i in range(start, len(ops)) if _publishes_unit(ops[i])), None)) is not None:
        begins = max(i for i in range(link) if ops[i].kind == "create")
        first = max(
            i for i in range(begins) if ops[i].kind == "fsync_folder" and ops[i].path.name not in ("shards", "spectra")
        )
        ops[first + 1 : link + 3] = ops[begins : link + 3] + ops[first + 1 : begins]
        start = link + 3
    return ops


def root_first(ops: list[Op]) -> list[Op]:
    """Write the root manifest before the index."""
    names = [op.target.name if op.target else "" for op in ops]
    index, root = names.index("index.parquet"), names.index(ROOT)
    index -= 3
    return ops[:index] + ops[root - 3 : root + 2] + ops[index : root - 3] + ops[root + 2 :]


def unsynced_start(ops: list[Op]) -> list[Op]:
    """Build on what a killed run left without syncing it; each run's start syncs five folders and the base."""
    starts = [i for i, op in enumerate(ops) if op.kind == "fsync_folder" and op.path.name == "base"]
    return [Op(NO_STEP, op.path) if starts[-1] - 5 <= i <= starts[-1] else op for i, op in enumerate(ops)]


MANY_NAMES = "names in the output are not synced"
MUTANTS: dict[str, Mutant] = {
    "shards are not synced": without("fsync", "shards"),
    "spectra are not synced": without("fsync", "spectra"),
    "unit manifests are not synced": without("fsync", "units"),
    "run.json is not synced": without("fsync", "out", "run.json"),
    "the root manifest is not synced": without("fsync", "out", ROOT),
    "names of shards are not synced": without("fsync_folder", "shards"),
    "names of spectra are not synced": without("fsync_folder", "spectra"),
    "names of unit manifests are not synced": without("fsync_folder", "units"),
    MANY_NAMES: without("fsync_folder", "out"),
    "the name of the output is not synced": without("fsync_folder", "base"),
    "unit manifests are written in place": in_place("units"),
    "run.json is written in place": in_place("out", "run.json"),
    "the root manifest is written in place": in_place("out", ROOT),
    "shards: folder before name": folder_synced_too_early("shards"),
    "unit manifests: folder before name": folder_synced_too_early("units"),
    "unit manifests: file after name": file_synced_too_late("units"),
    "unit manifests before their files": manifest_first,
    "root manifest before the index": root_first,
}
