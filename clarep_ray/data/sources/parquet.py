"""Parquet files with encoded images, as Hugging Face data sets have them."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clarep_ray.config import DataConfig
from clarep_ray.data.class_list import UNKNOWN, ClassList
from clarep_ray.data.parquet_files import check_footers, leaves, open_parquet, read_group
from clarep_ray.data.records import RejectedImage, RejectReason, shown
from clarep_ray.data.sources.files import Listing
from clarep_ray.data.sources.listed import NO_LABEL, Labels, Listed, Source
from clarep_ray.data.sources.shard_files import shard_files, shard_root
from clarep_ray.data.untrusted import MAX_JSON_BYTES, parse_json

SUFFIX = ".parquet"
MAX_NAME_BYTES = 4096
"""Of a label that is text: one that comes in every row is stored once."""


@dataclass(frozen=True)
class Opened:
    """A file, and the row that each of its row groups starts with, and where the last one ends."""

    path: Path
    file: pq.ParquetFile
    starts: tuple[int, ...]


class Parquet(Source):
    """Parquet files with encoded images (Hugging Face layout or plain binary) and labels: numbers or class names.

    What numbers stand for is read from the ClassLabel that Hugging Face's libraries write into the schema. -1, as in
    its test splits, is no label.
    """

    def __init__(self, config: DataConfig, known: ClassList | None, reader: str) -> None:
        super().__init__()
        self.root = shard_root(config.path or "", SUFFIX)
        self.config, self._known, self._reader = config, known, reader
        self.image_column, self.label_column = config.image_column, config.label_column
        self._lock = threading.Lock()  # images are hashed by several threads
        self._last_file: Opened | None = None
        self._last_group: tuple[tuple[Path, int], pa.ChunkedArray] | None = None

    @cached_property
    def _opened(self) -> tuple[list[Path], Listing]:
        listing = Listing()
        files = shard_files(self.root, self.config, SUFFIX, listing)
        check_footers(files)
        return files, listing

    def find_labels(self) -> Labels:
        files, _ = self._opened
        names = _agreed({path: self._class_names(path) for path in files}, self.label_column)
        if names is not None:
            own = ClassList.of_names(names)
        elif text := [path for path in files if _is_text(self._open_last(path).file, self.label_column)]:
            if len(text) < len(files):
                raise ValueError(f"{str(text[0])!r}: its {self.label_column!r} is text, and that of other files is not")
            own = ClassList.of_folders({str(label) for path in files for label in self._labels(path)})
        elif self._known is not None:
            return Labels(self._known)
        else:
            return Labels(
                ClassList.of_count(1 + max((int(label) for path in files for label in self._labels(path)), default=-1))
            )
        return Labels.of(own, self._known, f"data.path: {self.config.path!r}", self._reader)

    def rows(self) -> Iterator[Listed]:
        files, opened = self._opened
        self.listing = opened.copy()
        labels = self.labels
        numbers = {name: number for number, name in enumerate((labels.own or labels.classes).names)}
        for path in files:
            source = path.relative_to(self.root).as_posix()
            for number, stored in enumerate(self._labels(path)):
                given = numbers[stored] if isinstance(stored, str) else stored
                label, class_name = labels(given) if given != NO_LABEL else (UNKNOWN, "")
                yield Listed(
                    id=f"{source}/{number:08d}",
                    source=source,
                    offset=number,
                    size=0,
                    label=label,
                    class_name=class_name,
                    reason=RejectReason.UNLABELLED.value if given == NO_LABEL else "",
                )

    def read(self, source: str, offset: int, size: int) -> bytes:
        """Return the image of a row, empty where it has none; RejectedImage where it has a path to a file elsewhere."""
        opened = self._open_last(self.root / source)
        if not 0 <= offset < opened.starts[-1]:
            raise ValueError(f"{source!r} has no row {offset}")
        group = bisect_right(opened.starts, offset) - 1
        value = self._column_of(opened, group)[offset - opened.starts[group]].as_py()
        if not isinstance(value, dict):
            return value or b""
        if not value["bytes"] and f"{self.image_column}.path" in leaves(opened.file.schema):
            raise RejectedImage(RejectReason.IMAGE_ELSEWHERE)
        return value["bytes"] or b""

    def _labels(self, path: Path) -> Iterator[int | str]:
        file, row = self._open_last(path).file, 0
        for group in range(file.num_row_groups):
            for label in _values(path, read_group(path, file, group, [self.label_column]).column(0)):
                if label is None or label == "":
                    raise ValueError(f"{str(path)!r}: row {row} has no {self.label_column}")
                yield label
                row += 1

    def _class_names(self, path: Path) -> tuple[str, ...] | None:
        """Return the names of a file's ClassLabel, None where it has none; ValueError where they are damaged."""
        file = self._open_last(path).file
        stored = (file.schema_arrow.metadata or {}).get(b"huggingface")
        if stored is None or _is_text(file, self.label_column):
            return None
        try:
            about: Any = parse_json(stored[: MAX_JSON_BYTES + 1])
            feature = about["info"]["features"].get(self.label_column) or {}
            names = feature.get("names") if feature.get("_type") == "ClassLabel" else None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{str(path)!r}: its Hugging Face features cannot be read: {shown(str(error))}") from None
        if names is None:
            return None
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise ValueError(f"{str(path)!r}: the names of its ClassLabel {self.label_column!r} are no list of texts")
        return tuple(names)

    def _open_last(self, path: Path) -> Opened:
        """Open a file, or return it where it is the one opened last: neighbouring rows come one after another."""
        with self._lock:
            if self._last_file is None or self._last_file.path != path:
                file = self._open(path)
                rows = (file.metadata.row_group(group).num_rows for group in range(file.num_row_groups))
                self._last_file = Opened(path, file, tuple(accumulate(rows, initial=0)))
            return self._last_file

    def _column_of(self, opened: Opened, group: int) -> pa.ChunkedArray:
        """Return the images of a row group, decoded once for all its rows."""
        with self._lock:
            if self._last_group is None or self._last_group[0] != (opened.path, group):
                wanted = [name for name in self._images if name in leaves(opened.file.schema)]  # of a struct no more
                column = read_group(opened.path, opened.file, group, wanted).column(0)
                self._last_group = ((opened.path, group), column)
            return self._last_group[1]

    @property
    def _images(self) -> tuple[str, str]:
        """The paths under which the encoded images may lie."""
        return self.image_column, f"{self.image_column}.bytes"

    def _open(self, path: Path) -> pq.ParquetFile:
        """Open a file after checking the two columns' types; no other column is ever converted."""
        file = open_parquet(path, dictionaries=(*self._images, self.label_column))
        schema = file.schema_arrow
        for name, fits, valid in (
            (self.image_column, _holds_image, "binary, or a struct with `bytes`"),
            (self.label_column, _holds_label, "integer or text"),
        ):
            if schema.names.count(name) != 1:
                many = "several columns" if name in schema.names else "no column"
                raise ValueError(f"{str(path)!r}: {many} {name!r}; valid: {shown(', '.join(schema.names))}")
            kind = _decoded(schema.field(name).type)
            if not fits(kind):
                raise ValueError(f"{str(path)!r}: column {name!r} is {shown(str(kind))}; valid: {valid}")
        return file


def _values(path: Path, column: pa.ChunkedArray) -> Iterator[Any]:
    """Yield the values of a column of labels, of which each text is made once; ValueError where one is too long."""
    for chunk in column.chunks:
        if not pa.types.is_dictionary(chunk.type):
            yield from chunk.to_pylist()
            continue
        lengths = pc.call_function("binary_length", [chunk.dictionary])
        if (longest := pc.call_function("max", [lengths]).as_py() or 0) > MAX_NAME_BYTES:
            raise ValueError(f"{str(path)!r}: a label has {longest} bytes; valid: at most {MAX_NAME_BYTES}")
        names = chunk.dictionary.to_pylist()
        yield from (None if number is None else names[number] for number in chunk.indices.to_pylist())


def _decoded(kind: Any) -> Any:
    """Return the type of a column's values, which may be kept as a dictionary (`open_parquet`)."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _agreed(found: Mapping[Path, tuple[str, ...] | None], column: str) -> tuple[str, ...] | None:
    """Return the class names of all files; ValueError naming two that differ."""
    one, names = next(iter(found.items()))
    for other, others in found.items():
        if names != others:
            several = " and ".join(str(ClassList(each)) if each else "none" for each in (names, others))
            raise ValueError(f"{str(one)!r} and {str(other)!r} have other class names for {column!r}: {several}")
    return names


def _is_text(file: pq.ParquetFile, column: str) -> bool:
    return not pa.types.is_integer(_decoded(file.schema_arrow.field(column).type))


def _holds_label(kind: Any) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _holds_image(kind: Any) -> bool:
    if pa.types.is_struct(kind):
        kind = _decoded(kind.field("bytes").type) if kind.get_field_index("bytes") >= 0 else None
    return kind is not None and (pa.types.is_binary(kind) or pa.types.is_large_binary(kind))
