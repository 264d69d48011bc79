"""Whether a job can write its output folder, found out before anything expensive: what is in the way is one line."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import uuid
from contextlib import suppress
from pathlib import Path

from clarep_ray.data.durable import write_new
from clarep_ray.dotted import check_text, shortened

FILES = (".json", ".jsonl", ".parquet", ".csv", ".md", ".png", ".html")
"""What files of an output end in, and no folder of one does."""
FOLDERS = {
    *("shards", "spectra", "units", "tmp", "attempts", "parts"),  # extraction, calibration, evaluation
    *("checkpoints", "ray", "last", "best", "model"),  # trainings
    *("rows", "points", "claims", ".mlflow-outbox"),  # sweeps, tracking
}
"""What folders of an output are called, and no file of one is."""
TRIED_BYTES = 4096


def check_writable(folder: Path, setting: str = "output") -> None:
    """Raise ValueError naming the setting where an output folder cannot be made or written; OSError where it is full.

    A file is written and removed again in the folder or, where it is not there yet, in the nearest one above it that
    is. Nothing is left behind, and nothing is followed out of it.
    """
    check_text(setting, folder)
    place = _nearest(folder.absolute(), setting)
    if place == folder.absolute():
        _check_names(place, setting)
    probe = place / f".tmp-{uuid.uuid4().hex}"
    try:
        write_new(probe, bytes(TRIED_BYTES))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = "" if place == folder.absolute() else f": nothing can be made in {shortened(str(place))}"
        raise _wrong(folder, setting, f"cannot be written{where}: {_reason(error)}") from None
    finally:
        with suppress(OSError):
            probe.unlink()


def free_bytes(folder: Path, setting: str = "output") -> int:
    """Return what is free for this user where a folder is, or will be; raises as `check_writable`."""
    return shutil.disk_usage(_nearest(folder.absolute(), setting)).free


def _nearest(folder: Path, setting: str) -> Path:
    """Return the folder, or the nearest one above it that there is; ValueError where something else is in the way."""
    for place in (folder, *folder.parents):
        try:
            place.lstat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            if error.errno == errno.ELOOP:  # of a link further up
                continue
            raise _wrong(folder, setting, f"cannot be a folder: {_reason(error)}") from None
        try:
            kind = place.stat().st_mode
        except OSError as error:
            raise _wrong(folder, setting, f"{_named(place, folder)} is a link to nowhere: {_reason(error)}") from None
        if not stat.S_ISDIR(kind):
            raise _wrong(folder, setting, f"{_named(place, folder)} is no folder and in the way")
        return place
    raise _wrong(folder, setting, "cannot be reached")


def _check_names(folder: Path, setting: str) -> None:
    """Raise ValueError where a folder lies where a job writes a file, or something else where it makes a folder."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.endswith(FILES) and entry.is_dir():
                    raise _wrong(folder, setting, f"{shortened(entry.name)} in it is a folder, where a file belongs")
                if entry.name in FOLDERS and not entry.is_dir():
                    raise _wrong(folder, setting, f"{entry.name!r} in it is no folder, and one belongs there")
    except OSError as error:
        raise _wrong(folder, setting, f"cannot be listed: {_reason(error)}") from None


def _named(place: Path, folder: Path) -> str:
    return "it" if place == folder else shortened(str(place))


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


def _wrong(folder: Path, setting: str, what: str) -> ValueError:
    return ValueError(f"{setting}: {shortened(str(folder))} is not valid: {what}; valid: a folder that can be written")
