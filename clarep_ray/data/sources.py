"""List the inputs of a run: a folder per class, WebDataset tars, Parquet files, or the embedded set.

A source lists `Listed` rows without reading images, and reads the bytes of one row. Rows come in a fixed order.
"""

from __future__ import annotations

import csv
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clarep_ray.config import DataConfig
from clarep_ray.data.cifar10 import CIFAR10_NAMES, Cifar10Files
from clarep_ray.data.pixels import encode_png
from clarep_ray.data.spurious_digits import CLASS_NAMES, SpuriousDigits
from clarep_ray.data.tar_index import Member, tar_index

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
UNKNOWN = -1


@dataclass(frozen=True, kw_only=True)
class Listed:
    """One input before selection: as InputRow, without hash and ordinal."""

    id: str
    source: str
    offset: int
    size: int
    label: int
    class_name: str


class Source(Protocol):
    """Where inputs come from. `class_names` is what label numbers stand for; empty where nothing says so."""

    class_names: tuple[str, ...]

    def rows(self) -> Iterator[Listed]:
        """List every input in a fixed order; ValueError where the input cannot be used at all."""
        ...

    def read(self, source: str, offset: int, size: int) -> bytes:
        """Return the encoded image of one row."""
        ...

    def files(self) -> list[Path]:
        """Return the files the input consists of, in a fixed order."""
        ...


class ImageFolder:
    """One folder per class below the root, as torchvision's ImageFolder.

    Every file below a class folder is an input, whatever it is called, so that nothing is passed over in silence;
    only hidden ones (a name that starts with a dot) and files beside the class folders are not.
    """

    def __init__(self, config: DataConfig, known_classes: Sequence[str]) -> None:
        self.root = _root(config)
        folders = sorted(entry.name for entry in self.root.iterdir() if entry.is_dir() and entry.name[0] != ".")
        if not folders:
            raise ValueError(f"data.path: {config.path!r} has no class folders; valid: root/<class>/<image>")
        self.class_names = tuple(known_classes) or tuple(folders)
        self._folders = folders

    def files(self) -> list[Path]:
        return [
            path
            for folder in self._folders
            for path in sorted((self.root / folder).rglob("*"))
            if path.name[0] != "." and (path.is_file() or path.is_symlink())  # a dangling link is an error, below
        ]

    def rows(self) -> Iterator[Listed]:
        numbers = {name: number for number, name in enumerate(self.class_names)}
        for path in self.files():
            relative = path.relative_to(self.root)
            if not _is_text(str(relative)):
                raise ValueError(f"data.path: the file name {os.fsencode(relative)!r} is not UTF-8; rename the file")
            try:
                size = path.stat().st_size
            except OSError as error:
                raise ValueError(f"data.path: {str(path)!r} cannot be read: {error.strerror}") from None
            name = relative.parts[0]
            yield Listed(
                id=relative.as_posix(),
                source=relative.as_posix(),
                offset=0,
                size=size,
                label=numbers.get(name, UNKNOWN),
                class_name=name,
            )

    def read(self, source: str, offset: int, size: int) -> bytes:
        return (self.root / source).read_bytes()


class FlatFolder:
    """Images beside each other, their classes in a CSV: ImageNet's validation with Kaggle's `LOC_val_solution.csv`.

    Of the second column the first word counts (there, boxes follow it). An image that the CSV does not name has an
    unknown class.
    """

    def __init__(self, config: DataConfig, known_classes: Sequence[str]) -> None:
        self.root = _root(config)
        self._classes = _read_classes(config.labels_file)
        self.class_names = tuple(known_classes) or tuple(sorted(set(self._classes.values())))
        missing = self._classes.keys() - {path.stem for path in self.files()}
        if missing:
            raise ValueError(f"data.path: {config.path!r} lacks {len(missing)} named images, first: {min(missing)!r}")

    def files(self) -> list[Path]:
        return sorted(path for path in self.root.iterdir() if path.name[0] != "." and path.is_file())

    def rows(self) -> Iterator[Listed]:
        numbers = {name: number for number, name in enumerate(self.class_names)}
        for path in self.files():
            name = self._classes.get(path.stem, "")
            yield Listed(
                id=path.name,
                source=path.name,
                offset=0,
                size=path.stat().st_size,
                label=numbers.get(name, UNKNOWN),
                class_name=name,
            )

    def read(self, source: str, offset: int, size: int) -> bytes:
        return (self.root / source).read_bytes()


def _read_classes(path: str | None) -> dict[str, str]:
    """Return {image name without suffix: class}; ValueError naming the file and the line that is wrong."""
    try:
        lines = Path(path or "").read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"data.labels_file: {path!r} cannot be read: {error}") from None
    classes: dict[str, str] = {}
    for number, row in enumerate(csv.reader(lines), 1):
        if number == 1 and row[:1] == ["ImageId"]:
            continue
        if len(row) < 2 or not row[1].split():
            raise ValueError(f"data.labels_file: {path!r}, line {number}: {row}; valid: NAME,CLASS")
        classes[Path(row[0]).stem] = row[1].split()[0]
    return classes


class WebDataset:
    """Plain .tar files below the root; a sample is a run of members that share a key: KEY.jpg|png|webp, KEY.cls."""

    def __init__(self, config: DataConfig, known_classes: Sequence[str]) -> None:
        self.root = _root(config)
        self.class_names = tuple(known_classes)

    def files(self) -> list[Path]:
        tars = sorted(self.root.rglob("*.tar"))
        if not tars:
            raise ValueError(f"data.path: {str(self.root)!r} has no .tar files")
        return tars

    def rows(self) -> Iterator[Listed]:
        for path in self.files():
            source = path.relative_to(self.root).as_posix()
            for key, members in _samples(path):
                image = next((members[s] for s in IMAGE_SUFFIXES if s in members), None)
                if image is None or ".cls" not in members:
                    raise ValueError(f"{path}: sample {key!r} lacks an image (.jpg .png .webp) or .cls")
                label = _class_number(self._slice(path, members[".cls"]), f"{path}: sample {key!r}")
                yield Listed(
                    id=f"{source}/{key}",
                    source=source,
                    offset=image.offset,
                    size=image.size,
                    label=_known(label, self.class_names),
                    class_name=_class_name(label, self.class_names),
                )

    def read(self, source: str, offset: int, size: int) -> bytes:
        return self._slice(self.root / source, Member("", offset, size))

    @staticmethod
    def _slice(path: Path, member: Member) -> bytes:
        with path.open("rb") as file:
            file.seek(member.offset)
            return file.read(member.size)


class Parquet:
    """Parquet files below the root with encoded images and integer labels (Hugging Face layout or plain binary)."""

    def __init__(self, config: DataConfig, known_classes: Sequence[str]) -> None:
        self.root = _root(config)
        self.class_names = tuple(known_classes)
        self.image_column, self.label_column = config.image_column, config.label_column
        self._lock = threading.Lock()  # images are hashed by several threads
        self._last_file: tuple[Path, pq.ParquetFile] | None = None
        self._last_group: tuple[tuple[Path, int], pa.ChunkedArray] | None = None

    def files(self) -> list[Path]:
        files = sorted(self.root.rglob("*.parquet"))
        if not files:
            raise ValueError(f"data.path: {str(self.root)!r} has no .parquet files")
        return files

    def rows(self) -> Iterator[Listed]:
        for path in self.files():
            source = path.relative_to(self.root).as_posix()
            labels = self._open(path).read([self.label_column]).column(0).to_pylist()
            for number, label in enumerate(labels):
                if label is None:
                    raise ValueError(f"{path}: row {number} has no {self.label_column}")
                yield Listed(
                    id=f"{source}/{number:08d}",
                    source=source,
                    offset=number,
                    size=0,
                    label=_known(label, self.class_names),
                    class_name=_class_name(label, self.class_names),
                )

    def read(self, source: str, offset: int, size: int) -> bytes:
        """Return the image of a row, empty where it has none (a null, or a path to a file elsewhere)."""
        file = self._open_last(self.root / source)
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if offset < rows:
                value = self._column_of(self.root / source, group)[offset].as_py()
                return (value["bytes"] if isinstance(value, dict) else value) or b""
            offset -= rows
        raise ValueError(f"{source}: has no row {offset}")

    def _open_last(self, path: Path) -> pq.ParquetFile:
        """Open a file, or return it where it is the one opened last: neighbouring rows come one after another."""
        with self._lock:
            if self._last_file is None or self._last_file[0] != path:
                self._last_file = (path, self._open(path))
            return self._last_file[1]

    def _column_of(self, path: Path, group: int) -> pa.ChunkedArray:
        """Return the images of a row group, decoded once for all its rows."""
        with self._lock:
            if self._last_group is None or self._last_group[0] != (path, group):
                column = self._open(path).read_row_group(group, [self.image_column]).column(0)
                self._last_group = ((path, group), column)
            return self._last_group[1]

    def _open(self, path: Path) -> pq.ParquetFile:
        """Open a file after checking the two columns' types; no other column is ever converted."""
        file = pq.ParquetFile(path)
        schema = file.schema_arrow
        for name, fits, valid in (
            (self.image_column, _holds_image, "binary, or a struct with `bytes`"),
            (self.label_column, pa.types.is_integer, "integer"),
        ):
            if name not in schema.names:
                raise ValueError(f"{path}: no column {name!r}; valid: {', '.join(schema.names)}")
            if not fits(schema.field(name).type):
                raise ValueError(f"{path}: column {name!r} is {schema.field(name).type}; valid: {valid}")
        return file


class EmbeddedDigits:
    """The embedded `spurious_digits` pictures; their bytes are the raw uint8 pixels."""

    class_names = CLASS_NAMES

    def __init__(self, config: DataConfig, known_classes: Sequence[str]) -> None:
        digits = config.digits
        self.pictures = SpuriousDigits(
            split=digits.split,
            count=digits.count,
            image_size=digits.image_size,
            correlation=digits.correlation,
            seed=digits.seed,
        )

    def files(self) -> list[Path]:
        return []

    def rows(self) -> Iterator[Listed]:
        for number in range(len(self.pictures)):
            label = self.pictures[number].label
            yield Listed(
                id=f"{self.pictures.split}-{number:06d}",
                source="spurious_digits",
                offset=number,
                size=0,
                label=label,
                class_name=CLASS_NAMES[label],
            )

    def read(self, source: str, offset: int, size: int) -> bytes:
        return self.pictures[offset].image.tobytes()


class Cifar10:
    """CIFAR-10's python batches; the bytes of a row are its picture as PNG."""

    class_names = CIFAR10_NAMES

    def __init__(self, config: DataConfig, known_classes: Sequence[str]) -> None:
        self.root = _root(config)
        self._files = Cifar10Files(self.root, config.split)

    def files(self) -> list[Path]:
        return [self._files.root / name for name in self._files.names]

    def rows(self) -> Iterator[Listed]:
        for name, number, label in self._files.labels():
            yield Listed(
                id=f"{name}/{number:05d}",
                source=(self._files.root / name).relative_to(self.root).as_posix(),
                offset=number,
                size=0,
                label=_known(label, CIFAR10_NAMES),
                class_name=_class_name(label, CIFAR10_NAMES),
            )

    def read(self, source: str, offset: int, size: int) -> bytes:
        return encode_png(np.ascontiguousarray(self._files.batch(Path(source).name).images[offset]))


SOURCES: dict[str, Callable[[DataConfig, Sequence[str]], Source]] = {
    "spurious_digits": EmbeddedDigits,
    "image_folder": ImageFolder,
    "flat_folder": FlatFolder,
    "webdataset": WebDataset,
    "parquet": Parquet,
    "cifar10": Cifar10,
}


def open_source(config: DataConfig, known_classes: Sequence[str]) -> Source:
    """Return the source of a config; `known_classes` are the model's class names, empty if it has none."""
    return SOURCES[config.source](config, known_classes)


def _root(config: DataConfig) -> Path:
    root = Path(config.path or "")
    if not root.is_dir():
        raise ValueError(f"data.path: {config.path!r} is not a folder")
    return root.absolute()


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _samples(path: Path) -> Iterator[tuple[str, dict[str, Member]]]:
    """Yield each run of members with one key: (key, {".suffix": member})."""
    seen: set[str] = set()
    key, members = None, dict[str, Member]()
    for member in tar_index(path):
        folder, _, base = member.name.rpartition("/")
        stem, dot, suffix = base.partition(".")
        current = f"{folder}/{stem}" if folder else stem
        if current != key:
            if key is not None:
                yield key, members
            if current in seen:
                raise ValueError(f"{path}: sample {current!r} appears twice, not in one run")
            seen.add(current)
            key, members = current, {}
        members[(dot + suffix).lower()] = member
    if key is not None:
        yield key, members


def _class_number(data: bytes, where: str) -> int:
    try:
        return int(data.decode().strip())
    except (ValueError, UnicodeDecodeError):
        raise ValueError(f"{where}: .cls is {data[:20]!r}; valid: a whole number") from None


def _known(label: int, class_names: Sequence[str]) -> int:
    outside = label < 0 or (bool(class_names) and label >= len(class_names))
    return UNKNOWN if outside else label


def _class_name(label: int, class_names: Sequence[str]) -> str:
    return class_names[label] if 0 <= label < len(class_names) else str(label)


def _holds_image(kind: Any) -> bool:
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _holds_image(kind.field("bytes").type)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
