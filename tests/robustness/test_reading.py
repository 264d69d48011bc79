"""A classifier and a benchmark meet by meaning: the right figure whatever the order of either, or a refusal."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from clarep_ray.config import AttacksConfig, BenchmarksConfig
from clarep_ray.data.class_list import ClassList, ClassMismatch, imagenet_wnids
from clarep_ray.data.views import View
from clarep_ray.models.classifiers import load_classifier
from clarep_ray.models.students import Architecture, make_student, save_student
from clarep_ray.robustness.attacks import build_attack
from clarep_ray.robustness.benchmarks import Benchmark, open_benchmark
from clarep_ray.robustness.evaluate import attack_columns, clean_columns
from clarep_ray.robustness.reading import BenchmarkReader, as_benchmark, match_classifier, protocol

WNIDS = imagenet_wnids()
SIDE = 16
VIEW = View(image_size=SIDE, resize=SIDE)


def shade(number: int) -> int:
    """Grey value that stands for a class: what `reader` reads off again."""
    return 20 + 40 * number


def write_pictures(root: Path, folders: dict[str, int], each: int = 2) -> Path:
    """Write pictures of one grey value each, by {folder: number of the shade}."""
    for folder, number in folders.items():
        (root / folder).mkdir(parents=True)
        for i in range(each):
            Image.new("RGB", (SIDE, SIDE), (shade(number),) * 3).save(root / folder / f"{i}.png")
    return root


def reader(folder: Path, names: list[str], shades: list[int], **more: Any) -> str:
    """Write a student that reads the grey value: its label i, called names[i], is the class of shades[i]."""
    architecture = Architecture(
        name="small_cnn", class_names=tuple(names), image_size=SIDE, mean=(0.0,) * 3, std=(1.0,) * 3, **more
    )
    save_student(make_student(architecture), folder)
    tensors = load_file(folder / "model.safetensors")
    for name, value in tensors.items():  # one channel goes through; logits are 2 c g - c^2, largest for the nearest c
        tensors[name] = torch.zeros_like(value)
    for layer in ("body.0", "body.2", "body.4"):
        tensors[f"{layer}.weight"][0, 0, 1, 1] = 1.0
    for i, number in enumerate(shades):
        level = shade(number) / 255
        tensors["head.weight"][i, 0], tensors["head.bias"][i] = 2 * level, -(level**2)
    save_file(tensors, folder / "model.safetensors")
    return str(folder)


def folders(root: Path) -> Benchmark:
    return open_benchmark("image_folder", BenchmarksConfig(image_folder=str(root), image_size=SIDE, resize=SIDE))


def accuracy(weights: str, benchmark: Benchmark) -> float:
    model = as_benchmark(load_classifier(weights), match_classifier(weights, benchmark))
    rows = benchmark.rows(benchmark.slices()[0])
    images = np.stack([benchmark.read(row, VIEW) for row in rows])
    return float(clean_columns(model, benchmark, rows, images)["correct"].mean())


@pytest.fixture
def pets(tmp_path: Path) -> Benchmark:
    write_pictures(tmp_path / "pets", {"cat": 0, "dog": 1})
    write_pictures(tmp_path / "more", {"dog": 1, "cat": 0, "cow": 2})
    return folders(tmp_path / "pets")


def test_labels_in_another_order_are_the_same_classes(pets: Benchmark, tmp_path: Path) -> None:
    weights = reader(tmp_path / "a", ["dog", "cat"], [1, 0])
    assert accuracy(weights, pets) == 1.0
    assert "another order" in protocol(match_classifier(weights, pets))
    assert accuracy(reader(tmp_path / "b", ["cat", "dog"], [0, 1]), pets) == 1.0
    assert accuracy(reader(tmp_path / "c", ["cat", "dog"], [1, 0]), pets) == 0.0


def test_a_classifier_of_other_classes_is_refused(pets: Benchmark, tmp_path: Path) -> None:
    with pytest.raises(
        ClassMismatch, match=r"classifier.weights .* has 'bus', 'tram' \(2\); none is in both"
    ) as caught:
        accuracy(reader(tmp_path / "a", ["bus", "tram"], [0, 1]), pets)
    assert len(str(caught.value)) < 500
    with pytest.raises(ClassMismatch, match=r"lacks 1 of the 2 classes of image_folder, first: 'dog'; it has 'cat'"):
        accuracy(reader(tmp_path / "b", ["cat", "bus"], [0, 1]), pets)


def test_only_the_folders_classes_compete(pets: Benchmark, tmp_path: Path) -> None:
    weights = reader(tmp_path / "a", ["cow", "dog", "cat", "dark cat"], [2, 1, 0, 0])
    assert accuracy(weights, pets) == 1.0
    assert protocol(match_classifier(weights, pets)).endswith("2 of its 4 logits compete")


def test_folders_that_are_numbers_are_label_numbers(tmp_path: Path) -> None:
    """ImageNetV2 ships so: sorted as text, 10 would be the third class."""
    numbers = {str(number): number % 6 for number in range(12)}
    benchmark = folders(write_pictures(tmp_path / "numbers", numbers, each=1))
    assert [row.labels[0] for row in benchmark.rows("all")] == list(range(12))
    names = [f"kind {number}" for number in range(12)]
    found = match_classifier(reader(tmp_path / "a", names, [i % 6 for i in range(12)]), benchmark)
    assert (found.by, found.labels) == ("number", tuple(range(12)))
    some = folders(write_pictures(tmp_path / "some", {"002": 2, "10": 4}))
    weights = reader(tmp_path / "b", names, [0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5])
    assert accuracy(weights, some) == 1.0
    with pytest.raises(ClassMismatch, match="class number 12"):
        accuracy(weights, folders(write_pictures(tmp_path / "wrong", {"0": 0, "12": 1})))


def test_wordnet_ids_and_words_are_the_same_classes(tmp_path: Path) -> None:
    benchmark = folders(write_pictures(tmp_path / "val", {WNIDS[0]: 0, WNIDS[1]: 1, WNIDS[2]: 2}))
    words = ["great white shark", "Tench", "goldfish, Carassius auratus"]
    assert accuracy(reader(tmp_path / "a", words, [2, 0, 1]), benchmark) == 1.0
    assert accuracy(reader(tmp_path / "b", [WNIDS[1], WNIDS[2], WNIDS[0]], [1, 2, 0]), benchmark) == 1.0


def test_a_thousand_logits_without_names_read_a_hundred_folders(tmp_path: Path) -> None:
    benchmark = folders(write_pictures(tmp_path / "val", {WNIDS[number]: number % 6 for number in range(400, 406)}))
    names = [str(number) for number in range(1000)]
    weights = reader(tmp_path / "a", names, [i % 6 for i in range(1000)], named=False)
    with pytest.raises(ClassMismatch, match="without names"):  # its training was of numbers, not of ImageNet
        match_classifier(weights, benchmark)
    (tmp_path / "timm").mkdir()
    (tmp_path / "timm" / "config.json").write_text(json.dumps({"architecture": "resnet18", "num_classes": 1000}))
    save_file({"fc.weight": torch.zeros(1000, 8)}, tmp_path / "timm" / "model.safetensors")
    found = match_classifier(str(tmp_path / "timm"), benchmark)
    assert found.labels == tuple(range(400, 406))
    assert "without names are taken for ImageNet's" in protocol(found)
    assert "6 of its 1000 logits compete" in protocol(found)


@pytest.mark.parametrize("turned", [False, True])
def test_attacks_see_the_benchmarks_numbers(turned: bool, tmp_path: Path) -> None:
    """What an attack leaves right does not depend on the order of a classifier's labels; targeted ones included."""
    benchmark = folders(write_pictures(tmp_path / "pets", {"ant": 0, "bee": 1, "cat": 2, "dog": 3, "elk": 4}))
    names, shades = ["ant", "bee", "cat", "dog", "elk"], [0, 1, 2, 3, 4]
    if turned:
        names, shades = [*names[2:], *names[:2]], [*shades[2:], *shades[:2]]
    weights = reader(tmp_path / "a", names, shades)
    model = as_benchmark(load_classifier(weights), match_classifier(weights, benchmark))
    assert isinstance(model, BenchmarkReader) == turned
    rows = benchmark.rows("all")
    images = np.stack([benchmark.read(row, VIEW) for row in rows])
    for name in ("pgd", "apgd_dlr", "apgd_t"):
        for eps, robust in ((8 / 255, 1.0), (30 / 255, 0.0)):
            attacks = AttacksConfig(names=(name,))
            attack = build_attack(name, _with_eps(attacks, eps))
            columns = attack_columns(model, attack, benchmark, rows, images)
            assert columns["attacked"].all()
            assert columns["robust"].mean() == robust, (name, eps)


def _with_eps(attacks: AttacksConfig, eps: float) -> AttacksConfig:
    from clarep_ray.dotted import flatten, override

    budgets = {name: 255 * eps for name in flatten(attacks) if name.endswith(("eps_255", "epsilon_255"))}
    return override(attacks, budgets)


def test_imagenets_benchmarks_take_other_orders_and_number_folders(tmp_path: Path) -> None:
    for folder, number in {"0": 0, "1": 1, "999": 2}.items():
        write_pictures(tmp_path / "val", {folder: number}, each=1)
    benchmark = open_benchmark(
        "imagenet", BenchmarksConfig(imagenet=str(tmp_path / "val"), partial=True, image_size=SIDE, resize=SIDE)
    )
    assert [row.labels[0] for row in benchmark.rows("val")] == [0, 1, 999]
    turned = [*WNIDS[1:], WNIDS[0]]
    weights = reader(tmp_path / "a", turned, [1, *[5] * 997, 2, 0])
    assert match_classifier(weights, benchmark).labels[:2] == (999, 0)
    assert accuracy(weights, benchmark) == 1.0
    with pytest.raises(ClassMismatch, match="lacks 998 of the 1000 classes of imagenet, first"):
        match_classifier(reader(tmp_path / "b", ["tench", WNIDS[1]], [0, 1]), benchmark)


def test_cifar_10_has_synonyms(tmp_path: Path) -> None:
    from clarep_ray.robustness.benchmarks.cifar import Cifar10Test

    benchmark = Cifar10Test.__new__(Cifar10Test)  # its classes alone: no pictures are read
    names = ["car", "plane", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    found = match_classifier(reader(tmp_path / "a", names, list(range(10))), benchmark)
    assert found.labels == (1, 0, *range(2, 10))
    digits = reader(tmp_path / "b", list("0123456789"), list(range(10)))
    with pytest.raises(ClassMismatch, match="none is in both"):
        match_classifier(digits, benchmark)


def test_what_the_answers_of_a_benchmark_are_called() -> None:
    from clarep_ray.robustness.benchmarks.backgrounds import Backgrounds

    found = Backgrounds.__new__(Backgrounds).answer_classes
    assert isinstance(found, ClassList)
    assert found.shown(0) == "00_dog"
