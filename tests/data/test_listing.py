"""Splits, patterns, lists, class names and what is passed over: right, or refused in one short line."""

import io
import json
import os
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clarep_ray.config import DataConfig
from clarep_ray.data.class_list import ClassList, ClassMismatch, imagenet_wnids
from clarep_ray.data.manifest import freeze
from clarep_ray.data.picture_rows import check_apart, open_pictures
from clarep_ray.data.pictures import read_pictures
from clarep_ray.data.selection import check_images, select
from clarep_ray.data.sources import Listed, Source, absolute_data, open_source
from clarep_ray.data.sources.files import split_of
from clarep_ray.data.sources.shard_files import braces
from clarep_ray.data.views import View
from tests.data import trees

DIGITS = ClassList(tuple("0123456789"))
ROOT = Path(__file__).parents[2]
KAGGLE = "ImageId,PredictionString\n"

VIEW = View(image_size=8, resize=8)


def listed(known: ClassList | None = DIGITS, **options: Any) -> tuple[Source, list[Listed]]:
    config = DataConfig(**options)
    source = open_source(config, known)
    return source, select(source.rows(), config, source.classes)


def names(known: ClassList | None = DIGITS, **options: Any) -> list[tuple[str, int, str]]:
    return [(row.id, row.label, row.class_name) for row in listed(known, **options)[1]]


def refused(words: str, known: ClassList | None = DIGITS, **options: Any) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        listed(known, **options)
    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)


def hf(path: Path, labels: list[Any], class_names: list[str] | None = None) -> Path:
    """Write a Parquet file as Hugging Face's libraries do."""
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"bytes": trees.picture_bytes(i), "path": None} for i in range(len(labels))]
    table = pa.table({"image": images, "label": labels})
    if class_names is not None:
        feature = {"names": class_names, "_type": "ClassLabel"}
        about = json.dumps({"info": {"features": {"image": {"_type": "Image"}, "label": feature}}})
        table = table.replace_schema_metadata({"huggingface": about})
    pq.write_table(table, path)
    return path


def tar(path: Path, *members: tuple[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as file:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


def sample(key: str, label: str, **more: Any) -> list[tuple[str, bytes]]:
    beside = [(f"{key}.json", json.dumps(more).encode())] if more else []
    return [(f"{key}.png", trees.picture_bytes(1)), (f"{key}.cls", label.encode()), *beside]


def test_the_names_of_a_class_label_decide_not_its_numbers(tmp_path: Path) -> None:
    hf(tmp_path / "a.parquet", [0, 0, 1, 1], ["3", "7"])
    source, rows = listed(source="parquet", path=str(tmp_path))
    assert [(row.label, row.class_name) for row in rows] == [(3, "3"), (3, "3"), (7, "7"), (7, "7")]
    assert source.match is not None
    assert source.match.labels == (3, 7)
    assert [row[1:] for row in names(None, source="parquet", path=str(tmp_path))][1:3] == [(0, "3"), (1, "7")]
    hf(tmp_path / "a.parquet", [0, 1, 2], ["goldfish", "tench, Tinca tinca", "great white shark"])
    imagenet = ClassList(imagenet_wnids())
    assert [row[1] for row in names(imagenet, source="parquet", path=str(tmp_path))] == [1, 0, 2]
    hf(tmp_path / "a.parquet", [0], ["cat", "dog"])
    refused("none is in both", source="parquet", path=str(tmp_path))


def test_parquet_files_that_disagree_are_refused(tmp_path: Path) -> None:
    hf(tmp_path / "a.parquet", [0], ["3", "7"])
    hf(tmp_path / "b.parquet", [0], ["7", "3"])
    refused(
        r"a\.parquet' and '.*b\.parquet' have other class names for 'label': '3', '7'",
        source="parquet",
        path=str(tmp_path),
    )
    hf(tmp_path / "b.parquet", [0])
    refused("and none", source="parquet", path=str(tmp_path))
    hf(tmp_path / "a.parquet", ["3"])
    refused("'label' is text, and that of other files is not", source="parquet", path=str(tmp_path))


def test_labels_of_parquet_may_be_texts_or_none(tmp_path: Path) -> None:
    hf(tmp_path / "a.parquet", ["7", "3"])
    assert [row[1] for row in names(source="parquet", path=str(tmp_path))] == [7, 3]
    hf(tmp_path / "a.parquet", ["dog", "cat"])
    assert [row[1:] for row in names(None, source="parquet", path=str(tmp_path))] == [(1, "dog"), (0, "cat")]
    hf(tmp_path / "a.parquet", [-1, 2, 12])
    source, rows = listed(source="parquet", path=str(tmp_path))
    assert [(row.label, row.reason) for row in rows] == [(-1, "unlabelled"), (2, ""), (-1, "")]
    assert (source.match, source.notes()[-1]) == (None, "labels are numbers, 0 to 9: nothing in the input names them")
    assert open_source(DataConfig(source="parquet", path=str(tmp_path)), None).classes == ClassList.of_count(13)


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("data/train-00000-of-00294.parquet", "train"),
        ("imagenet1k-validation-00.tar", "val"),
        ("imagenet1k-train-0000.tar", "train"),
        ("default/partial-train/0000.parquet", "train"),
        ("train/part-0.tar", "train"),
        ("test/valid_3.tar", "val"),
        ("plain_text/test.parquet", "test"),
        ("dev.parquet", "val"),
        ("trainval-0.tar", None),
        ("train-val-0.tar", None),
        ("latest/contest-0.tar", None),
    ],
)
def test_splits_that_names_say(path: str, split: str | None) -> None:
    assert split_of(path) == split


@pytest.mark.parametrize("kind", ["parquet", "webdataset"])
def test_several_splits_need_a_choice(tmp_path: Path, kind: str) -> None:
    for name, label in (("train-0", 1), ("train-1", 2), ("validation-0", 3)):
        if kind == "parquet":
            hf(tmp_path / f"{name}.parquet", [label])
        else:
            tar(tmp_path / f"{name}.tar", *sample("a", str(label)))
    given: dict[str, Any] = {"source": kind, "path": str(tmp_path)}
    refused("holds the splits train, val; valid: one of them, as data.split", **given)
    refused(r"data\.split: 'test' is not in .*; valid: train, val", **given, split="test")
    source, rows = listed(**given, split="val")
    assert [row.label for row in rows] == [3]
    assert "passed over: 2 files of other splits" in source.notes()
    assert [row[1] for row in names(**given, split="train")] == [1, 2]
    suffix = {"parquet": "parquet", "webdataset": "tar"}[kind]
    (tmp_path / f"validation-0.{suffix}").rename(tmp_path / f"other.{suffix}")
    refused("holds the splits train and 1 files of none, first: 'other", **given)
    (tmp_path / f"other.{suffix}").unlink()
    source, rows = listed(**given)
    assert (len(rows), source.notes()[0]) == (2, "split 'train', the only one")
    (tmp_path / "plain").mkdir()
    (tmp_path / f"train-0.{suffix}").rename(tmp_path / "plain" / f"0.{suffix}")
    refused("says one", source=kind, path=str(tmp_path / "plain"), split="val")


def test_shards_by_file_pattern_and_list(tmp_path: Path) -> None:
    for number in range(3):
        tar(tmp_path / "in" / f"s-{number:03d}.tar", *sample("a", str(number)))
    (tmp_path / "shards.txt").write_text("# two\nin/s-002.tar\n\nin/s-000.tar\n")
    folder = tmp_path / "in"
    for path, expected in (
        (f"{folder}/s-001.tar", [1]),
        (f"{folder}/s-*.tar", [0, 1, 2]),
        (f"{folder}/s-{{001..002}}.tar", [1, 2]),
        (f"{folder}/s-00{{0,2}}.tar", [0, 2]),
        (f"@{tmp_path}/shards.txt", [0, 2]),
    ):
        source, rows = listed(source="webdataset", path=path)
        assert [row.label for row in rows] == expected, path
        assert rows[0].id == f"s-00{expected[0]}.tar/a"
        assert source.read(rows[0].source, rows[0].offset, rows[0].size) == trees.picture_bytes(1)
    for path, words in (
        (f"{folder}/t-*.tar", "matches no file"),
        (f"{folder}/s-{{000..005}}.tar", "lacks 3 of 6 files, first: .*s-003.tar"),
        (f"{folder}/s-{{0..999999999}}.tar", "names more than 100000 files"),
        (f"{folder}/{{a,b}}{{0..99}}{{0..99}}{{0..99}}.tar", "names more than 100000 files"),
        (f"{folder}/s-{{000}}.tar", "valid: {a,b} or {000..127}"),
        (f"{folder}/none.tar", "is not a folder or a file"),
        ("https://host/s-{000..002}.tar", "is no local file"),
        ("pipe:curl https://host/s.tar", "is no local file"),
        (f"@{tmp_path}/none.txt", "cannot be read"),
    ):
        refused(words, source="webdataset", path=path)
    (tmp_path / "shards.txt").write_text("in/s-000.tar\nin/s-000.tar\n")
    refused(r"s-000\.tar' twice", source="webdataset", path=f"@{tmp_path}/shards.txt")
    (tmp_path / "shards.txt").write_text("in/gone.tar\n")
    refused("1 files that are not there, first: 'in/gone.tar'", source="webdataset", path=f"@{tmp_path}/shards.txt")


def test_braces_are_a_shells() -> None:
    assert list(braces("a{8..10}b")) == ["a8b", "a9b", "a10b"]
    assert list(braces("{08..10}")) == ["08", "09", "10"]
    assert list(braces("{a,b}{1..2}")) == ["a1", "a2", "b1", "b2"]


def test_patterns_and_lists_are_absolute_for_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = DataConfig(source="webdataset", path="@list.txt", classes=("@classes.txt", "3"))
    assert absolute_data(config, "val") == {
        "val.path": f"@{tmp_path}/list.txt",
        "val.classes": (f"@{tmp_path}/classes.txt", "3"),
    }


def test_class_names_of_webdataset(tmp_path: Path) -> None:
    given: dict[str, Any] = {"source": "webdataset", "path": str(tmp_path)}
    path = tmp_path / "a.tar"
    tar(path, *sample("a", "dog"), *sample("b", "cat"))
    assert [row[1] for row in names(ClassList(("dog", "cat", "owl")), **given)] == [0, 1]
    assert [row[1] for row in names(None, **given)] == [1, 0]
    tar(path, *sample("a", "1", class_name="7"), *sample("b", "0", class_name="3"))  # as our own shards say it
    assert [row[1] for row in names(**given)] == [7, 3]
    tar(path, *sample("a", "1", class_name="7"), *sample("b", "1", class_name="3"))
    refused("sample 'b' calls class 1 '3'; an earlier one '7'", **given)
    tar(path, *sample("a", "1", class_name="7"), *sample("b", "0", class_name="7"))
    refused("several label numbers for one class name", **given)
    tar(path, *sample("a", "cat"), *sample("b", "0"))
    refused("its label is '0'; valid: numbers alone, or names alone", None, **given)
    tar(path, *sample("a", "0"), *sample("b", "cat"))
    refused("its label is 'cat'; valid: numbers alone, or names alone", **given)
    tar(path, ("a.png", trees.picture_bytes(1)), ("a.json", b'{"label": 4}'))
    assert [row[1] for row in names(**given)] == [4]
    tar(path, *sample("a", "-1"))
    assert listed(**given)[1][0].reason == "unlabelled"


def test_what_macos_puts_into_tars_is_passed_over(tmp_path: Path) -> None:
    junk = [("./._a.png", b"x"), ("__MACOSX/a.png", b"x"), (".DS_Store", b"x"), ("sub/Thumbs.db", b"x")]
    tar(tmp_path / "a.tar", *junk, *sample("./a", "3"), *sample("./sub/b", "4"))
    source, rows = listed(source="webdataset", path=str(tmp_path))
    assert [(row.id, row.label) for row in rows] == [("a.tar/a", 3), ("a.tar/sub/b", 4)]
    assert source.listing.passed_over == {"hidden": 2, "of the operating system": 2}
    tar(tmp_path / "._a.tar", ("x", b""))
    assert len(listed(source="webdataset", path=str(tmp_path))[1]) == 2


def test_an_unsorted_tar_has_the_remedy(tmp_path: Path) -> None:
    (one, label), (other, second) = sample("a", "1"), sample("b", "2")
    tar(tmp_path / "a.tar", one, other, label, second)
    refused("lacks .cls.*tar --sort=name", source="webdataset", path=str(tmp_path))
    tar(tmp_path / "a.tar", one, label, other, second, ("a.txt", b""))
    refused("appears twice.*tar --sort=name", source="webdataset", path=str(tmp_path))


def test_folders_of_splits(tmp_path: Path) -> None:
    trees.image_folder(tmp_path / "in" / "train", ("3", "7"), per_class=2)
    given: dict[str, Any] = {"source": "image_folder", "path": str(tmp_path / "in")}
    source, rows = listed(**given)
    assert ([row.label for row in rows], rows[0].id) == ([3, 3, 7, 7], "train/3/img_0.png")
    assert source.notes()[0] == "split 'train', the only one"
    assert freeze(source, rows)[0].sha256
    trees.image_folder(tmp_path / "in" / "Validation", ("3", "7"), per_class=1)
    refused("holds the splits val, train; valid: one of them", **given)
    refused("'test' is not in .*; valid: val, train", **given, split="test")
    assert [row[0] for row in names(**given, split="val")] == ["Validation/3/img_0.png", "Validation/7/img_0.png"]
    assert len(names(source="image_folder", path=str(tmp_path / "in" / "train"), split="train")) == 4
    refused("has no folders of splits", source="image_folder", path=str(tmp_path / "in" / "train"), split="val")
    (tmp_path / "in" / "notes").mkdir()
    refused("holds the split 'Validation' beside other folders, first: 'notes'", **given)
    (tmp_path / "in" / "notes").rmdir()
    trees.image_folder(tmp_path / "in" / "val", ("3",))
    refused("has the split 'val' twice", **given)


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    trees.image_folder(tmp_path, ("bus", "train", "val"), per_class=1)
    assert [row[1:] for row in names(None, source="image_folder", path=str(tmp_path))][1] == (1, "train")


def test_splits_within_classes_are_refused(tmp_path: Path) -> None:
    trees.image_folder(tmp_path / "3", ("train", "val"))
    refused(
        "class folder '.*/3' holds the splits train, val; valid: ROOT/SPLIT/CLASS",
        source="image_folder",
        path=str(tmp_path),
    )


def test_system_files_are_counted_and_empty_classes_said_or_refused(tmp_path: Path) -> None:
    trees.image_folder(tmp_path, ("000", "007", "__MACOSX", "lost+found", "@eaDir", ".git"), per_class=1)
    for name in ("000/Thumbs.db", "000/desktop.ini", "000/._img_0.png", "LICENSE", ".DS_Store"):
        (tmp_path / name).write_text("x")
    given: dict[str, Any] = {"source": "image_folder", "path": str(tmp_path)}
    source, rows = listed(**given)
    assert [(row.label, row.class_name) for row in rows] == [(0, "0"), (7, "7")]
    assert source.listing.passed_over == {"hidden": 3, "of the operating system": 5, "beside the class folders": 1}
    (tmp_path / "005").mkdir()
    source, _ = listed(**given)
    assert "1 class folders without a file, first: '005'" in source.notes()
    refused("the class folder '005' has no file", None, **given)


def test_folders_that_are_numbers_are_label_numbers(tmp_path: Path) -> None:
    trees.image_folder(tmp_path, tuple(map(str, range(12))), per_class=1)
    given: dict[str, Any] = {"source": "image_folder", "path": str(tmp_path)}
    for known in (None, ClassList.of_count(12), ClassList(tuple("abcdefghijkl"))):
        assert {(row[0].partition("/")[0], str(row[1])) for row in names(known, **given)} == {
            (str(number), str(number)) for number in range(12)
        }
    refused("class number 10.*valid: 0 to 9", **given)
    (tmp_path / "007").mkdir()
    with pytest.raises(ClassMismatch, match=r"'007' and '7' are the same number|'7' and '007' are the same number"):
        listed(**given)


def test_what_is_no_image_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    for number in range(16):
        (tmp_path / "cat" / f"{number:02d}.txt").write_text("x")
    source, rows = listed(None, source="image_folder", path=str(tmp_path))
    with pytest.raises(ValueError, match=r"not one of 16 files looked at is an image; no image, first: 'cat/00\.txt'"):
        check_images(source, rows)
    for number in range(4):
        (tmp_path / "cat" / f"{number:02d}.txt").write_bytes(
            trees.picture_bytes(1, ("PNG", "JPEG", "WEBP")[number % 3])
        )
    warning = check_images(source, rows)
    assert warning == "12 of 16 files looked at are no images, first: 'cat/04.txt' (not an image)"
    hf(tmp_path / "a.parquet", [0])
    table = pa.table(
        {
            "image": pa.array(
                [{"bytes": None, "path": "x.png"}], pa.struct([("bytes", pa.binary()), ("path", pa.string())])
            ),
            "label": [0],
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="image elsewhere"):
        check_images(*listed(None, source="parquet", path=str(tmp_path)))


def test_the_products_own_folder_is_no_input() -> None:
    with pytest.raises(ValueError, match=r"of 64 files looked at is an image; no image, first: 'analysis/"):
        check_images(*listed(None, source="image_folder", path=str(ROOT / "clarep_ray")))


def test_classes_are_chosen_by_any_of_their_names(tmp_path: Path) -> None:
    trees.image_folder(tmp_path, ("tench", "goldfish", "walrus"), per_class=1)
    known = ClassList(imagenet_wnids()[:20])
    given: dict[str, Any] = {"source": "image_folder", "path": str(tmp_path)}
    for name in ("tench", "Tench", "n01440764", "tinca tinca", "0"):
        assert [row[1:] for row in names(known, **given, classes=(name,))] == [(0, "n01440764")], name
    assert [row[1:] for row in names(known, **given, classes=("walrus",))] == [(-1, "walrus")]
    refused(
        r"'walruss' is not in the input; near: walrus; valid: tench \(n01440764\)", known, **given, classes=("walruss",)
    )
    refused(r"'n01443537x' is not in the input", known, **given, classes=("n01443537x",))
    refused(r"'n01484850' is not in the input \(the class has no image\)", known, **given, classes=("n01484850",))
    refused(r"'robin \(n01558993\)', class 15 of ImageNet", None, **given, classes=("imagenet20",))
    thousand = ClassList(imagenet_wnids())
    refused(r"'15' is not in the input", thousand, **given, classes=("imagenet20",))


def flat(root: Path, text: str) -> dict[str, Any]:
    (root / "in").mkdir(exist_ok=True)
    for number in range(3):
        (root / "in" / f"im{number}.jpg").write_bytes(trees.picture_bytes(number, "JPEG"))
    (root / "labels.csv").write_bytes(text.encode())
    return {"source": "flat_folder", "path": str(root / "in"), "labels_file": str(root / "labels.csv")}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("im0.jpg,great white shark\nim1.jpg,great grey owl\nim2,cat\n", "great white shark|great grey owl|cat"),
        (
            '\ufefffilename,label\r\nim0.jpg,"tench, Tinca tinca"\r\nim1.jpg,a\r\nim2.jpg,a\r\n',
            "tench, Tinca tinca|a|a",
        ),
        ("image\tclass\nim0.jpg\tcat\nim1\tdog\nim2\tcat\n", "cat|dog|cat"),
        ("im0.jpg;cat\nim1.jpg;dog\nim2.jpg;cat\n", "cat|dog|cat"),
        ("id,label,class_name\nim0.jpg,0,cat\nim1.jpg,1,dog\nim2.jpg,1,dog\n", "cat|dog|dog"),
        ("class,file_name\ncat,im0.jpg\ndog,im1.jpg\ndog,im2.jpg\n", "cat|dog|dog"),
        ("im0.jpg,cat\nim0.jpg,cat\n\nim1.jpg,dog\nim2.jpg,dog\n", "cat|dog|dog"),
        ("in/im0.jpg,cat\n./im1.jpg,dog\nin\\im2.jpg,dog\n", "cat|dog|dog"),
        (f"{KAGGLE}im0,n00 a\nim1,n01443537 0 0 9 9 n01443537 1 2 3 4 \nim2,n01440764\n", "n00 a|n01443537|n01440764"),
    ],
)
def test_labels_files_are_read_by_what_they_say(tmp_path: Path, text: str, expected: str) -> None:
    assert "|".join(row[2] for row in names(None, **flat(tmp_path, text))) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("im0.jpg,cat\nim1.jpg,cat\nim0.jpg,dog\n", "lines 1 and 3: 'im0.jpg' has two classes, first: 'cat'"),
        ("name,class\nim0.jpg,cat\nim0.png,dog\n", "lines 2 and 3: 'im0.jpg' has two classes"),
        ("im0.jpg,cat\nim0,dog\n", "lines 1 and 2"),
        ("im0.jpg,cat\nin/im0.jpg,dog\n", "lines 1 and 2: 'in/im0.jpg' has two classes"),
        ("im0.jpg,cat,1\n", "line 1: .*valid: NAME,CLASS"),
        ("im0.jpg,\n", "line 1: .*valid: NAME,CLASS"),
        ("photo,what\nim0.jpg,cat\n", "lacks 1 named images, first: 'photo'"),
        ("file,label,class\nim0.jpg,1,2\n", "its header has the columns label, class; valid: one of classes"),
        ("im9.jpg,cat\n", "lacks 1 named images, first: 'im9.jpg'"),
        ("im0.jpg," + "x" * 200_000 + "\n", "line 1: field larger than field limit"),
    ],
)
def test_labels_files_that_contradict_or_say_nothing_are_refused(tmp_path: Path, text: str, words: str) -> None:
    refused(words, None, **flat(tmp_path, text))


def test_a_name_that_fits_two_images_is_refused_and_numbers_are_labels(tmp_path: Path) -> None:
    given = flat(tmp_path, "im0,cat\n")
    (tmp_path / "in" / "im0.png").write_bytes(trees.picture_bytes(0))
    refused("line 1: 'im0' is several files: 'im0.jpg', 'im0.png'", None, **given)
    (tmp_path / "in" / "im0.png").unlink()
    assert [row[1] for row in names(**flat(tmp_path, "im0.jpg,7\nim1.jpg,3\nim2.jpg,07\n".replace("07", "7")))] == [
        7,
        3,
        7,
    ]
    (tmp_path / "in" / "README").write_text("x")
    assert listed(**given | {"path": str(tmp_path / "in")})[1][0].reason == "unlabelled"


def test_trainings_read_what_sources_list(tmp_path: Path) -> None:
    trees.image_folder(tmp_path / "in" / "train", ("cat", "dog", "__MACOSX"), per_class=2)
    trees.image_folder(tmp_path / "in" / "val", ("dog", "cat"), per_class=1)
    config = DataConfig(source="image_folder", path=str(tmp_path / "in"), split="train")
    images = open_pictures(config, VIEW)
    assert (images.class_names, images.labels.tolist()) == (("cat", "dog"), [0, 0, 1, 1])
    assert images.notes == ("passed over: 1 of the operating system",)
    assert read_pictures(config, 8).class_names == ("cat", "dog")
    check_apart(images, open_pictures(replace(config, split="val"), VIEW))
    part = DataConfig(source="image_folder", path=str(tmp_path / "in" / "train"), limit=1)
    with pytest.raises(
        ValueError, match=r"val\.path: 1 of its 1 images are those of data\.path, first: 'cat/img_0\.png'"
    ):
        check_apart(images, open_pictures(part, VIEW))
    with pytest.raises(ValueError, match="holds the splits train, val"):
        open_pictures(replace(config, split=None), VIEW)
    with pytest.raises(ValueError, match=r"^val\.split: 'test'"):
        open_pictures(replace(config, split="test"), VIEW, name="val")
    with pytest.raises(ValueError, match=r"^val\.path: '/mine' has no effect; valid: None, or where"):
        open_pictures(DataConfig(path="/mine"), VIEW, name="val")
    with pytest.raises(ValueError, match=r"^val\.path: '/nowhere'"):
        open_pictures(replace(config, path="/nowhere"), VIEW, name="val")
    hf(tmp_path / "hf" / "a.parquet", [0, 1, -1], ["dog", "cat"])
    shards = DataConfig(source="parquet", path=str(tmp_path / "hf"))
    with pytest.raises(ValueError, match=r"'a\.parquet/00000002' has no label"):
        read_pictures(shards, 8)
    with pytest.raises(ValueError, match=r"val: 'a\.parquet/00000002' has no label \(1 of 3 images\)"):
        open_pictures(shards, VIEW, name="val")
    assert open_pictures(replace(shards, limit=2), VIEW, ClassList(("cat", "dog"))).labels.tolist() == [1, 0]


UNDER_C = """
import os, sys
from clarep_ray.config import DataConfig
from clarep_ray.data.manifest import freeze
from clarep_ray.data.sources import open_source
assert sys.getfilesystemencoding() != "utf-8"
source = open_source(DataConfig(source="image_folder", path=sys.argv[1]), None)
rows = freeze(source, list(source.rows()))
print(ascii([(row.id, row.class_name, row.reason, len(source.read(row.source, 0, 0))) for row in rows]))
"""


def test_a_name_in_utf8_is_read_under_another_locale(tmp_path: Path) -> None:
    trees.image_folder(tmp_path, ("k\u00e4tzchen",), per_class=1)
    (tmp_path / "k\u00e4tzchen" / "img_0.png").write_bytes(b"abc")
    env = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", UNDER_C, str(tmp_path)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ascii([("k\u00e4tzchen/img_0.png", "k\u00e4tzchen", "", 3)])
