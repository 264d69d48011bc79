"""Folders of image files: one folder per class, or one flat folder whose classes a file names."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from clarep_ray.config import DataConfig
from clarep_ray.data.class_list import ClassList
from clarep_ray.data.records import RejectReason
from clarep_ray.data.shards import sha256_file
from clarep_ray.data.sources.image_labels import read_image_labels
from clarep_ray.data.sources.listed import UNKNOWN, Labels, Listed, Source, root_folder


class FolderSource(Source):
    """Base of sources whose rows are whole files below `root`."""

    def __init__(self, config: DataConfig) -> None:
        self.root = root_folder(config)

    def read(self, source: str, offset: int, size: int) -> bytes:
        return (self.root / source).read_bytes()

    def sha256(self, source: str, offset: int, size: int) -> str:
        return sha256_file(self.root / source)  # in pieces: a class folder may hold a file of any size

    def _listed(self, entry: os.DirEntry[str], path: str, class_name: str, label: int) -> Listed:
        """Return the row of a file, or of a reject: a name that is no text, a file nobody may open, a link to none."""
        name, reason, size = as_text(path), "", 0
        if name != path:
            reason = RejectReason.NAME_NOT_UTF8.value
        try:
            found = entry.stat()
            if stat.S_ISREG(found.st_mode):
                size = found.st_size
            else:  # a link to a folder, which may lead in a circle, or to a pipe, which may never end
                reason = reason or RejectReason.UNREADABLE_FILE.value
        except OSError as error:
            if not _concerns_one_file(error, entry):
                raise ValueError(f"data.path: {entry.path!r} cannot be read: {error.strerror}") from None
            reason = reason or RejectReason.UNREADABLE_FILE.value
        return Listed(id=name, source=name, offset=0, size=size, label=label, class_name=class_name, reason=reason)


class ImageFolder(FolderSource):
    """One folder per class below the root, as torchvision's ImageFolder.

    Every file below a class folder is an input, whatever it is called, so that nothing is passed over in silence;
    only hidden ones (a name that starts with a dot) and files beside the class folders are not. A class folder may be
    a link, and so may a file; a link to a folder below a class folder is not followed and becomes one reject.
    """

    def __init__(self, config: DataConfig, known: ClassList | None, reader: str) -> None:
        super().__init__(config)
        self._folders = sorted(entry.name for entry in os.scandir(self.root) if entry.is_dir() and entry.name[0] != ".")
        if not self._folders:
            raise ValueError(f"data.path: {config.path!r} has no class folders; valid: root/<class>/<image>")
        self._names = {as_text(name): name for name in self._folders}
        self._known, self._reader = known, reader

    def find_labels(self) -> Labels:
        return Labels.of(ClassList.of_folders(self._names), self._known, f"data.path: {str(self.root)!r}", self._reader)

    def rows(self) -> Iterator[Listed]:
        numbers = {name: number for number, name in enumerate((self.labels.own or self.classes).names)}
        for name in self._folders:
            label, class_name = self.labels(numbers[as_text(name)])
            for entry, path in _files_below(self.root, name):
                yield self._listed(entry, path, class_name, label)


class FlatFolder(FolderSource):
    """Images beside each other, their classes in a file: ImageNet's validation as Kaggle or its devkit has it.

    An image that the file does not name has an unknown class.
    """

    def __init__(self, config: DataConfig, known: ClassList | None, reader: str) -> None:
        super().__init__(config)
        self._labels, self._path = read_image_labels(config.labels_file), config.path
        self._known, self._reader, self._file = known, reader, config.labels_file

    def find_labels(self) -> Labels:
        own = ClassList.of_folders(set(self._labels.classes.values()))
        return Labels.of(own, self._known, f"data.labels_file: {self._file!r}", self._reader)

    def rows(self) -> Iterator[Listed]:
        entries = [entry for entry in _sorted_entries(self.root) if _is_input(entry)]
        self._check_names({Path(entry.name).stem for entry in entries})
        numbers = {name: number for number, name in enumerate((self.labels.own or self.classes).names)}
        for entry in entries:
            name = self._labels.classes.get(Path(entry.name).stem)
            label, class_name = (UNKNOWN, "") if name is None else self.labels(numbers[name])
            yield self._listed(entry, entry.name, class_name, label)

    def _check_names(self, found: set[str]) -> None:
        """Raise ValueError where an image that has a class is missing, or one that should have a class has none."""
        known, prefix = self._labels.classes.keys(), self._labels.complete_for
        if missing := known - found:
            raise ValueError(f"data.path: {self._path!r} lacks {len(missing)} named images, first: {min(missing)!r}")
        if nameless := {name for name in found - known if prefix and name.startswith(prefix)}:
            raise ValueError(
                f"data.labels_file: it has {len(known)} lines for {len(known) + len(nameless)} images of "
                f"{self._path!r}; first without one: {min(nameless)!r}"
            )


def _files_below(root: Path, folder: str) -> Iterator[tuple[os.DirEntry[str], str]]:
    """Yield every input below `root/folder` with its path relative to `root`, in the order of path components."""
    for entry in _sorted_entries(root / folder):
        path = f"{folder}/{entry.name}"
        if entry.is_dir(follow_symlinks=False):
            yield from _files_below(root, path)
        elif _is_input(entry):
            yield entry, path


def _sorted_entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise ValueError(f"data.path: {str(folder)!r} cannot be listed: {error.strerror}") from None


def _is_input(entry: os.DirEntry[str]) -> bool:
    """Say whether an entry counts: not hidden, a file, or a link, even one that leads nowhere."""
    return entry.name[0] != "." and (entry.is_symlink() or entry.is_file())


def _concerns_one_file(error: OSError, entry: os.DirEntry[str]) -> bool:
    """Say whether a fault is this file's: no permission, or a link that leads nowhere; else it is the machine's."""
    return error.errno == errno.EACCES or (error.errno in (errno.ENOENT, errno.ELOOP) and entry.is_symlink())


def as_text(name: str) -> str:
    """Return a file name as text: bytes that are no UTF-8 are written as \\xNN."""
    return os.fsencode(name).decode(errors="backslashreplace")
