"""ImageNet's flat validation folder: classes from Kaggle's CSV, or from the devkit in its own numbering."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from clarep_ray.config import DataConfig
from clarep_ray.data.sources import imagenet_devkit
from tests.data import trees
from tests.data.test_sources import rows_of

DEVKIT_ORDER = ("n02119789", "n02100735", "n01440764")
SORTED = tuple(sorted(DEVKIT_ORDER))


def validation(root: Path) -> None:
    (root / "val").mkdir()
    for number in range(1, 4):
        (root / "val" / f"ILSVRC2012_val_{number:08d}.JPEG").write_bytes(trees.picture_bytes(number, "JPEG"))


def flat(root: Path, lines: list[str]) -> DataConfig:
    validation(root)
    (root / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *lines]))
    return DataConfig(source="flat_folder", path=str(root / "val"), labels_file=str(root / "LOC_val_solution.csv"))


def test_a_flat_folder_takes_its_classes_from_kaggles_csv(tmp_path: Path) -> None:
    config = flat(
        tmp_path,
        ["ILSVRC2012_val_00000003,n01440764 1 2 3 4 n01440764 5 6 7 8", "ILSVRC2012_val_00000001,n01443537 0 0 9 9"],
    )
    rows = rows_of(config, known=("n01440764", "n01443537"))
    assert [(row.id[-10:], row.label) for row in rows] == [("00001.JPEG", 1), ("00002.JPEG", -1), ("00003.JPEG", 0)]
    assert [row.label for row in rows_of(config)] == [1, -1, 0], "classes of the file, sorted"


def test_a_flat_folder_that_does_not_fit_its_csv_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.labels_file: None is not valid; valid: a CSV file"):
        DataConfig(source="flat_folder", path="/x")
    config = flat(tmp_path, ["ILSVRC2012_val_00000001,n1", "ILSVRC2012_val_00000009,n1"])
    with pytest.raises(ValueError, match="lacks 1 named images, first: 'ILSVRC2012_val_00000009'"):
        rows_of(config)
    (tmp_path / "LOC_val_solution.csv").write_text("a.png\n")
    with pytest.raises(ValueError, match=r"line 1: \['a\.png'\]; valid: NAME,CLASS"):
        rows_of(config)


def devkit(root: Path, labels: tuple[int, ...] = (3, 1, 2), named: str = "") -> DataConfig:
    validation(root)
    folder = trees.imagenet_devkit(root, DEVKIT_ORDER, labels)
    return DataConfig(source="flat_folder", path=str(root / "val"), labels_file=str(folder / named))


@pytest.mark.parametrize("named", ["", "data", "data/ILSVRC2012_validation_ground_truth.txt"])
def test_devkit_ids_become_the_labels_of_sorted_wordnet_ids(tmp_path: Path, named: str) -> None:
    config = devkit(tmp_path, named=named)
    expected = ["n01440764", "n02119789", "n02100735"]
    for known in ((), SORTED, (*SORTED, "n09999999")):
        rows = rows_of(config, known)
        assert [row.class_name for row in rows] == expected
        assert [row.label for row in rows] == [SORTED.index(name) for name in expected] == [0, 2, 1]


def test_a_stray_file_beside_the_validation_images_has_an_unknown_class(tmp_path: Path) -> None:
    config = devkit(tmp_path)
    (tmp_path / "val" / "README").write_text("not an image")
    assert [row.label for row in rows_of(config)] == [0, 2, 1, -1]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ((3, 1), r"it has 2 lines for 3 images of .*; first without one: 'ILSVRC2012_val_00000003'"),
        ((3, 1, 2, 1), "lacks 1 named images, first: 'ILSVRC2012_val_00000004'"),
        ((3, 1, 4), r"line 3: '4'; valid: a devkit id 1\.\.3"),
        ((3, 0, 1), r"line 2: '0'; valid: a devkit id 1\.\.3"),
        ((3, -1, 1), r"line 2: '-1'; valid: a devkit id"),
    ],
)
def test_a_ground_truth_that_does_not_fit_is_refused(tmp_path: Path, labels: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rows_of(devkit(tmp_path, labels))


def test_a_devkit_without_its_files_is_refused(tmp_path: Path) -> None:
    config = devkit(tmp_path)
    folder = Path(config.labels_file or "")
    (folder / "data" / "meta.mat").unlink()
    with pytest.raises(ValueError, match=r"has no meta\.mat beside it; valid: the devkit's folder"):
        rows_of(config)
    (folder / "data" / "ILSVRC2012_validation_ground_truth.txt").unlink()
    with pytest.raises(ValueError, match=r"has no ILSVRC2012_validation_ground_truth\.txt; valid"):
        rows_of(config)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"other": np.zeros(3)}, "'synsets'"),
        ({"synsets": np.zeros(3)}, "its synsets have no ILSVRC2012_ID"),
        ({"synsets": {"ILSVRC2012_ID": 2.0, "WNID": "n01440764", "num_children": 0.0}}, r"not numbered 1\.\.1"),
        ({"synsets": {"ILSVRC2012_ID": 1.0, "WNID": "tench", "num_children": 0.0}}, "with WordNet ids"),
        ({"synsets": np.zeros(10**7)}, "inflates to more than"),
    ],
)
def test_maps_of_another_shape_are_refused(tmp_path: Path, content: dict[str, Any], message: str) -> None:
    savemat(tmp_path / "meta.mat", content, do_compression=True)
    with pytest.raises(ValueError, match=rf"meta\.mat' is no ImageNet class map: .*{message}"):
        imagenet_devkit.read_meta(tmp_path / "meta.mat")


def test_damaged_maps_are_named(tmp_path: Path) -> None:
    meta = trees.imagenet_devkit(tmp_path, DEVKIT_ORDER, (1,)) / "data" / "meta.mat"
    whole = meta.read_bytes()
    assert imagenet_devkit.read_meta(meta) == dict(enumerate(DEVKIT_ORDER, 1))
    for damaged in (
        b"",
        b"text",
        b"\x89HDF\r\n\x1a\n" + bytes(600),
        whole[:300],
        b"0" * (imagenet_devkit.MAX_BYTES + 1),
    ):
        meta.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"meta\.mat' is no ImageNet class map"):
            imagenet_devkit.read_meta(meta)
