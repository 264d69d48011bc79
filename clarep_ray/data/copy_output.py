"""A verified copy of a finished output on this machine: what trainings, reports and evaluations read."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from clarep_ray.data.clarep_index import INDEX, ROOT, TIMM_INFO, read_root
from clarep_ray.data.durable import make_folder, sync_folder
from clarep_ray.data.inside import has_file_inside, make_folders_inside, new_inside, refuse_links
from clarep_ray.data.manifest import MANIFEST
from clarep_ray.data.object_store import ObjectStore
from clarep_ray.data.shards import sha256_file
from clarep_ray.data.store import FOLDERS, Store, check_entries, unit_name
from clarep_ray.data.verify import verify
from clarep_ray.errors import DamagedUnit

DOWNLOADS = 8
PARTIAL = ".partial"
KNOWN = {INDEX: "index_sha256", TIMM_INFO: "timm_info_sha256", MANIFEST: "input_file_sha256"}
"""Files of the output's top whose hash the root manifest tells, and as what."""


def copy_output(store: Store, folder: Path, say: Callable[[str], None] = print) -> None:
    """Copy a finished output in object storage into a new folder, which is there only once every hash is right.

    Another call continues one that was cut short, from `FOLDER.partial`. Raises ValueError for an output that lies in a
    folder or is not finished, and where the folder holds something else; DamagedUnit where a hash is wrong.
    """
    if not isinstance(store, ObjectStore):
        raise ValueError(f"--copy-to: {store.where!r} is a folder already; valid: an output at s3://BUCKET/PREFIX")
    folder, root = folder.absolute(), read_root(store)
    if os.path.lexists(folder) and (not folder.is_dir() or any(folder.iterdir())):
        _check_same(folder, root)
        return say(f"{folder} is a copy of it already")
    work = folder.with_name(folder.name + PARTIAL)
    make_folder(refuse_links(work.parent, work.name))
    for name in FOLDERS:
        make_folders_inside(work, name)
    wanted = _wanted(store, root)
    say(f"copying {len(wanted)} files to {folder}")
    with ThreadPoolExecutor(DOWNLOADS) as pool:
        list(pool.map(lambda item: _fetch(store, work, *item), wanted.items()))
    if found := verify(work):
        raise DamagedUnit(f"{found[0].what}; run: uv run jobs/verify.py {store.where} --repair, and copy again")
    work.rename(folder)
    sync_folder(folder.parent)
    return say(f"{folder} holds a copy, and every hash and count in it is right")


def _check_same(folder: Path, root: dict[str, Any]) -> None:
    """Raise ValueError unless a folder is an undamaged copy of the output of this root manifest."""
    same = (
        folder.is_dir()
        and has_file_inside(folder, ROOT)
        and read_root(folder).get("root_sha256") == root.get("root_sha256")
    )
    if not same:
        raise ValueError(f"--copy-to: {str(folder)!r} holds something else; valid: a new folder")
    if found := verify(folder):
        raise ValueError(f"--copy-to: {str(folder)!r} is a copy that was damaged ({found[0].what}); remove it first")


def _wanted(store: Store, root: dict[str, Any]) -> dict[str, str]:
    """Return {name: its sha256, empty where no manifest tells} of all files; ValueError for one that lies elsewhere."""
    top = [name for name in store.names("") if re.fullmatch(r"\w[\w.-]*", name, re.ASCII)]
    wanted = {name: str(root.get(KNOWN[name], "")) if name in KNOWN else "" for name in top}
    try:
        wanted |= {unit_name(unit): str(sha) for unit, sha in enumerate(root["unit_sha256"])}
        for entry in root["files"]:
            check_entries({"files": {str(entry["name"]).partition("/")[0]: entry}})
            wanted[entry["name"]] = str(entry["sha256"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{store.where}/{ROOT} is no manifest of an output: {error!r}") from None
    return wanted


def _fetch(store: ObjectStore, work: Path, name: str, sha256: str) -> None:
    """Copy one file, whole or not at all, unless it is there."""
    if sha256 and has_file_inside(work, name) and sha256_file(work / name) == sha256:
        return
    with new_inside(work, name) as fresh:
        store.download(name, fresh)
