"""How two lists of classes meet: right, or refused."""

import pytest

from clarep_ray.data.cifar10 import CIFAR10_NAMES
from clarep_ray.data.class_list import (
    UNKNOWN,
    ClassList,
    ClassMismatch,
    display_name,
    imagenet_wnids,
    match,
    match_all,
)

CIFAR10 = ClassList(CIFAR10_NAMES)
DIGITS = ClassList(tuple(map(str, range(10))))
IMAGENET = ClassList(imagenet_wnids())


def labels(theirs: ClassList, ours: ClassList) -> tuple[int, ...]:
    return match(theirs, ours, "the data", "the model").labels


@pytest.mark.parametrize(
    ("theirs", "ours", "expected", "by"),
    [
        (ClassList(("dog", "cat")), ClassList(("cat", "dog")), (1, 0), "name"),
        (ClassList(("dog", "cat")), CIFAR10, (5, 3), "name"),
        (ClassList(("cat", "unicorn")), CIFAR10, (3, UNKNOWN), "name"),
        (ClassList(("Plane", "car")), CIFAR10, (0, 1), "name"),
        (ClassList(("3", "7"), named=False), DIGITS, (3, 7), "number"),
        (ClassList.of_names(["3", "7"]), DIGITS, (3, 7), "name"),
        (ClassList(("3", "7"), named=False), CIFAR10, (3, 7), "number"),
        (ClassList.of_folders(["000", "001", "010"]), IMAGENET, (0, 1, 10), "number"),
        (ClassList.of_folders(map(str, range(12))), ClassList.of_count(12), tuple(range(12)), "number"),
        (ClassList(("cat", "dog")), ClassList.of_count(2), (0, 1), "number"),
        (ClassList(("tench, Tinca tinca", "goldfish")), IMAGENET, (0, 1), "name"),
        (ClassList(("n01443537", "n01440764")), ClassList(("Tench", "gold_fish", "goldfish")), (2, 0), "name"),
        (ClassList(("White Shark", "tench")), IMAGENET, (2, 0), "name"),
        (ClassList(("great-white-shark", "tench")), IMAGENET, (2, 0), "name"),
        (ClassList(("cafe\u0301", "bar")), ClassList(("bar", "caf\u00e9")), (1, 0), "name"),
        (DIGITS, ClassList.of_count(10), tuple(range(10)), "number"),
        (ClassList(("3", "7"), named=False), ClassList(("7", "3")), (1, 0), "number"),
        (ClassList(("a", "a", "b")), ClassList(("a", "a", "b")), (0, 1, 2), "name"),
    ],
)
def test_labels_of_two_lists(theirs: ClassList, ours: ClassList, expected: tuple[int, ...], by: str) -> None:
    found = match(theirs, ours, "the data", "the model")
    assert (found.labels, found.by) == (expected, by)


def test_imagenet_by_its_names_in_its_own_order_and_in_another() -> None:
    from timm.data.imagenet_info import ImageNetInfo

    named = ClassList(tuple(ImageNetInfo().label_descriptions()))  # "crane" twice
    assert match_all(named, IMAGENET, "the data", "the model").same
    assert match_all(IMAGENET, named, "the data", "the model").same
    turned = ClassList((*named.names[1:], named.names[0]))
    found = match(turned, IMAGENET, "the data", "the model")
    assert found.missing == ("crane", "crane")  # which of the two nothing says
    assert all(label in (UNKNOWN, (i + 1) % 1000) for i, label in enumerate(found.labels))


def test_imagenet_by_the_names_of_other_libraries() -> None:
    from torchvision.models import ResNet18_Weights

    names = list(ResNet18_Weights.IMAGENET1K_V1.meta["categories"])  # "crane bird", "Cardigan" and "cardigan"
    assert match_all(ClassList(tuple(names)), IMAGENET, "the model", "the data").same
    names[0], names[1] = names[1], names[0]
    assert match(ClassList(tuple(names)), IMAGENET, "the model", "the data").labels[:3] == (1, 0, 2)


def test_a_thousand_classes_without_names_are_imagenets_and_ten_are_nothing() -> None:
    assumed = ClassList.by_convention(1000)
    found = match(ClassList(("tench", "n01443537")), assumed, "the data", "the model")
    assert (found.labels, found.by) == ((0, 1), "name")
    assert "without names" in found.describe()
    assert not ClassList.by_convention(10).named
    with pytest.raises(ClassMismatch, match="names for both"):
        match(ClassList(("cat", "dog")), ClassList.by_convention(10), "the data", "the model")


def test_files_that_give_each_label_its_name() -> None:
    assert ClassList.of_names(["LABEL_0", "LABEL_1"]) == ClassList.of_count(2)
    assert ClassList.of_labels({"1": "dog", "0": "cat"}).names == ("cat", "dog")
    assert ClassList.of_labels({0: "0", 1: "1"}) == ClassList.of_count(2)
    for wrong in ({"0": "cat", "2": "dog"}, {"a": "cat"}, {"0": "cat", 0: "dog"}):
        with pytest.raises(ValueError, match="are not 0 to"):
            ClassList.of_labels(wrong)


def test_what_a_plan_says_of_a_match() -> None:
    turned = match(ClassList(("dog", "bird")), CIFAR10, "the data", "the model")
    assert turned.describe() == "2 of 2 classes matched by name, in another order"
    assert match(ClassList(("cat", "dog")), CIFAR10, "A", "B").describe() == "2 of 2 classes matched by name"
    assert "by number" in match(ClassList.of_count(10), CIFAR10, "A", "B").describe()


@pytest.mark.parametrize(
    ("theirs", "ours", "words"),
    [
        (ClassList(("bus", "tram")), ClassList(("cat", "dog")), "none is in both"),
        (ClassList(("cat", "dog")), DIGITS, "none is in both"),
        (ClassList(("cat", "dog", "cow")), ClassList.of_count(10), "without names"),
        (ClassList.of_folders(map(str, range(1, 11))), CIFAR10, "class number 10"),
        (ClassList(("plane", "airplane")), CIFAR10, "both"),
        (ClassList(("crane", "boat")), IMAGENET, "none is in both"),
    ],
)
def test_contradictions_are_refused(theirs: ClassList, ours: ClassList, words: str) -> None:
    with pytest.raises(ClassMismatch, match=words) as caught:
        match(theirs, ours, "the data", "the model")
    assert len(str(caught.value)) < 400


def test_a_partner_for_every_class() -> None:
    assert match_all(ClassList(("b", "a")), ClassList(("a", "b")), "A", "B").labels == (1, 0)
    with pytest.raises(ClassMismatch, match="'c'"):
        match_all(ClassList(("b", "a", "c")), ClassList(("a", "b")), "A", "B")
    with pytest.raises(ClassMismatch, match="B has 1 classes that A lacks, first: 'a'"):
        match_all(ClassList(("b",)), ClassList(("a", "b")), "A", "B")


def test_folders_that_are_numbers() -> None:
    assert ClassList.of_folders(["10", "2", "0"]).names == ("0", "2", "10")
    assert ClassList.of_folders(["b10", "b2"]).names == ("b10", "b2")
    assert ClassList.of_folders(["1", "2", "x"]).named
    with pytest.raises(ClassMismatch, match="same number"):
        ClassList.of_folders(["1", "01"])


def test_ambiguous_names_are_no_match() -> None:
    both = ClassList(("Cat", "cat", "dog"))
    assert [both.find(name) for name in ("Cat", "cat", "CAT", "dog", "DOG")] == [0, 1, None, 2, 2]
    assert [IMAGENET.find(name) for name in ("crane", "partridge", "boxer")] == [None, 86, 242]
    assert IMAGENET.find("panda") is None


def test_names_for_people() -> None:
    assert display_name("n01440764") == "tench (n01440764)"
    assert [display_name(name) for name in ("cat", "n00000000")] == ["cat", "n00000000"]
    assert str(ClassList(tuple("x" * 5000 for _ in range(9)))).count("x") <= 120
