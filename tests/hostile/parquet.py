"""Hostile Parquet files, made here: {name: function that writes one}. All are refused, or their rows are rejects."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.data.trees import picture_bytes


def written(table: pa.Table, **options: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, **options)
    return buffer.getvalue()


def named(feature: dict[str, Any], behind: bytes = b"") -> pa.Table:
    """Return a table with what Hugging Face's libraries say of its label."""
    about = json.dumps({"info": {"features": {"label": feature}}}).encode()
    return pa.table({"image": [picture_bytes(0)], "label": [0]}).replace_schema_metadata(
        {"huggingface": behind + about}
    )


def good() -> bytes:
    return written(pa.table({"image": [picture_bytes(i) for i in range(4)], "label": [0, 1, 2, 1]}))


def pickled(content: bytes, inside: bool) -> bytes:
    """Return a file with a column that Ray Data unpickles: beside the images, or in their struct."""
    kind = pa.binary()
    evil = pa.array([content, content], kind)
    images = pa.array([picture_bytes(0), picture_bytes(1)], kind)
    extension = {b"ARROW:extension:name": b"ray.data.arrow_pickled_object", b"ARROW:extension:metadata": b""}
    if not inside:
        fields = [pa.field("image", kind), pa.field("label", pa.int64()), pa.field("more", kind, metadata=extension)]
        return written(pa.Table.from_arrays([images, pa.array([0, 1]), evil], schema=pa.schema(fields)))
    parts = [pa.field("bytes", kind), pa.field("path", kind, metadata=extension)]
    column = pa.StructArray.from_arrays([images, evil], fields=parts)
    fields = [pa.field("image", column.type), pa.field("label", pa.int64())]
    return written(pa.Table.from_arrays([column, pa.array([0, 1])], schema=pa.schema(fields)))


def disguised(content: bytes, name: str) -> bytes:
    """Return a file whose image or label column itself is of the type that Ray Data unpickles."""
    extension = {b"ARROW:extension:name": b"ray.data.arrow_pickled_object", b"ARROW:extension:metadata": b""}
    columns = {"image": pa.array([picture_bytes(0)], pa.binary()), "label": pa.array([0])}
    columns[name] = pa.array([content], pa.binary())
    fields = [
        pa.field(key, column.type, metadata=extension if key == name else None) for key, column in columns.items()
    ]
    return written(pa.Table.from_arrays(list(columns.values()), schema=pa.schema(fields)))


def corpus() -> dict[str, Callable[[], bytes]]:
    """Return at least twelve files that cannot be read."""
    image, whole = [picture_bytes(0)], good()
    body = bytearray(
        written(pa.table({"image": [picture_bytes(i) for i in range(40)], "label": range(40)}), compression="zstd")
    )
    body[4:40] = b"\xa5" * 36
    return {
        "empty": lambda: b"",
        "magic": lambda: b"PAR1",
        "magic twice": lambda: b"PAR1PAR1",
        "text": lambda: b"no parquet\n" * 40,
        "cut": lambda: whole[: len(whole) // 2],
        "footer of 4 GiB": lambda: whole[:-8] + b"\xff\xff\xff\xff" + b"PAR1",
        "footer of noise": lambda: whole[:-200] + np.random.default_rng(0).bytes(192) + whole[-8:],
        "encrypted": lambda: whole[:-4] + b"PARE",
        "noise in the data": lambda: bytes(body),
        "no image": lambda: written(pa.table({"label": [1]})),
        "two images": lambda: written(
            pa.Table.from_arrays([pa.array(image), pa.array(image), pa.array([1])], ["image", "image", "label"])
        ),
        "image is text": lambda: written(pa.table({"image": ["x"], "label": [1]})),
        "image is a list": lambda: written(pa.table({"image": [[b"x"]], "label": [1]})),
        "image without bytes": lambda: written(pa.table({"image": [{"path": "/etc/passwd"}], "label": [1]})),
        "image within images": lambda: written(pa.table({"image": [{"bytes": {"bytes": b"x"}}], "label": [1]})),
        "label is an empty text": lambda: written(pa.table({"image": image, "label": [""]})),
        "class names are no list": lambda: written(named({"names": "cat", "_type": "ClassLabel"})),
        "class names are deep": lambda: written(named({"names": ["cat"]}, b"[" * 100_000)),
        "label is a fraction": lambda: written(pa.table({"image": image, "label": [1.5]})),
        "label is missing": lambda: written(pa.table({"image": image, "label": pa.array([None], pa.int64())})),
        "label is a decimal": lambda: written(pa.table({"image": image, "label": pa.array([1], pa.decimal128(20, 0))})),
        "a name of control characters": lambda: written(pa.table({"\x1b[2J\r\n": image, "label": [1]})),
        "3,000 columns": lambda: written(pa.table({f"c{i}": pa.array([1], pa.int8()) for i in range(3_000)})),
        "many equal labels": lambda: written(
            pa.table({"image": pa.array([b""] * 300_000), "label": np.zeros(300_000, np.int64)})
        ),
        "a page of 260 MiB": lambda: written(
            pa.table({"image": pa.array([bytes(260 * 2**20)], pa.large_binary()), "label": [0]}),
            compression="zstd",
            use_dictionary=False,  # nor statistics: to make them takes five seconds
            write_statistics=False,
        ),
    }


def dictionary_bomb() -> bytes:
    """Return 300 rows of one megabyte each in 50 KB: read, and in memory once."""
    column = pa.array([bytes(1_000_000)] * 300)
    nested = pa.StructArray.from_arrays([column, pa.array(["x"] * 300)], ["bytes", "path"])
    rows = np.random.default_rng(0).integers(0, 9, 300)
    return written(pa.table({"image": nested, "label": rows}))
