"""Folders of image files: one folder per class, or one flat folder whose classes a file names."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Mapping
from functools import cached_property

from clarep_ray.config import DataConfig
from clarep_ray.data.class_list import UNKNOWN, ClassList
from clarep_ray.data.pixels import MAX_BYTES
from clarep_ray.data.records import RejectReason, shown
from clarep_ray.data.shards import sha256_file
from clarep_ray.data.sources.files import (
    Listing,
    choose_split,
    folder_names,
    image_files,
    is_file,
    sorted_entries,
    split_folders,
    split_of,
)
from clarep_ray.data.sources.image_labels import read_image_labels
from clarep_ray.data.sources.listed import Labels, Listed, Source, root_folder


class FolderSource(Source):
    """Base of sources whose rows are whole files below `root`."""

    def __init__(self, config: DataConfig, known: ClassList | None, reader: str) -> None:
        super().__init__()
        self.root = root_folder(config)
        self.config, self._known, self._reader = config, known, reader

    def read(self, source: str, offset: int, size: int) -> bytes:
        """Return the file, of one that is too large its beginning: nobody decodes it."""
        with (self.root / as_name(source)).open("rb") as file:
            return file.read(MAX_BYTES + 1)

    def head(self, source: str, offset: int, size: int) -> bytes:
        with (self.root / as_name(source)).open("rb") as file:
            return file.read(16)

    def sha256(self, source: str, offset: int, size: int) -> str:
        return sha256_file(self.root / as_name(source))  # in pieces: a class folder may hold a file of any size

    def _listed(self, entry: os.DirEntry[str], path: str, class_name: str, label: int, reason: str = "") -> Listed:
        """Return the row of a file, or of a reject: a name that is no text, a file nobody may open, a link to none."""
        name, size = as_text(path), 0
        if os.fsencode(path) != name.encode():
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
    """One folder per class below the root, as torchvision's ImageFolder, or below the folder of a split in it.

    Every file below a class folder is an input, whatever it is called (`files.py` says which are passed over). A
    class folder may be a link, and so may a file; a link to a folder below a class folder is not followed and becomes
    one reject.
    """

    @cached_property
    def _opened(self) -> tuple[Mapping[str, str], Listing]:
        """{class: its folder, relative to the root}, and what lay beside them."""
        listing, where = Listing(), f"data.path: {self.config.path!r}"
        splits, wanted = split_folders(self.root), self.config.split
        if not splits and wanted not in (None, split_of(f"{self.root.name}/")):
            raise ValueError(f"data.split: {wanted!r} is not valid, for {where} has no folders of splits")
        prefix = ""
        if splits:
            prefix = splits[choose_split(list(splits), wanted, where, "data.split", listing)] + "/"
        names = folder_names(self.root / prefix, listing)
        if not names:
            raise ValueError(
                f"{where} has no class folders; valid: root/<class>/<image>, or root/<split>/<class>/<image>"
            )
        return {as_text(name): prefix + name for name in names}, listing

    def find_labels(self) -> Labels:
        folders, _ = self._opened
        return Labels.of(ClassList.of_folders(folders), self._known, f"data.path: {self.config.path!r}", self._reader)

    def rows(self) -> Iterator[Listed]:
        folders, beside = self._opened
        self.listing = beside.copy()
        numbers = {name: number for number, name in enumerate((self.labels.own or self.classes).names)}
        for name, folder in folders.items():
            label, class_name = self.labels(numbers[name])
            for entry, path in image_files(self.root, folder, self.listing):
                yield self._listed(entry, path, class_name, label)
            if self._known is None and self.listing.empty:
                raise ValueError(
                    f"data.path: the class folder {shown(self.listing.empty[0])!r} has no file; valid: one image or "
                    "more in each; remove it"
                )


class FlatFolder(FolderSource):
    """Images beside each other, their classes in a file: ImageNet's validation as Kaggle or its devkit has it.

    An image that the file does not name has no label.
    """

    @cached_property
    def _labels(self):
        return read_image_labels(self.config.labels_file)

    def find_labels(self) -> Labels:
        own = ClassList.of_folders(set(self._labels.classes.values()))
        return Labels.of(own, self._known, f"data.labels_file: {self.config.labels_file!r}", self._reader)

    def rows(self) -> Iterator[Listed]:
        self.listing = Listing()
        entries = dict(self._entries())
        classes = self._labels.of_files(entries, f"data.path: {self.config.path!r}")
        numbers = {name: number for number, name in enumerate((self.labels.own or self.classes).names)}
        for path, entry in entries.items():
            name = classes.get(path)
            if name is None:
                yield self._listed(entry, path, "", UNKNOWN, RejectReason.UNLABELLED.value)
            else:
                label, class_name = self.labels(numbers[name])
                yield self._listed(entry, path, class_name, label)

    def _entries(self) -> Iterator[tuple[str, os.DirEntry[str]]]:
        """Yield the images by path: of the folder itself and, where the file names some there, of those below."""
        for entry in sorted_entries(self.root):
            if self.listing.passes(entry.name):
                continue
            if is_file(entry):
                yield entry.name, entry
            elif entry.name in self._labels.folders:
                yield from ((path, below) for below, path in image_files(self.root, entry.name, self.listing))
            else:
                self.listing.passed_over["beside the images"] += 1


def _concerns_one_file(error: OSError, entry: os.DirEntry[str]) -> bool:
    """Say whether a fault is this file's: no permission, or a link that leads nowhere; else it is the machine's."""
    return error.errno == errno.EACCES or (error.errno in (errno.ENOENT, errno.ELOOP) and entry.is_symlink())


def as_text(name: str) -> str:
    """Return a file name as text: its bytes as UTF-8, whatever the locale; those that are none are written \\xNN."""
    return os.fsencode(name).decode(errors="backslashreplace")


def as_name(text: str) -> str:
    """Return the name under which this process opens a file that `as_text` named."""
    return os.fsdecode(text.encode())
