"""Every source lists and reads its true layout; selection is stratified, seeded and stable."""

import errno
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clarep_ray.config import DataConfig, DigitsConfig
from clarep_ray.data.class_list import ClassList
from clarep_ray.data.manifest import digest_of, freeze, unchanged_hashes, write_manifest, write_stamps
from clarep_ray.data.pictures import read_pictures
from clarep_ray.data.selection import select
from clarep_ray.data.sources import open_source
from clarep_ray.data.units import decode_unit
from tests.data import trees


def rows_of(config: DataConfig, known: tuple[str, ...] = ()):
    source = open_source(config, ClassList(known) if known else None)
    return freeze(source, select(source.rows(), config))


def test_image_folder(tmp_path: Path) -> None:
    trees.image_folder(tmp_path / "in", ("cat", "dog"))
    (tmp_path / "in" / "cat" / "notes").write_text("listed: it will be a reject, not passed over")
    (tmp_path / "in" / "cat" / ".DS_Store").write_text("hidden")
    (tmp_path / "in" / "LICENSE").write_text("not in a class")
    rows = rows_of(DataConfig(source="image_folder", path=str(tmp_path / "in")))
    assert [(row.id, row.label, row.class_name) for row in rows][:5] == [
        ("cat/img_0.png", 0, "cat"),
        ("cat/img_1.png", 0, "cat"),
        ("cat/img_2.png", 0, "cat"),
        ("cat/notes", 0, "cat"),
        ("dog/img_0.png", 1, "dog"),
    ]
    assert [row.ordinal for row in rows] == list(range(7))


def test_files_are_listed_in_the_order_of_path_components(tmp_path: Path) -> None:
    for name in ("b/x.png", "b/.hidden", "b/sub/y.png", "b/sub-a.png", "b/sub/.dir/z.png", "a/1.png", "a-1/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "b" / "link.png").symlink_to("x.png")
    os.mkfifo(tmp_path / "b" / "pipe.png")
    source = open_source(DataConfig(source="image_folder", path=str(tmp_path)), None)
    expected = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert [row.id for row in source.rows()] == [str(path) for path in expected if "/." not in str(path)]
    assert source.listing.passed_over == {"hidden": 2, "neither file nor folder": 1}


def test_a_name_that_is_no_text_and_a_file_nobody_may_open_are_rejects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = trees.image_folder(tmp_path / "in", ("0",), per_class=2)
    (root / "0" / "link.png").symlink_to(tmp_path / "gone.png")
    (root / "0" / "loop.png").symlink_to("loop.png")
    odd = Path(os.fsdecode(os.fsencode(root / "0") + b"/\xff.png"))
    odd.write_bytes(trees.picture_bytes(3))
    config = DataConfig(source="image_folder", path=str(root))
    forbid(monkeypatch, "0/img_1.png", PermissionError(errno.EACCES, "Permission denied"))
    rows = rows_of(config)
    assert [(row.id, row.reason, bool(row.sha256)) for row in rows] == [
        ("0/img_0.png", "", True),
        ("0/img_1.png", "unreadable_file", False),
        ("0/link.png", "unreadable_file", False),
        ("0/loop.png", "unreadable_file", False),
        ("0/\\xff.png", "name_not_utf8", False),
    ]
    frozen = write_manifest(rows, tmp_path / "input.parquet", 2)
    write_stamps(tmp_path, str(root), (row.source for row in rows), frozen.sha256)
    assert frozen.digest() == digest_of(rows) == digest_of(rows_of(config)), "the same on every listing"
    assert list(frozen.rows()) == rows
    monkeypatch.undo()
    decoded = decode_unit(open_source(config, None), rows, 8, config)
    reasons = [record["reason"] for record in decoded.records]
    assert reasons == [None, *(row.reason for row in rows[1:])], "decided when the input was frozen"
    source = open_source(config, None)
    again = freeze(source, select(source.rows(), config), unchanged_hashes(tmp_path, str(root)))
    assert again[1].sha256, "what was unreadable is tried again on resume"
    assert digest_of(again) != digest_of(rows)


def test_a_link_to_a_folder_below_a_class_folder_is_one_reject(tmp_path: Path) -> None:
    root, store = tmp_path / "in", trees.image_folder(tmp_path / "store", ("cat", "more"), per_class=1)
    (root / "dog").mkdir(parents=True)
    (root / "cat").symlink_to(store / "cat")
    (root / "dog" / "img_0.png").symlink_to(store / "more" / "img_0.png")
    (root / "dog" / "more").symlink_to(store / "more")
    (root / "dog" / "self").symlink_to(root)
    (root / "dog" / "pipe").symlink_to(tmp_path / "pipe")
    os.mkfifo(tmp_path / "pipe")
    config = DataConfig(source="image_folder", path=str(root))
    rows = rows_of(config)
    assert [(row.id, row.reason, bool(row.sha256)) for row in rows] == [
        ("cat/img_0.png", "", True),
        ("dog/img_0.png", "", True),
        ("dog/more", "unreadable_file", False),
        ("dog/pipe", "unreadable_file", False),
        ("dog/self", "unreadable_file", False),
    ]
    records = decode_unit(open_source(config, None), rows, 8, config).records
    assert [record["reason"] for record in records] == [None, None, *["unreadable_file"] * 3]
    with pytest.raises(ValueError, match="data: 'dog/more' is no usable picture: unreadable_file"):
        read_pictures(config, 8)


def test_a_machine_that_fails_to_read_is_an_error_naming_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = DataConfig(source="image_folder", path=str(trees.image_folder(tmp_path, ("cat",))))
    for fault in (OSError(errno.EIO, "Input/output error"), FileNotFoundError(errno.ENOENT, "No such file")):
        with monkeypatch.context() as patch:
            forbid(patch, "cat/img_1.png", fault)
            with pytest.raises(ValueError, match=rf"cat/img_1\.png' cannot be read: {fault.strerror}"):
                rows_of(config)


def forbid(monkeypatch: pytest.MonkeyPatch, name: str, fault: OSError) -> None:
    """Let the one file fail to be hashed (a test run by root may open everything)."""
    from clarep_ray.data.sources import folders

    plain = folders.sha256_file

    def sha256_file(path: Path) -> str:
        if path.as_posix().endswith(name):
            raise fault
        return plain(path)

    monkeypatch.setattr(folders, "sha256_file", sha256_file)


def test_a_class_folder_whose_name_is_no_text_is_listed_escaped(tmp_path: Path) -> None:
    trees.image_folder(tmp_path, ("cat", os.fsdecode(b"\xff")), per_class=1)
    source = open_source(DataConfig(source="image_folder", path=str(tmp_path)), None)
    assert source.classes.names == ("\\xff", "cat")
    assert [(row.id, row.reason) for row in source.rows()][1] == ("\\xff/img_0.png", "name_not_utf8")


def test_a_parquet_row_without_an_image_says_why(tmp_path: Path) -> None:
    column = [{"bytes": trees.picture_bytes(0), "path": None}, {"bytes": None, "path": "elsewhere.png"}, None]
    pq.write_table(pa.table({"image": column, "label": [0, 1, 1]}), tmp_path / "a.parquet")
    config = DataConfig(source="parquet", path=str(tmp_path))
    assert [row.reason for row in rows_of(config)] == ["", "image_elsewhere", ""]
    records = decode_unit(open_source(config, None), rows_of(config), 8, config).records
    assert [record["reason"] for record in records] == [None, "image_elsewhere", "empty_file"]


def test_image_folder_marks_classes_the_model_does_not_know(tmp_path: Path) -> None:
    trees.image_folder(tmp_path, ("1", "zebra"))
    rows = rows_of(DataConfig(source="image_folder", path=str(tmp_path)), known=("0", "1", "2"))
    assert {(row.class_name, row.label) for row in rows} == {("1", 1), ("zebra", -1)}


@pytest.mark.parametrize("kind", ["webdataset", "parquet"])
def test_containers_give_each_image_and_label(tmp_path: Path, kind: str) -> None:
    getattr(trees, kind)(tmp_path, labels=(2, 0, 1, 7, 1))
    config = DataConfig(source=kind, path=str(tmp_path))  # type: ignore[arg-type]
    rows = rows_of(config, known=("0", "1", "2"))
    assert [row.label for row in rows] == [2, 0, 1, -1, 1]
    source = open_source(config, None)
    suffix = "JPEG" if kind == "webdataset" else "PNG"
    for i, row in enumerate(rows):
        assert source.read(row.source, row.offset, row.size) == trees.picture_bytes(i, suffix)


def test_parquet_with_plain_binary(tmp_path: Path) -> None:
    trees.parquet(tmp_path, nested=False)
    config = DataConfig(source="parquet", path=str(tmp_path))
    assert open_source(config, None).read("train-00000-of-00001.parquet", 3, 0) == trees.picture_bytes(3)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pa.table({"image": [b"x"]}), "no column 'label'; valid: image"),
        (pa.table({"image": ["x"], "label": [1]}), "column 'image' is string; valid: binary"),
        (pa.table({"image": [b"x"], "label": [1.5]}), "column 'label' is double; valid: integer"),
        (pa.table({"image": [b"x"], "label": pa.array([None], pa.int64())}), "row 0 has no label"),
    ],
)
def test_parquet_of_another_shape_is_refused(tmp_path: Path, table: pa.Table, message: str) -> None:
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=message):
        rows_of(DataConfig(source="parquet", path=str(tmp_path)))


def test_webdataset_faults_name_the_sample(tmp_path: Path) -> None:
    trees.webdataset(tmp_path, labels=(0, 1))
    path = tmp_path / "part-0000.tar"
    path.write_bytes(path.read_bytes().replace(b"sample00001.cls", b"sample00001.xyz"))
    with pytest.raises(ValueError, match=r"checksum|lacks an image"):
        rows_of(DataConfig(source="webdataset", path=str(tmp_path)))


@pytest.mark.parametrize("kind", ["image_folder", "webdataset", "parquet"])
def test_missing_and_empty_inputs_are_errors(tmp_path: Path, kind: str) -> None:
    with pytest.raises(ValueError, match="is not a folder"):
        rows_of(DataConfig(source=kind, path=str(tmp_path / "none")))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"has no (class folders|\.tar|\.parquet)"):
        rows_of(DataConfig(source=kind, path=str(tmp_path)))  # type: ignore[arg-type]


def digits(**options: object) -> DataConfig:
    return DataConfig(digits=DigitsConfig(count=300), **options)  # type: ignore[arg-type]


def test_fraction_is_stratified_seeded_and_nested() -> None:
    full, half, tenth = rows_of(digits()), rows_of(digits(fraction=0.5)), rows_of(digits(fraction=0.1))
    for label in range(10):
        count = sum(row.label == label for row in full)
        assert abs(sum(row.label == label for row in half) - count / 2) <= 1
    assert {row.id for row in tenth} < {row.id for row in half} < {row.id for row in full}
    assert {row.id for row in half} != {row.id for row in rows_of(digits(fraction=0.5, seed=1))}


def test_classes_per_class_and_limit() -> None:
    rows = rows_of(digits(classes=("3", "7"), per_class=4))
    assert sorted(row.label for row in rows) == [3] * 4 + [7] * 4
    assert len(rows_of(digits(limit=5))) == 5
    with pytest.raises(ValueError, match=r"data\.classes: '11' is not in the input; valid: 0, 1"):
        rows_of(digits(classes=("11",)))


def test_choice_does_not_depend_on_other_files(tmp_path: Path) -> None:
    trees.image_folder(tmp_path, ("a",), per_class=40)
    config = DataConfig(source="image_folder", path=str(tmp_path), per_class=10)
    before = {row.id for row in rows_of(config)}
    (tmp_path / "a" / "img_100.png").write_bytes(trees.picture_bytes(100))
    assert len(before & {row.id for row in rows_of(config)}) >= 9


def test_files_whose_names_differ_in_case_or_unicode_form_are_two_images(tmp_path: Path) -> None:
    trees.image_folder(tmp_path, ("a",), per_class=1)
    for number, name in enumerate(("IMG_0.png", "\u00e9.png", "e\u0301.png")):
        (tmp_path / "a" / name).write_bytes(trees.picture_bytes(5 + number))
    rows = rows_of(DataConfig(source="image_folder", path=str(tmp_path)))
    assert len(rows) == len({row.id for row in rows}) == len({row.key.casefold() for row in rows}) == 4


def test_manifest_round_trip_and_resumed_hashes(tmp_path: Path) -> None:
    root = trees.image_folder(tmp_path / "in")
    rows = rows_of(DataConfig(source="image_folder", path=str(root)))
    manifest = write_manifest(rows, tmp_path / "input.parquet", 4)
    assert (len(list(manifest.rows())), manifest.num_units) == (9, 3)
    assert [row for unit in range(3) for row in manifest.unit_rows(unit)] == rows
    assert manifest.digest() == digest_of(rows)
    write_stamps(tmp_path, str(root), (row.source for row in rows), manifest.sha256)
    (root / "1" / "img_1.png").write_bytes(trees.picture_bytes(99))
    known = unchanged_hashes(tmp_path, str(root))
    assert len(known) == 8
    assert ("1/img_1.png", 0) not in known
