"""The one place where Parquet files are opened: what they hold is checked before anything is converted.

A process that has imported Ray Data makes objects of columns of some extension types by unpickling them. Here no
column is read whose type was not asked for, and none before its size is known.

One wrong bit in a footer is enough to end the process that reads it, from inside C++. So a file of ours is opened only
where its bytes are those that were written, and a footer of somebody else's is read in another process first.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clarep_ray.data.inside import with_path
from clarep_ray.data.parquet_pages import unpacked_bytes
from clarep_ray.data.processes import run_within_limits
from clarep_ray.data.shards import sha256_file
from clarep_ray.data.untrusted import check_plain_file, open_plain

MAX_GROUP_BYTES = 256 * 2**20
"""Of one column of a row group, unpacked: it is read whole. A hundred of ImageNet's images take 11 MB."""

MAX_FOOTER_BYTES = 32 * 2**20
"""Of a file of somebody else's; in memory it takes some ten times as much. 10,000 row groups of 10 columns take 10."""
MAX_COLUMNS = 4096
MAX_VALUE_BYTES = 4096
"""Of a text in a table of ours, on average: one that comes a million times is stored once."""
PACKED = ("SNAPPY", "UNCOMPRESSED")
"""How our files are compressed: to a twentieth at the most."""
FOOTER_CPU_S = 20
PROBE = """
import os, sys
sys.modules["numpy"] = None  # pyarrow does without, and starts in half the time
import pyarrow.parquet as pq
for name in sys.stdin.buffer.read().split(b"\\0")[:-1]:
    try:
        about = pq.read_metadata(os.fsdecode(name))
        for group in range(about.num_row_groups):
            for column in range(about.num_columns):
                about.row_group(group).column(column)
    except Exception:
        pass  # who opens it says what is wrong
    sys.stdout.write(".")
    sys.stdout.flush()
"""
"""Writes a dot for each file that this process outlives."""


class DamagedParquet(ValueError):
    """A Parquet file of ours is not what was written."""


def check_written(path: Path, sha256: str) -> None:
    """Raise DamagedParquet, naming a file of ours, where its bytes are not those of a hash; nothing is parsed."""
    check_plain_file(path)
    found = sha256_file(path)
    if found != sha256:
        raise DamagedParquet(f"{str(path)!r} is damaged: its sha256 is {found[:12]}, written was {str(sha256)[:12]!r}")


def check_footers(paths: Sequence[Path]) -> None:
    """Raise ValueError naming the first file whose footer would end this process; they are read in another one.

    pyarrow 25 looks at a column of a footer in C++ that throws where its size statistics do not fit, and nothing
    catches that: the process aborts. One bit is enough.
    """
    plain = [path for path in paths if path.is_file()]  # a pipe would let the reader wait; who opens it says so
    for path in plain:
        _check_footer_size(path)
    names = "".join(f"{path.absolute()}\0" for path in plain)
    done = run_within_limits(PROBE, os.fsencode(names), FOOTER_CPU_S + len(plain))
    if done.returncode < 0:
        number = len(done.stdout)
        raise ValueError(
            f"{str(plain[number])!r} cannot be read as Parquet: its footer ends the reader with signal "
            f"{-done.returncode}"
        )
    if done.returncode:
        raise RuntimeError(f"the check of Parquet footers failed: {done.stderr.decode(errors='replace')[-300:]}")


def _check_footer_size(path: Path) -> None:
    try:
        with open_plain(path) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 8))
            footer = int.from_bytes(file.read(4), "little")
    except OSError as error:  # files of /proc have no end to seek
        raise with_path(error, path) from None
    if MAX_FOOTER_BYTES < footer < size:
        raise ValueError(
            f"{str(path)!r}: its footer has {footer} bytes; valid: at most {MAX_FOOTER_BYTES}, with larger row groups"
        )


def open_parquet(
    path: Path, schema: pa.Schema | None = None, dictionaries: Sequence[str] = (), added: Sequence[str] = ()
) -> pq.ParquetFile:
    """Return a Parquet file of which only the footer was read.

    With a `schema`, of just these columns and types; of those, columns that were `added` later may be missing.
    `dictionaries` are columns, by path of fields, that stay encoded as dictionaries, so that one value that comes a
    million times is in memory once. Raises ValueError, naming the file, for anything else, and for one with more rows
    than bytes: such rows are all the same.
    """
    check_plain_file(path)
    try:
        metadata = pq.read_metadata(path)
        there = [name for name in dictionaries if name in leaves(metadata.schema)]
        file = pq.ParquetFile(path, metadata=metadata, read_dictionary=there)
        found = file.schema_arrow
        if file.metadata.num_columns > MAX_COLUMNS:
            raise ValueError(f"{str(path)!r} has {file.metadata.num_columns} columns; valid: at most {MAX_COLUMNS}")
        counts = [file.metadata.num_rows, *(_num_values(file, group) for group in range(file.num_row_groups))]
    except (pa.ArrowException, OSError, MemoryError) as error:
        raise damaged(path, error) from None
    if max(counts) > path.stat().st_size:
        raise ValueError(f"{str(path)!r} claims {max(counts)} rows in {path.stat().st_size} bytes")
    if schema is not None:
        _check_packed(path, file)
        _check_schema(
            path, found, pa.schema([item for item in schema if item.name in found.names or item.name not in added])
        )
    return file


def read_group(path: Path, file: pq.ParquetFile, group: int, columns: Sequence[str]) -> pa.Table:
    """Return columns, by path of fields, of one row group; ValueError naming a file that is damaged or too large."""
    about = file.metadata.row_group(group)
    for number in range(about.num_columns):
        chunk = about.column(number)
        if chunk.path_in_schema not in columns:
            continue
        size = max(chunk.total_uncompressed_size, unpacked_bytes(path, chunk, MAX_GROUP_BYTES))
        if size > MAX_GROUP_BYTES:
            raise ValueError(
                f"{str(path)!r}: column {chunk.path_in_schema!r} of row group {group} has {size} bytes or more; "
                f"valid: at most {MAX_GROUP_BYTES}, in smaller row groups"
            )
    try:
        return file.read_row_group(group, list(columns))
    except (pa.ArrowException, OSError) as error:
        raise damaged(path, error) from None


def read_table(
    path: Path,
    sha256: str,
    schema: pa.Schema,
    columns: Sequence[str] | None = None,
    added: Sequence[str] = (),
) -> pa.Table:
    """Return a file of ours, or some of its columns; raises as `check_written` and `open_parquet` do.

    Columns that were `added` to the schema since the file was written are empty.
    """
    check_written(path, sha256)
    wanted = schema.names if columns is None else list(columns)
    file = open_parquet(path, schema, added=added)
    table = read_columns(path, [name for name in wanted if name in file.schema_arrow.names])
    for name in wanted:
        if name not in table.column_names:
            table = table.append_column(schema.field(name), pa.nulls(table.num_rows, schema.field(name).type))
    return table.select(wanted)


def read_columns(path: Path, columns: Sequence[str]) -> pa.Table:
    """Return columns of a file of ours whose types were checked; ValueError naming one that is damaged.

    Texts are read as dictionaries, as which they are stored: whole, a megabyte that comes in every row is a terabyte.
    """
    try:
        texts = [item.name for item in pq.read_schema(path) if pa.types.is_string(item.type)]
        table = pq.ParquetFile(path, read_dictionary=texts).read(columns=list(columns))
        for number, item in enumerate(table.schema):
            if pa.types.is_dictionary(item.type) and item.name in texts:
                table = table.set_column(number, item.name, _plain_text(path, item.name, table.column(number)))
    except (pa.ArrowException, OSError) as error:
        raise damaged(path, error) from None
    return table


def _plain_text(path: Path, name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    lengths = (_total(chunk) for chunk in column.chunks)
    if sum(lengths) > max(2**20, MAX_VALUE_BYTES * len(column)):
        raise ValueError(
            f"{str(path)!r}: the texts of its column {name!r} are longer than {MAX_VALUE_BYTES} bytes on average"
        )
    return column.cast(pa.string())


def _total(chunk: pa.DictionaryArray) -> int:
    """Return the bytes of all texts of a column that is stored as a dictionary."""
    lengths = pc.call_function("binary_length", [chunk.dictionary])
    return pc.call_function("sum", [lengths.take(chunk.indices)]).as_py() or 0


def _check_packed(path: Path, file: pq.ParquetFile) -> None:
    """Raise ValueError where a file of ours is compressed as we compress none: it could become any size."""
    for group in range(file.num_row_groups):
        about = file.metadata.row_group(group)
        for number in range(about.num_columns):
            if (found := about.column(number).compression) not in PACKED:
                raise ValueError(f"{str(path)!r} is compressed by {found}; valid: {', '.join(PACKED)}")


def leaves(schema: pq.ParquetSchema) -> list[str]:
    """Return the paths of the columns that hold values: `image.bytes` of a struct."""
    return [schema.column(number).path for number in range(len(schema.names))]


def damaged(path: Path, error: BaseException) -> ValueError:
    """Return the error of a file that Arrow cannot read."""
    return ValueError(f"{str(path)!r} cannot be read as Parquet: {str(error)[:200]!r}")


def _num_values(file: pq.ParquetFile, group: int) -> int:
    """Return the largest number of rows or values that a row group claims."""
    about = file.metadata.row_group(group)
    return max([about.num_rows, *(about.column(number).num_values for number in range(about.num_columns))])


def _check_schema(path: Path, found: pa.Schema, schema: pa.Schema) -> None:
    for name in sorted({*found.names, *schema.names}):
        here, there = _types(found, name), _types(schema, name)
        if here != there:
            raise ValueError(f"{str(path)!r}: column {name[:100]!r} is {here or 'missing'}; valid: {there or 'none'}")


def _types(schema: pa.Schema, name: str) -> str:
    return ", ".join(str(item.type) for item in schema if item.name == name)
