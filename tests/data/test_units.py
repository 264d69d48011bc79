"""A unit keeps every row, in order, through blobs, rejects and the shard."""

from dataclasses import replace

import numpy as np
import pytest

from clarep_ray.config import DataConfig
from clarep_ray.data.class_list import ClassList
from clarep_ray.data.manifest import freeze
from clarep_ray.data.selection import select
from clarep_ray.data.sources import open_source
from clarep_ray.data.units import UnitBlob, decode_unit, merge_results
from clarep_ray.errors import InputChanged
from tests.data import trees


def test_blob_round_trip_keeps_arrays_of_any_memory_order() -> None:
    arrays = {
        "turned": np.arange(24, dtype=np.uint8).reshape(2, 3, 4).transpose(0, 2, 1),
        "strided": np.arange(20, dtype=np.float32)[::2],
        "flags": np.array([True, False]),
        "empty": np.zeros((0, 4, 4, 3), np.uint8),
    }
    blob = UnitBlob.from_bytes(UnitBlob(arrays, [{"key": "\u00e4"}]).to_bytes())
    assert blob.records == [{"key": "\u00e4"}]
    for name, array in arrays.items():
        np.testing.assert_array_equal(blob.arrays[name], array)


@pytest.fixture
def folder_rows(tmp_path):
    root = trees.image_folder(tmp_path / "in", ("0", "1", "zebra"), per_class=2)
    (root / "0" / "img_1.png").write_text("no picture")
    config = DataConfig(source="image_folder", path=str(root))
    source = open_source(config, ClassList(("0", "1")))
    return source, freeze(source, select(source.rows(), config)), config, root


def test_rejected_rows_keep_their_place(folder_rows) -> None:
    source, rows, config, _ = folder_rows
    decoded = decode_unit(source, rows, 8, config)
    assert [record["reason"] for record in decoded.records] == [
        None, "not_an_image", None, None, "unknown_class", "unknown_class",
    ]  # fmt: skip
    assert decoded.arrays["images"].shape == (3, 8, 8, 3)
    results = [{"status": "ok", "reason": None}, {"status": "rejected", "reason": "rank_deficient"}, {"status": "ok"}]
    merged = merge_results(decoded, {"samples": np.zeros((3, 8, 8, 3), np.uint8)}, results)
    assert [record.get("slot") for record in merged.records] == [0, None, 1, 2, None, None]
    assert [record["status"] for record in merged.records] == ["ok", "rejected", "rejected", "ok"] + ["rejected"] * 2


def test_a_changed_input_is_not_a_reject_but_an_error(folder_rows) -> None:
    source, rows, config, root = folder_rows
    (root / "1" / "img_0.png").write_bytes(trees.picture_bytes(77))
    with pytest.raises(InputChanged, match=r"1/img_0\.png"):
        decode_unit(source, rows, 8, config)


def test_a_file_beyond_the_limit_is_not_read(folder_rows, monkeypatch: pytest.MonkeyPatch) -> None:
    source, rows, config, _ = folder_rows
    monkeypatch.setattr(source, "read", lambda *_: pytest.fail("read"))
    large = replace(rows[0], size=33 * 2**20)
    (record,) = decode_unit(source, [large], 8, config).records
    assert record["reason"] == "too_many_bytes"
