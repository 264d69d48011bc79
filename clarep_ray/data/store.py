"""An output and its commit protocol: a unit is either committed whole or not there.

A unit's files are published whole under their content hash; then its manifest is published under its final name, only
if that name is free. That is the commit point. Readers go through unit manifests alone and never through a listing of
shards. In a folder (`OutputStore`) files are written under temporary names and flushed to disk first;
`tests/faults/test_crashes.py` enumerates every point at which this can be cut short, and shows that each step is
needed. Object storage is `data/object_store.py`.
"""

from __future__ import annotations

import hashlib
import os
import re
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clarep_ray import dotted
from clarep_ray.config.location import is_url
from clarep_ray.data.durable import make_folder, remove_whole, replace_file, sync_folder, write_new
from clarep_ray.data.inside import NotInside, file_inside, parts_inside, read_inside, refuse_links
from clarep_ray.data.sealed import parse_sealed, sealed
from clarep_ray.data.untrusted import MAX_JSON_BYTES, check_fields, parse_json_object
from clarep_ray.data.writable import check_writable
from clarep_ray.errors import DamagedUnit, NondeterministicUnit

SHARDS, SPECTRA, UNITS, WORK = "shards", "spectra", "units", "tmp"
FOLDERS = (SHARDS, SPECTRA, UNITS, WORK)
SUFFIXES = {SHARDS: "tar", SPECTRA: "safetensors"}
MAX_UNIT_BYTES = 64 * 2**20
"""Of a unit's manifest, which has some 400 bytes a row."""
RUN = "run.json"
"""The resolved config of a run and its fingerprint: the first file of an output."""
UNIT_FILE = re.compile(r"([0-9]{6}|[1-9][0-9]{6,11})\.json", re.ASCII)
"""What `unit_name` makes, and nothing else that would stand for the same number."""
UNIT_SEAL, RUN_SEAL = "manifest_sha256", "record_sha256"
"""What unit manifests and `run.json` call the hash of themselves."""
ABANDONED_S = 3600.0
"""Age of a temporary file that no living attempt can still be writing."""


class Store(ABC):
    """An output, wherever it lies: its commit protocol over a few operations on files by their name in the output."""

    @property
    @abstractmethod
    def where(self) -> str:
        """The folder or URL, for messages and commands."""

    @property
    @abstractmethod
    def desk(self) -> Path:
        """A folder of the driver for what is appended to or drawn: the output itself where that is a folder."""

    @abstractmethod
    def check(self, setting: str = "output.path") -> None:
        """Raise ValueError naming the setting, before anything expensive, where the output cannot be written."""

    @abstractmethod
    def prepare(self) -> None:
        """Make ready for a run, and remove what long dead attempts left behind."""

    @abstractmethod
    def holds_files(self) -> bool:
        """Say whether the output holds any file, apart from our own temporary ones."""

    @abstractmethod
    def put_new(self, name: str, data: bytes) -> bool:
        """Write a file unless there is one of that name, whole or not at all; False where there is."""

    @abstractmethod
    def put(self, name: str, data: bytes) -> None:
        """Write a file whole or not at all, in the place of an older one."""

    @abstractmethod
    def read(self, name: str, limit: int) -> bytes:
        """Return a file's bytes; FileNotFoundError, and ValueError where it has more than `limit` bytes."""

    @abstractmethod
    def size(self, name: str) -> int:
        """Return a file's size in bytes; FileNotFoundError."""

    @abstractmethod
    def names(self, folder: str) -> list[str]:
        """Return the sorted names of the files in a folder; none where there is no such folder."""

    @abstractmethod
    def remove(self, folder: str, names: Collection[str]) -> None:
        """Remove files of a folder for good; no error where one is gone already."""

    @abstractmethod
    def upload(self, name: str) -> None:
        """Write the desk's file of that name as `put` does; nothing to do where the desk is the output."""

    @abstractmethod
    @contextmanager
    def local(self, name: str) -> Generator[Path]:
        """Give a file as one of this machine inside; FileNotFoundError."""

    def has(self, name: str) -> bool:
        """Say whether there is a file of that name."""
        try:
            return self.size(name) >= 0
        except FileNotFoundError:
            return False

    def collect_orphans(self, named: Collection[str]) -> None:
        """Remove shards and side-cars that no unit manifest names: leftovers of a kill before the commit point."""
        for folder in (SHARDS, SPECTRA):  # also where there is none: a killed run may have begun
            self.remove(folder, [name for name in self.names(folder) if f"{folder}/{name}" not in named])

    def units(self) -> list[int]:
        """Return the numbers of the committed units in order; their manifests are not looked at."""
        return sorted(int(name.removesuffix(".json")) for name in self.names(UNITS) if UNIT_FILE.fullmatch(name))

    def committed_units(self) -> dict[int, dict[str, Any]]:
        """Return {unit: its manifest} of every committed unit."""
        return dict(self.each_committed())

    def each_committed(self, to_the_byte: bool = True) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield every committed unit and its manifest in order, one in memory at a time; DamagedUnit as below.

        Unless `to_the_byte`, a manifest may have blanks too many, and is read three times as fast.
        """
        for unit in self.units():
            yield unit, self._committed(unit, self.size, to_the_byte)

    def committed_unit(self, unit: int) -> dict[str, Any]:
        """Return the manifest of one committed unit; DamagedUnit where it cannot be read or names missing files."""
        return self._committed(unit, self.size, to_the_byte=True)

    def _committed(self, unit: int, size_of: Callable[[str], int], to_the_byte: bool) -> dict[str, Any]:
        try:
            manifest = parse_sealed(self.read(unit_name(unit), MAX_UNIT_BYTES), UNIT_SEAL, to_the_byte)
            for entry in check_unit(manifest, unit).values():
                if size_of(entry["name"]) != entry["bytes"]:
                    raise ValueError(f"{entry['name']} has another size")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DamagedUnit(f"unit {unit} of {self.where!r} is damaged ({error}); {repair_hint(self)}") from None
        return manifest

    def commit(self, unit: int, files: Mapping[str, bytes], manifest: Mapping[str, Any]) -> bool:
        """Publish a unit's files and then its manifest; return False where it was committed already.

        `files` maps a folder (`shards`, `spectra`) to the one file it receives; the manifest gains their names,
        sizes and hashes. Raises NondeterministicUnit where the committed unit has other hashes.
        """
        entries = {folder: self._publish(folder, unit, data) for folder, data in files.items()}
        record: dict[str, Any] = {**manifest, "unit": unit, "files": entries}
        if self.put_new(unit_name(unit), sealed(record, UNIT_SEAL)):
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
        self.put(RUN, sealed(record, RUN_SEAL))

    def read_record(self) -> dict[str, Any]:
        """Return what `run.json` says, whether its hash is right or not; ValueError naming it where it is no record."""
        where = f"{self.where}/{RUN}"
        record = parse_json_object(self.read(RUN, MAX_JSON_BYTES), where)
        check_fields(record, {"fingerprint": str, "fields": dict, "config": dict}, where)
        return record

    def read_run(self) -> dict[str, Any]:
        """Return what `run.json` says; ValueError where it is damaged, OSError where it cannot be read."""
        return parse_sealed(self.read(RUN, MAX_JSON_BYTES), RUN_SEAL)

    def _publish(self, folder: str, unit: int, data: bytes) -> dict[str, Any]:
        sha = hashlib.sha256(data).hexdigest()
        name = f"{folder}/{unit:06d}-{sha[:12]}.{SUFFIXES[folder]}"
        # The name is the content: an older file of that name can only be a copy, or damaged, so it is replaced.
        self.put(name, data)
        return {"name": name, "sha256": sha, "bytes": len(data)}


@dataclass(frozen=True)
class OutputStore(Store):
    """An output folder on a local or shared file system."""

    root: Path

    @property
    def where(self) -> str:
        return str(self.root)

    @property
    def desk(self) -> Path:
        return self.root

    def check(self, setting: str = "output.path") -> None:
        """Raise ValueError as above, OSError where the disk is full; nothing is left behind."""
        check_writable(self.root, setting)

    def prepare(self) -> None:
        """Make the folders and remove what long dead attempts left behind.

        A run that was killed may have published a name and not yet synced it. This one builds on it, so syncs it first.
        """
        for name in FOLDERS:
            make_folder(self._path(name))
        for name in FOLDERS:
            sync_folder(self.root / name)
        sync_folder(self.root)
        with suppress(PermissionError):  # who may not list the folder above did not make this one
            sync_folder(self.root.parent)
        probe = self._write_temporary(b"")
        now = probe.stat().st_mtime  # the file system's clock, which stamped the others too
        for path in (*(self.root / WORK).iterdir(), *self.root.glob(".tmp-*")):
            with suppress(FileNotFoundError):  # another run on this output may be at work
                found = path.lstat()
                if path == probe or (_is_temporary(path) and now - found.st_mtime > ABANDONED_S):
                    remove_whole(path)

    def holds_files(self) -> bool:
        return any(not _is_folder(path) and not _is_temporary(path) for path in self.root.rglob("*"))

    def has(self, name: str) -> bool:
        return self._path(name).is_file()

    def put_new(self, name: str, data: bytes) -> bool:
        target = self._path(name)
        make_folder(target.parent)
        return self._put_if_absent(self._write_temporary(data), target)

    def put(self, name: str, data: bytes) -> None:
        folder, _, _ = name.rpartition("/")
        parts_inside(name)
        target = (self._path(folder) / name[len(folder) + 1 :]) if folder else self.root / name
        replace_file(self._write_temporary(data), target)  # a link of that name is replaced, and not followed

    def read(self, name: str, limit: int) -> bytes:
        return read_inside(self.root, name, limit)

    def size(self, name: str) -> int:
        return self._path(name).lstat().st_size

    def names(self, folder: str) -> list[str]:
        path = self._path(folder) if folder else self.root
        return sorted(file.name for file in path.iterdir() if not _is_folder(file)) if path.is_dir() else []

    def remove(self, folder: str, names: Collection[str]) -> None:
        path = self._path(folder) if folder else self.root
        for name in names:
            if _is_folder(path / name):
                raise NotInside(f"{str(path / name)!r} is a folder where a file belongs; move it away")
            (path / name).unlink(missing_ok=True)
        sync_folder(path)  # or they could be back beside a root that knows nothing of them

    def upload(self, name: str) -> None:
        """The desk is the output."""

    @contextmanager
    def local(self, name: str) -> Generator[Path]:
        yield file_inside(self.root, name)

    def unit_path(self, unit: int) -> Path:
        return self._path(unit_name(unit))

    def _path(self, name: str) -> Path:
        """Return a file's path; NotInside where it, or a folder on the way, is a link: it could lead anywhere."""
        return refuse_links(self.root, name)

    def _write_temporary(self, data: bytes) -> Path:
        path = self._path(WORK) / uuid.uuid4().hex
        try:
            write_new(path, data)
        except FileNotFoundError:  # archives and object stores lose a folder that was empty
            make_folder(path.parent)
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


def open_store(where: str) -> Store:
    """Return the output at a folder or at s3://BUCKET/PREFIX; ValueError for another URL. Nothing is read or made."""
    if not is_url(where):
        return OutputStore(Path(where))
    from clarep_ray.data.object_store import ObjectStore

    return ObjectStore(where)


def as_store(output: Path | Store) -> Store:
    """Return the store of an output that may be given as a folder."""
    return OutputStore(output) if isinstance(output, Path) else output


def repair_hint(store: Store) -> str:
    """Return the command that computes damaged units again."""
    return f"run: uv run jobs/verify.py {store.where} --repair"


def unit_name(unit: int) -> str:
    """Return the name of a unit's manifest in the output."""
    return f"{UNITS}/{unit:06d}.json"


def check_entries(manifest: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the files of a unit's manifest; ValueError for one that lies elsewhere, whoever wrote the manifest.

    KeyError, TypeError or AttributeError for what is no manifest.
    """
    entries: dict[str, dict[str, Any]] = manifest["files"]
    for folder, entry in entries.items():
        kind = SUFFIXES.get(folder)
        if kind is None or not re.fullmatch(rf"{folder}/[0-9]{{6,}}-[0-9a-f]{{12}}\.{kind}", entry["name"], re.ASCII):
            raise ValueError(f"it names the file {str(entry['name'])[:100]!r}")
        check_fields(entry, {"sha256": str, "bytes": int}, entry["name"])
    return entries


def check_unit(manifest: Mapping[str, Any], unit: int) -> dict[str, dict[str, Any]]:
    """Return the files of a unit's manifest; raises as `check_entries`, and where it is that of another unit."""
    entries = check_entries(manifest)
    mine = [entry["name"].startswith(f"{folder}/{unit:06d}-") for folder, entry in entries.items()]
    if manifest["unit"] != unit or not all(mine):
        raise ValueError("it is of another unit")
    return entries


def check_rows(manifest: Mapping[str, Any]) -> None:
    """Raise ValueError, KeyError or TypeError where a unit's manifest does not say of its samples what became of them.

    What else it says of them is looked at where it is used.
    """
    if not isinstance(manifest["files"].get(SHARDS), dict):
        raise ValueError("it names no shard")
    for row in manifest["rows"]:
        if not isinstance(row["key"], str) or row["status"] not in ("ok", "rejected"):
            raise ValueError(f"a row of it is {str(row)[:100]!r}")
        if row["status"] == "rejected" and not isinstance(row["reason"], str):
            raise ValueError(f"it says not why {row['key'][:100]!r} was rejected")
    if manifest["num_ok"] != sum(row["status"] == "ok" for row in manifest["rows"]):
        raise ValueError("it counts other samples than it has")


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _is_temporary(path: Path) -> bool:
    ours = path.parent.name == WORK and re.fullmatch(r"[0-9a-f]{32}|owner\.\d+", path.name)
    return bool(ours) or path.name.startswith(".tmp-")
