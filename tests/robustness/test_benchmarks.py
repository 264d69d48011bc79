"""Readers of the published layouts, on small trees; what does not fit is named at the start."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clarep_ray.config import BenchmarksConfig, DataConfig, DigitsConfig
from clarep_ray.data.class_list import imagenet_wnids
from clarep_ray.data.sources import open_source
from clarep_ray.data.views import View
from clarep_ray.robustness.benchmarks import BENCHMARKS, Benchmark, open_benchmark
from clarep_ray.robustness.benchmarks.corruptions import ALEXNET_ERRORS, CORRUPTIONS, mean_corruption_error
from clarep_ray.robustness.benchmarks.labels import (
    BACKGROUND_CLASSES,
    IMAGENET_A,
    background_answers,
)

VIEW = View(image_size=8, resize=10)


def picture(path: Path, width: int = 24, height: int = 20, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, format="JPEG")


def config(**changes: object) -> BenchmarksConfig:
    return BenchmarksConfig(**{"partial": True, **changes})  # type: ignore[arg-type]


def one_hot(benchmark: Benchmark, answers: list[int]) -> np.ndarray:
    return np.eye(benchmark.num_classes, dtype=np.float32)[answers]


@pytest.fixture
def cifar10(tmp_path: Path) -> Path:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    data = np.arange(3 * 3072, dtype=np.int64).reshape(3, 3072).astype(np.uint8)
    (folder / "test_batch").write_bytes(pickle.dumps({b"data": data, b"labels": [3, 0, 9], b"filenames": []}))
    return folder


def test_cifar10(cifar10: Path) -> None:
    benchmark = open_benchmark("cifar10", config(cifar10=str(cifar10)))
    rows = benchmark.rows("test")
    assert [row.labels for row in rows] == [(3,), (0,), (9,)]
    assert benchmark.read(rows[1], View(image_size=32, resize=36)).shape == (32, 32, 3)
    two_thirds = pytest.approx(2 / 3)
    assert benchmark.score({"test": np.array([3, 1, 9])}) == {"top1": two_thirds, "test": two_thirds}
    with pytest.raises(ValueError, match="cifar10: 3 pictures found, 10000 published"):
        open_benchmark("cifar10", config(cifar10=str(cifar10), partial=False))


@pytest.fixture
def cifar10_c(tmp_path: Path) -> Path:
    labels = np.tile(np.array([3, 7], np.uint8), 5)
    np.save(tmp_path / "labels.npy", labels)
    for number, corruption in enumerate((*CORRUPTIONS, "spatter")):
        rows = np.arange(10, dtype=np.uint8)[:, None, None, None] + np.uint8(10 * number)
        np.save(tmp_path / f"{corruption}.npy", np.broadcast_to(rows, (10, 32, 32, 3)))
    return tmp_path


def test_cifar10_c_has_a_severity_in_each_block(cifar10_c: Path) -> None:
    benchmark = open_benchmark("cifar10_c", config(cifar10_c=str(cifar10_c)))
    assert len(benchmark.slices()) == 75
    assert "spatter/1" not in benchmark.slices()
    rows = benchmark.rows("shot_noise/4")
    assert [row.labels for row in rows] == [(3,), (7,)]
    assert [int(benchmark.read(row, View(image_size=32, resize=32))[0, 0, 0]) for row in rows] == [16, 17]
    predictions = {part: np.array([3, 7 if part.startswith("snow") else 0]) for part in benchmark.slices()}
    figures = benchmark.score(predictions)
    assert figures["snow"] == 1
    assert figures["fog"] == figures["fog/3"] == 0.5
    assert figures["top1"] == figures["severity_2"] == pytest.approx((14 * 0.5 + 1) / 15)
    with pytest.raises(ValueError, match="'fog/6' is no slice; valid: gaussian_noise/1"):
        benchmark.rows("fog/6")
    with pytest.raises(ValueError, match="no answers for the slice 'gaussian_noise/1'"):
        benchmark.score({})


def test_cifar10_c_names_what_does_not_fit(cifar10_c: Path) -> None:
    def refused(message: str) -> None:
        with pytest.raises(ValueError, match=message):
            open_benchmark("cifar10_c", config(cifar10_c=str(cifar10_c)))

    np.save(cifar10_c / "fog.npy", np.zeros((10, 3, 32, 32), np.uint8))
    refused(r"fog.npy is uint8 \(10, 3, 32, 32\); valid: uint8 \(10, 32, 32, 3\)")
    (cifar10_c / "fog.npy").unlink()
    refused("fog.npy' cannot be read")
    np.save(cifar10_c / "fog.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    refused("fog.npy' cannot be read")
    np.save(cifar10_c / "labels.npy", np.arange(10, dtype=np.uint8))
    refused("five blocks of labels.npy are not the same")
    np.save(cifar10_c / "labels.npy", np.full(10, 12, np.uint8))
    refused("labels from 12 to 12 are not valid; valid: 0 to 9")


@pytest.fixture
def imagenet(tmp_path: Path) -> Path:
    """Three validation pictures of the labels 0 and 6."""
    names = imagenet_wnids()
    for number, label in ((1, 6), (2, 0), (4, 0)):
        picture(tmp_path / "val" / names[label] / f"ILSVRC2012_val_{number:08d}.JPEG", seed=number)
    return tmp_path / "val"


def test_imagenet(imagenet: Path) -> None:
    benchmark = open_benchmark("imagenet", config(imagenet=str(imagenet)))
    rows = benchmark.rows("val")
    assert [row.labels for row in rows] == [(0,), (0,), (6,)]
    assert rows[2].key == f"{imagenet_wnids()[6]}/ILSVRC2012_val_00000001.JPEG"
    assert benchmark.read(rows[0], VIEW).shape == (8, 8, 3)
    assert benchmark.predict(one_hot(benchmark, [0, 5, 999])).tolist() == [0, 5, 999]
    with pytest.raises(ValueError, match=r"imagenet: logits \(2, 10\) are not valid; valid: \(b, 1000\)"):
        benchmark.predict(np.zeros((2, 10)))
    with pytest.raises(ValueError, match="lacks 998 class folders, first: 'n01443537'"):
        open_benchmark("imagenet", config(imagenet=str(imagenet), partial=False))
    (imagenet / "tench").mkdir()
    with pytest.raises(ValueError, match="'n01440764' and 'tench' are both 'n01440764'"):
        open_benchmark("imagenet", config(imagenet=str(imagenet)))
    (imagenet / "tench").rename(imagenet / "unicorn")
    with pytest.raises(ValueError, match="has the folder 'unicorn', none of its 1000 classes"):
        open_benchmark("imagenet", config(imagenet=str(imagenet)))


def test_pictures_are_cut_as_torchvision_cuts_them(imagenet: Path) -> None:
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

    benchmark = open_benchmark("imagenet", config(imagenet=str(imagenet)))
    reference = Compose([Resize(10, InterpolationMode.BICUBIC), CenterCrop(8)])
    for row in benchmark.rows("val"):
        expected = np.asarray(reference(Image.open(imagenet / row.source)))
        assert np.array_equal(benchmark.read(row, VIEW), expected)


def test_any_class_folders(imagenet: Path) -> None:
    benchmark = open_benchmark("image_folder", config(image_folder=str(imagenet)))
    assert benchmark.num_classes == 2
    assert [row.labels for row in benchmark.rows("all")] == [(0,), (0,), (1,)]


def test_class_folders_list_what_a_source_lists(tmp_path: Path) -> None:
    for name in ("a.webp", "b", "sub/c.JPG", "._d.png", "Thumbs.db", "e.png"):
        picture(tmp_path / "in" / "cat" / f"{name}.png")
        (tmp_path / "in" / "cat" / f"{name}.png").rename(tmp_path / "in" / "cat" / name)
    picture(tmp_path / "in" / "dog" / "a.png")
    (tmp_path / "in" / "dog" / "a.png").rename(tmp_path / "in" / "dog" / "a.webp")
    picture(tmp_path / "in" / "__MACOSX" / "a.png")
    benchmark = open_benchmark("image_folder", config(image_folder=str(tmp_path / "in")))
    source = open_source(DataConfig(source="image_folder", path=str(tmp_path / "in")), None)
    expected = [(row.id, (row.label,)) for row in source.rows()]
    assert len(expected) == 5
    assert [(row.key, row.labels) for row in benchmark.rows("all")] == expected
    assert benchmark.notes() == ["passed over: 1 hidden, 2 of the operating system"]
    (tmp_path / "in" / "owl").mkdir()
    with pytest.raises(ValueError, match="the class folder 'owl' has no file"):
        open_benchmark("image_folder", config(image_folder=str(tmp_path / "in")))


def test_splits_are_no_classes_of_a_benchmark(tmp_path: Path) -> None:
    picture(tmp_path / "val" / "cat" / "a.png")
    assert open_benchmark("image_folder", config(image_folder=str(tmp_path))).rows("all")[0].key == "cat/a.png"
    picture(tmp_path / "train" / "cat" / "a.png")
    with pytest.raises(
        ValueError, match=r"image_folder: '.*' holds the splits train, val; valid: one, such as '.*/train'"
    ):
        open_benchmark("image_folder", config(image_folder=str(tmp_path)))


def test_real_leaves_pictures_without_a_label_out(imagenet: Path, tmp_path: Path) -> None:
    labels: list[list[int]] = [[] for _ in range(50_000)]
    labels[0], labels[3] = [5, 6], [0]
    (tmp_path / "real.json").write_text(json.dumps(labels))
    given = {"imagenet": str(imagenet), "imagenet_real": str(tmp_path / "real.json")}
    benchmark = open_benchmark("imagenet_real", config(**given))
    assert [row.labels for row in benchmark.rows("val")] == [(0,), (5, 6)]
    assert benchmark.score({"val": np.array([1, 5])})["top1"] == 0.5
    assert benchmark.score({"val": np.array([0, 6])})["top1"] == 1
    (tmp_path / "real.json").write_text(json.dumps(labels[:-1]))
    with pytest.raises(ValueError, match="valid: 50000 lists of labels"):
        open_benchmark("imagenet_real", config(**given))
    (tmp_path / "real.json").write_text("[")
    with pytest.raises(ValueError, match=r"real.json' cannot be read"):
        open_benchmark("imagenet_real", config(**given))


def test_imagenet_a_restricts_the_logits_and_its_full_protocol_does_not(tmp_path: Path) -> None:
    picture(tmp_path / imagenet_wnids()[13] / "0.jpg")
    restricted = open_benchmark("imagenet_a", config(imagenet_a=str(tmp_path)))
    full = open_benchmark("imagenet_a_full1000", config(imagenet_a=str(tmp_path)))
    logits = np.zeros((1, 1000), np.float32)
    logits[0, 12], logits[0, 13] = 9, 5  # label 12 is not among the 200
    assert restricted.predict(logits).tolist() == [13]
    assert full.predict(logits).tolist() == [12]
    assert restricted.rows("all")[0].labels == (13,)
    picture(tmp_path / imagenet_wnids()[12] / "0.jpg")
    with pytest.raises(ValueError, match="none of its 200 classes"):
        open_benchmark("imagenet_a", config(imagenet_a=str(tmp_path)))


def test_the_200_classes_are_those_timm_lists() -> None:
    import timm.data

    listed = Path(timm.data.__file__).parent / "_info" / "imagenet_a_indices.txt"
    assert tuple(map(int, listed.read_text().split())) == IMAGENET_A
    assert len(IMAGENET_A) == 200


@pytest.mark.parametrize("grouped", [False, True])
def test_imagenet_c_reads_what_is_stored(tmp_path: Path, grouped: bool) -> None:
    for number, part in enumerate(CORRUPTIONS):
        group = ("noise", "blur", "weather", "digital")[number // 4] if grouped else ""
        for severity in range(1, 6):
            folder = tmp_path / group / part / str(severity) / imagenet_wnids()[6]
            picture(folder / "ILSVRC2012_val_00000001.JPEG", 8, 8, seed=number)
    benchmark = open_benchmark("imagenet_c", config(imagenet_c=str(tmp_path)))
    row = benchmark.rows("fog/3")[0]
    assert row.labels == (6,)
    assert np.array_equal(benchmark.read(row, VIEW), np.asarray(Image.open(tmp_path / row.source).convert("RGB")))
    figures = benchmark.score({part: np.array([6]) for part in benchmark.slices()})
    assert figures["top1"] == 1
    assert figures["mce"] == 0
    (tmp_path / row.source).parents[1].rename(tmp_path / "away")
    with pytest.raises(ValueError, match="has no folder 'fog/3'"):
        open_benchmark("imagenet_c", config(imagenet_c=str(tmp_path)))


def test_mce_of_alexnet_is_one() -> None:
    accuracies = {f"{name}/{s}": 1 - error for name, error in ALEXNET_ERRORS.items() for s in range(1, 6)}
    assert mean_corruption_error(accuracies) == pytest.approx(1)


def test_backgrounds_map_a_thousand_answers_to_nine(tmp_path: Path) -> None:
    for variant in ("original", "mixed_same", "mixed_rand", "only_fg", "no_fg"):
        for name in BACKGROUND_CLASSES:
            picture(tmp_path / variant / "val" / name / "fg_0.JPEG", 8, 8)
    benchmark = open_benchmark("backgrounds", config(backgrounds=str(tmp_path)))
    assert benchmark.slices() == ("original", "bg_same", "bg_rand", "only_fg")
    assert [row.labels[0] for row in benchmark.rows("bg_same")] == list(range(9))
    assert benchmark.rows("bg_same")[2].source == "mixed_same/val/02_wheeled vehicle/fg_0.JPEG"
    assert benchmark.predict(one_hot(benchmark, [151, 33, 407, 999])).tolist() == [0, 3, 2, -1]
    assert benchmark.correct("original", np.array([-1, *range(1, 9)])).tolist() == [False] + [True] * 8
    picture(tmp_path / "only_fg" / "val" / BACKGROUND_CLASSES[2] / "fg_1.JPEG")
    with pytest.raises(ValueError, match=r"valid: equally many of each variant"):
        open_benchmark("backgrounds", config(backgrounds=str(tmp_path), partial=False))


def test_630_labels_have_no_background_class() -> None:
    answers = background_answers()
    assert len(answers) == 1000
    assert answers.count(-1) == 630


def test_the_embedded_variants_are_slices() -> None:
    benchmark = open_benchmark("spurious_digits", BenchmarksConfig(digits=DigitsConfig(count=5)))
    assert benchmark.slices() == ("test", "same_background", "random_background", "foreground_only", "conflict")
    rows = benchmark.rows("conflict")
    assert len(rows) == 5
    assert benchmark.read(rows[0], View(image_size=16, resize=20)).shape == (16, 16, 3)
    keys = [row.key for part in benchmark.slices() for row in benchmark.rows(part)]
    assert len(set(keys)) == len(keys)


def test_registry_and_config_name_the_same(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'imagenet_r' is unknown; valid: spurious_digits, image_folder, cifar10"):
        open_benchmark("imagenet_r", BenchmarksConfig())
    for name in BENCHMARKS.keys() - {"spurious_digits"}:
        with pytest.raises(ValueError, match=r"benchmarks\.\w+: None is not valid"):
            BenchmarksConfig(names=(name,))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"benchmarks.cifar10_c: .*nowhere' is not valid; valid: a folder"):
        open_benchmark("cifar10_c", config(cifar10_c=str(tmp_path / "nowhere")))
