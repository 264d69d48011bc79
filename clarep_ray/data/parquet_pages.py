"""What the pages of a Parquet column unpack to: a footer only claims it, a reader obeys the header of each page."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

MAX_PAGES = 20_000
"""Of a column of one row group; writers make pages of a megabyte or of 20,000 rows."""
READ = (512, 2**14, 2**20)
"""Bytes in which a page's header is looked for; statistics can make it long."""


def unpacked_bytes(path: Path, chunk: Any, limit: int) -> int:
    """Return the bytes of a column chunk's pages, unpacked, by their headers; it stops counting beyond a limit.

    `chunk` is what pyarrow's metadata say of it. A header that cannot be read ends the column, as for the reader.
    Raises ValueError naming a file with more pages than anybody writes.
    """
    start = chunk.data_page_offset
    if chunk.has_dictionary_page and 0 < chunk.dictionary_page_offset < start:
        start = chunk.dictionary_page_offset
    position, end, total = start, start + chunk.total_compressed_size, 0
    with path.open("rb", buffering=0) as file:
        for _ in range(MAX_PAGES):
            if not 0 <= position < end or total > limit:
                return total
            found = _page(file.fileno(), position)
            if found is None:
                return total
            length, unpacked, packed = found
            total += unpacked
            position += length + packed
    raise ValueError(f"{str(path)!r}: column {chunk.path_in_schema!r} has more than {MAX_PAGES} pages in a row group")


def _page(file: int, position: int) -> tuple[int, int, int] | None:
    """Return a page header's length and the page's sizes, unpacked and as stored; None where there is none."""
    for size in READ:
        header = _Compact(os.pread(file, size, position))
        try:
            sizes = header.integers()
        except (IndexError, ValueError, RecursionError):
            continue
        unpacked, packed = sizes.get(2, -1), sizes.get(3, -1)
        return (header.position, unpacked, packed) if unpacked >= 0 and packed >= 0 else None
    return None


class _Compact:
    """As much of Thrift's compact protocol as a page header needs."""

    def __init__(self, data: bytes) -> None:
        self.data, self.position = data, 0

    def integers(self) -> dict[int, int]:
        """Return the whole numbers of a struct by field; everything else is passed over."""
        found: dict[int, int] = {}
        field = 0
        while head := self._byte():
            field = field + (head >> 4) if head >> 4 else self._zigzag()
            kind = head & 15
            if kind in (4, 5, 6):
                found[field] = self._zigzag()
            else:
                self._skip(kind)
        return found

    def _byte(self) -> int:
        self.position += 1
        return self.data[self.position - 1]

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
            if shift > 63:
                raise ValueError("a number is too long")

    def _zigzag(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)

    def _skip(self, kind: int) -> None:
        if kind in (1, 2):  # a boolean is its type
            return
        if kind == 3:
            self.position += 1
        elif kind in (4, 5, 6):
            self._varint()
        elif kind == 7:
            self.position += 8
        elif kind == 8:
            length = self._varint()  # which moves the position itself
            self.position += length
        elif kind == 12:
            self.integers()
        elif kind in (9, 10):
            head = self._byte()
            for _ in range(head >> 4 if head >> 4 < 15 else self._varint()):
                self._skip(3 if head & 15 in (1, 2) else head & 15)
        else:
            raise ValueError("a header has no such type")
