"""Parquet files with encoded images, as Hugging Face data sets have them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from clarep_ray.config import DataConfig
from clarep_ray.data.class_list import ClassList
from clarep_ray.data.parquet_files import check_footers, leaves, open_parquet, read_group
from clarep_ray.data.records import shown
from clarep_ray.data.sources.listed import Labels, Listed, Source, files_below, root_folder


class Parquet(Source):
    """Parquet files below the root with encoded images and integer labels (Hugging Face layout or plain binary)."""

    def __init__(self, config: DataConfig, known: ClassList | None, reader: str) -> None:
        self.root = root_folder(config)
        self._known = known
        self.image_column, self.label_column = config.image_column, config.label_column
        self._lock = threading.Lock()  # images are hashed by several threads
        self._last_file: tuple[Path, pq.ParquetFile] | None = None
        self._last_group: tuple[tuple[Path, int], pa.ChunkedArray] | None = None

    def files(self) -> list[Path]:
        return files_below(self.root, ".parquet")

    def find_labels(self) -> Labels:
        if self._known is not None:
            return Labels(self._known)
        files = self.files()
        check_footers(files)
        return Labels(
            ClassList.of_count(1 + max((label or 0 for path in files for label in self._labels(path)), default=-1))
        )

    def rows(self) -> Iterator[Listed]:
        files = self.files()
        check_footers(files)
        for path in files:
            source = path.relative_to(self.root).as_posix()
            for number, label in enumerate(self._labels(path)):
                if label is None:
                    raise ValueError(f"{str(path)!r}: row {number} has no {self.label_column}")
                label, class_name = self.labels(label)
                identity = f"{source}/{number:08d}"
                yield Listed(id=identity, source=source, offset=number, size=0, label=label, class_name=class_name)

    def read(self, source: str, offset: int, size: int) -> bytes:
        """Return the image of a row, empty where it has none (a null, or a path to a file elsewhere)."""
        file = self._open_last(self.root / source)
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if offset < rows:
                value = self._column_of(self.root / source, group)[offset].as_py()
                return (value["bytes"] if isinstance(value, dict) else value) or b""
            offset -= rows
        raise ValueError(f"{source!r} has no row {offset}")

    def _labels(self, path: Path) -> Iterator[int | None]:
        file = self._open(path)
        for group in range(file.num_row_groups):
            yield from read_group(path, file, group, [self.label_column]).column(0).to_pylist()

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
                file = self._open(path)
                wanted = [name for name in self._images if name in leaves(file.schema)]  # nothing else of a struct
                self._last_group = ((path, group), read_group(path, file, group, wanted).column(0))
            return self._last_group[1]

    @property
    def _images(self) -> tuple[str, str]:
        """The paths under which the encoded images may lie."""
        return self.image_column, f"{self.image_column}.bytes"

    def _open(self, path: Path) -> pq.ParquetFile:
        """Open a file after checking the two columns' types; no other column is ever converted."""
        file = open_parquet(path, dictionaries=self._images)
        schema = file.schema_arrow
        for name, fits, valid in (
            (self.image_column, _holds_image, "binary, or a struct with `bytes`"),
            (self.label_column, pa.types.is_integer, "integer"),
        ):
            if schema.names.count(name) != 1:
                many = "several columns" if name in schema.names else "no column"
                raise ValueError(f"{str(path)!r}: {many} {name!r}; valid: {shown(', '.join(schema.names))}")
            kind = _decoded(schema.field(name).type)
            if not fits(kind):
                raise ValueError(f"{str(path)!r}: column {name!r} is {shown(str(kind))}; valid: {valid}")
        return file


def _decoded(kind: Any) -> Any:
    """Return the type of a column's values, which may be kept as a dictionary (`open_parquet`)."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _holds_image(kind: Any) -> bool:
    if pa.types.is_struct(kind):
        kind = _decoded(kind.field("bytes").type) if kind.get_field_index("bytes") >= 0 else None
    return kind is not None and (pa.types.is_binary(kind) or pa.types.is_large_binary(kind))
