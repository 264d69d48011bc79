"""The output folder and its commit protocol: a unit is either committed whole or not there.

A unit's files are written under temporary names, flushed to disk and published under their content hash; then
its manifest is published under its final name, only if that name is free. That is the commit point. Readers go
through unit manifests alone and never through a listing of shards. `tests/faults/test_crashes.py` enumerates every
point at which this can be cut short, and shows that each step is needed.
"""

from __future__ import annotations

import hashlib
import os
import re
import uuid
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clarep_ray import dotted
from clarep_ray.data.durable import make_folder, replace_file, sync_folder, write_new
from clarep_ray.data.sealed import read_sealed, sealed
from clarep_ray.data.untrusted import read_bounded

SHARDS, SPECTRA, UNITS, WORK = "shards", "spectra", "units", "tmp"
FOLDERS = (SHARDS, SPECTRA, UNITS, WORK)
SUFFIXES = {SHARDS: "tar", SPECTRA: "safetensors"}
MAX_UNIT_BYTES = 64 * 2**20
"""Of a unit's manifest, which has some 400 bytes a row."""
RUN = "run.json"
"""The resolved config of a run and its fingerprint: the first file of an output."""
UNIT_SEAL, RUN_SEAL = "manifest_sha256", "record_sha256"
"""What unit manifests and `run.json` call the hash of themselves."""
ABANDONED_S = 3600.0
"""Age of a temporary file that no living attempt can still be writing."""


class DamagedUnit(RuntimeError):
    """A committed unit whose manifest or files are not as they were committed."""


class NondeterministicUnit(RuntimeError):
    """A unit was computed twice with different bytes."""


@dataclass(frozen=True)
class OutputStore:
    """An output folder on a local or shared file system."""

    root: Path

    def prepare(self) -> None:
        """Make the folders and remove what long dead attempts left behind.

        A run that was killed may have published a name and not yet synced it. This one builds on it, so syncs it first.
        """
        for name in FOLDERS:
            make_folder(self.root / name)
        for name in FOLDERS:
            sync_folder(self.root / name)
        sync_folder(self.root)
        with suppress(PermissionError):  # who may not list the folder above did not make this one
            sync_folder(self.root.parent)
        probe = self._write_temporary(b"")
        now = probe.stat().st_mtime  # the file system's clock, which stamped the others too
        for path in (*(self.root / WORK).iterdir(), *self.root.glob(".tmp-*")):
            with suppress(FileNotFoundError):  # another run on this output may be at work
                if path == probe or (_is_temporary(path) and now - path.stat().st_mtime > ABANDONED_S):
                    path.unlink()

    def holds_files(self) -> bool:
        """Say whether any file lies in the output folder, apart from our own temporary ones."""
        return any(path.is_file() and not _is_temporary(path) for path in self.root.rglob("*"))

    def collect_orphans(self, named: Collection[str]) -> None:
        """Remove shards and side-cars that no unit manifest names: leftovers of a kill before the commit point."""
        for folder in (SHARDS, SPECTRA):
            for path in (self.root / folder).iterdir():
                if f"{folder}/{path.name}" not in named:
                    path.unlink(missing_ok=True)
            sync_folder(self.root / folder)  # or they could be back beside a root that knows nothing of them

    def unit_path(self, unit: int) -> Path:
        return self.root / UNITS / f"{unit:06d}.json"

    def committed_units(self) -> dict[int, dict[str, Any]]:
        """Return {unit: its manifest} of every committed unit."""
        return dict(self.each_committed())

    def each_committed(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield every committed unit and its manifest in order, one in memory at a time; DamagedUnit as below."""
        for unit in sorted(int(path.stem) for path in (self.root / UNITS).glob("*.json")):
            yield unit, self.committed_unit(unit)

    def committed_unit(self, unit: int) -> dict[str, Any]:
        """Return the manifest of one committed unit; DamagedUnit where it cannot be read or names missing files."""
        try:
            manifest = read_sealed(self.unit_path(unit), UNIT_SEAL, MAX_UNIT_BYTES)
            for entry in check_entries(manifest).values():
                if (self.root / entry["name"]).stat().st_size != entry["bytes"]:
                    raise ValueError(f"{entry['name']} has another size")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DamagedUnit(
                f"unit {unit} of {str(self.root)!r} is damaged ({error}); "
                f"run: uv run jobs/verify.py {self.root} --repair"
            ) from None
        return manifest

    def commit(self, unit: int, files: Mapping[str, bytes], manifest: Mapping[str, Any]) -> bool:
        """Publish a unit's files and then its manifest; return False where it was committed already.

        `files` maps a folder (`shards`, `spectra`) to the one file it receives; the manifest gains their names,
        sizes and hashes. Raises NondeterministicUnit where the committed unit has other hashes.
        """
        entries = {folder: self._publish(folder, unit, data) for folder, data in files.items()}
        record: dict[str, Any] = {**manifest, "unit": unit, "files": entries}
        data = sealed(record, UNIT_SEAL)
        if self._put_if_absent(self._write_temporary(data), self.unit_path(unit)):
            return True
        before = self.committed_unit(unit)["files"]
        if before != entries:
            raise NondeterministicUnit(
                f"unit {unit} was committed with {before} and computed again as {entries}: equal work, other bytes"
            )
        return False

    def write_run(self, fields: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        """Say in `run.json` whose output this is: what its fingerprint is made of, and the resolved config."""
        record = {"fingerprint": dotted.fingerprint(dict(fields)), "fields": dict(fields), "config": dict(config)}
        self.write_root(RUN, sealed(record, RUN_SEAL))

    def read_run(self) -> dict[str, Any]:
        """Return what `run.json` says; ValueError where it is damaged, OSError where it cannot be read."""
        return read_sealed(self.root / RUN, RUN_SEAL)

    def write_root(self, name: str, data: bytes) -> None:
        """Write a root file (index, manifest, config), or one in a folder there, replacing an older one in one step."""
        replace_file(self._write_temporary(data), self.root / name)

    def put_new(self, name: str, data: bytes) -> bool:
        """Write a file unless there is one of that name, whole or not at all; False where there is."""
        make_folder((self.root / name).parent)
        return self._put_if_absent(self._write_temporary(data), self.root / name)

    def read(self, name: str, limit: int) -> bytes:
        """Return a file's bytes; FileNotFoundError, and ValueError where it has more than `limit` bytes."""
        return read_bounded(self.root / name, limit)

    def _publish(self, folder: str, unit: int, data: bytes) -> dict[str, Any]:
        sha = hashlib.sha256(data).hexdigest()
        target = self.root / folder / f"{unit:06d}-{sha[:12]}.{SUFFIXES[folder]}"
        temporary = self._write_temporary(data)
        # The name is the content: an older file of that name can only be a copy, or damaged, so it is replaced.
        replace_file(temporary, target)
        return {"name": f"{folder}/{target.name}", "sha256": sha, "bytes": len(data)}

    def _write_temporary(self, data: bytes) -> Path:
        path = self.root / WORK / uuid.uuid4().hex
        write_new(path, data)
        return path

    def _put_if_absent(self, temporary: Path, target: Path) -> bool:
        fresh = True
        try:
            os.link(temporary, target)
        except FileExistsError:
            fresh = False
        finally:
            temporary.unlink()
        sync_folder(target.parent)  # another attempt may have been killed between its link and this
        return fresh


def check_entries(manifest: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the files of a unit's manifest; ValueError for one that lies elsewhere, whoever wrote the manifest."""
    entries: dict[str, dict[str, Any]] = manifest["files"]
    for folder, entry in entries.items():
        kind = SUFFIXES.get(folder)
        if kind is None or not re.fullmatch(rf"{folder}/[0-9]{{6,}}-[0-9a-f]{{12}}\.{kind}", entry["name"], re.ASCII):
            raise ValueError(f"it names the file {str(entry['name'])[:100]!r}")
    return entries


def _is_temporary(path: Path) -> bool:
    ours = path.parent.name == WORK and re.fullmatch(r"[0-9a-f]{32}|owner\.\d+", path.name)
    return bool(ours) or path.name.startswith(".tmp-")
