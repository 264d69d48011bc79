"""Classifiers that judge: timm folders in the hub's layout, the shipped one, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from clarep_ray.data.cifar10 import CIFAR10_NAMES
from clarep_ray.data.class_list import ClassList, ClassMismatch, imagenet_wnids
from clarep_ray.data.spurious_digits import CLASS_NAMES, SpuriousDigits
from clarep_ray.models.answers import NO_ANSWER
from clarep_ray.models.classifiers import classes_of, classifier_name, classifiers_sha256
from clarep_ray.models.judges import check_judges, load_judges
from clarep_ray.models.students import Architecture, make_student, save_student

CIFAR10, DIGITS = ClassList(CIFAR10_NAMES), ClassList(CLASS_NAMES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small timm model in ten classes, as `save_for_hf` writes it."""
    import timm
    from timm.models import save_for_hf

    torch.manual_seed(0)
    network: Any = timm.create_model("resnet10t", num_classes=10).eval()
    with torch.no_grad():  # without a favourite class among images of one colour, so that answers differ
        network.fc.bias -= network(((torch.rand(32, 3, 1, 1) - 0.45) / 0.225).expand(32, 3, 64, 64)).mean(0)
    path = tmp_path_factory.mktemp("judges") / "resnet10t.test"
    save_for_hf(network, path, model_config={"num_classes": 10}, safe_serialization=True)
    return path


def test_a_timm_folder_judges_with_its_own_preprocessing(folder: Path) -> None:
    import timm
    from PIL import Image

    images = np.random.default_rng(0).integers(0, 256, (6, 48, 48, 3), np.uint8)
    network = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(network), is_training=False)
    with torch.no_grad():
        expected = network(torch.stack([transform(Image.fromarray(image)) for image in images])).argmax(1)
    (judge,) = load_judges([str(folder)], ClassList.of_count(10))
    assert judge.predict(images).tolist() == expected.tolist()
    assert classifier_name(str(folder)) == "resnet10t.test"


def test_wrong_classifiers_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"classifiers: .* has the classes '0', '1', '2', .*none is in both"):
        check_judges(["digits"], ClassList(imagenet_wnids()))
    with pytest.raises(ValueError, match=r"the class number 7, the diffusion model has 'a'"):
        check_judges([str(folder)], ClassList(tuple("abcdefg")))
    with pytest.raises(ValueError, match=r"has no config\.json; valid: digits, or a folder of a timm model"):
        check_judges([str(tmp_path)], DIGITS)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"has no model\.safetensors"):
        classifiers_sha256([str(tmp_path)])


def test_the_hash_follows_the_weights(folder: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    assert classifiers_sha256([str(folder)]) == classifiers_sha256([str(tmp_path)])
    data = bytearray((tmp_path / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "model.safetensors").write_bytes(data)
    assert classifiers_sha256([str(folder)]) != classifiers_sha256([str(tmp_path)])
    assert classifiers_sha256(["digits"]) != classifiers_sha256([])
    before = classifiers_sha256([str(tmp_path)])
    (tmp_path / "class_names.json").write_text(json.dumps(list(CIFAR10_NAMES)))
    assert classifiers_sha256([str(tmp_path)]) != before, "its labels mean something else now"


def named(folder: Path, target: Path, names: list[str]) -> str:
    """Write a copy of a timm folder whose config.json names its labels; return its path."""
    target.mkdir()
    config = json.loads((folder / "config.json").read_text())
    (target / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    (target / "config.json").write_text(json.dumps(config | {"label_names": names}))
    return str(target)


def test_judges_answer_in_the_models_numbers(folder: Path, tmp_path: Path) -> None:
    """The same network under two orders of names gives the same classes, whatever numbers these have."""
    colours = np.random.default_rng(1).integers(0, 256, (32, 1, 1, 3), np.uint8)
    images = np.ascontiguousarray(np.broadcast_to(colours, (32, 32, 32, 3)))
    (plain,) = load_judges([str(folder)], CIFAR10)  # nothing names its labels: by number
    own = plain.predict(images)
    assert len(np.unique(own)) > 1, "a judge that always says the same shows no order"
    turned = list(CIFAR10_NAMES[3:] + CIFAR10_NAMES[:3])  # its label 0 is the model's 3
    (judge,) = load_judges([named(folder, tmp_path / "turned", turned)], CIFAR10)
    assert judge.predict(images).tolist() == ((own + 3) % 10).tolist()
    words = ["plane", "Car", *CIFAR10_NAMES[2:]]
    (synonyms,) = load_judges([named(folder, tmp_path / "words", words)], CIFAR10)
    assert synonyms.predict(images).tolist() == own.tolist()
    assert "by number" in check_judges([str(folder)], CIFAR10)[0]
    assert "another order" in check_judges([str(tmp_path / "turned")], CIFAR10)[0]


def test_only_logits_of_the_models_classes_compete(folder: Path, tmp_path: Path) -> None:
    images = np.random.default_rng(2).integers(0, 256, (32, 32, 32, 3), np.uint8)
    judge = named(folder, tmp_path / "all", list(CIFAR10_NAMES))
    pets = ClassList(("dog", "cat"))
    (reads,) = load_judges([judge], pets)
    from timm import create_model
    from timm.data.config import resolve_data_config
    from timm.data.transforms_factory import create_transform

    network = create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform = create_transform(**resolve_data_config(model=network), is_training=False)
    with torch.no_grad():
        logits = network(torch.stack([transform(Image.fromarray(image)) for image in images]))
    expected = logits[:, [5, 3]].argmax(1)  # the model's 0 is dog, CIFAR-10's 5
    assert reads.predict(images).tolist() == expected.tolist()
    assert network.num_classes == 10
    assert check_judges([judge], pets)[0].endswith("2 of its 10 logits compete")


def test_a_judge_must_know_what_it_judges(folder: Path, tmp_path: Path) -> None:
    judge = named(folder, tmp_path / "some", [*CIFAR10_NAMES[:9], "lorry"])
    with pytest.raises(ClassMismatch, match=r"lacks 1 of the classes that it would judge, first: 'truck'"):
        check_judges([judge], CIFAR10)
    assert check_judges([judge], CIFAR10, wanted=[0, 8])
    with pytest.raises(ClassMismatch, match="none is in both"):
        check_judges(["digits"], CIFAR10)
    assert check_judges(["digits"], DIGITS)
    reversed_digits = ClassList(tuple("9876543210"))
    (reads,) = load_judges(["digits"], reversed_digits)
    pictures = SpuriousDigits(split="foreground_only", count=20)
    images = np.stack([pictures[i].image for i in range(20)])
    right = np.array([9 - pictures[i].label for i in range(20)])
    assert (reads.predict(images) == right).mean() > 0.9


def test_own_students_are_judges(tmp_path: Path) -> None:
    architecture = Architecture(
        name="small_cnn", class_names=("dog", "cat"), image_size=16, mean=(0.5,) * 3, std=(0.5,) * 3
    )
    student = make_student(architecture)
    save_student(student, tmp_path / "last")
    images = np.random.default_rng(3).integers(0, 256, (32, 32, 32, 3), np.uint8)
    (judge,) = load_judges([str(tmp_path / "last")], ClassList(("cat", "dog", "owl")))
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    small = torch.nn.functional.interpolate(pixels, (16, 16), mode="bicubic", antialias=True).clamp(0, 1)
    with torch.no_grad():
        own = student.eval()(small).argmax(1)
    assert judge.predict(images).tolist() == (1 - own).tolist()
    assert classes_of(str(tmp_path / "last")).names == ("dog", "cat")
    with pytest.raises(ClassMismatch, match="'owl'"):
        check_judges([str(tmp_path / "last")], ClassList(("cat", "dog", "owl")))


def test_a_student_of_data_without_names_says_so(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"image_size": 16, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    numbers = Architecture(name="small_cnn", class_names=tuple("0123456789"), named=False, **sizes)
    save_student(make_student(numbers), tmp_path / "numbers")
    save_student(make_student(replace(numbers, named=True)), tmp_path / "digits")
    assert check_judges([str(tmp_path / "numbers")], CIFAR10)[0].endswith("nothing names them on both sides")
    with pytest.raises(ClassMismatch, match="none is in both"):
        check_judges([str(tmp_path / "digits")], CIFAR10)


def test_an_answer_that_is_not_finite_is_none(tmp_path: Path) -> None:
    architecture = Architecture(
        name="small_cnn", class_names=("dog", "cat"), image_size=16, mean=(0.5,) * 3, std=(0.5,) * 3
    )
    student = make_student(architecture)
    with torch.no_grad():
        student.network.head.bias[1] = torch.nan
    save_student(student, tmp_path / "last")
    (judge,) = load_judges([str(tmp_path / "last")], ClassList(("cat", "dog")))
    assert judge.predict(np.zeros((2, 16, 16, 3), np.uint8)).tolist() == [NO_ANSWER, NO_ANSWER]
