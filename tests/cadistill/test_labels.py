"""What a training reads meets its training set's classes by meaning: teachers, validation sets, the student itself."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from clarep_ray.cadistill import inputs
from clarep_ray.cadistill.diffusion_teacher import DiffusionTeacher
from clarep_ray.cadistill.inputs import architecture, open_teacher
from clarep_ray.cadistill.teachers import Teacher
from clarep_ray.config import DataConfig
from clarep_ray.data.class_list import ClassList, ClassMismatch
from clarep_ray.data.picture_rows import open_pictures
from clarep_ray.data.spurious_digits import CLASS_NAMES
from clarep_ray.data.views import View
from clarep_ray.models import build_tiny
from clarep_ray.models.students import Architecture, make_student, save_student
from tests.cadistill.small import HALF, small_config

DIGITS = ClassList(CLASS_NAMES)

VIEW = View(image_size=8, resize=8)


def teacher(files: Path, folder: Path, names: tuple[str, ...], classes: ClassList, method: str = "kd") -> Teacher:
    """Return the teacher that a training of some classes opens, of a student whose labels have these names."""
    save_student(
        make_student(Architecture(name="small_cnn", class_names=names, image_size=16, mean=HALF, std=HALF), 9), folder
    )
    found = open_teacher(small_config(files, method, teacher__network=str(folder)), classes)
    assert isinstance(found, Teacher)
    return found


@pytest.mark.parametrize("method", ["kd", "dkd"])
def test_a_teachers_logits_are_those_of_the_data(files: Path, tmp_path: Path, method: str) -> None:
    pixels = torch.rand(3, 3, 16, 16)
    plain = teacher(files, tmp_path / "a", CLASS_NAMES, DIGITS, method).read(pixels).logits
    turned = teacher(files, tmp_path / "b", CLASS_NAMES[::-1], DIGITS, method)  # the same weights, other names
    assert torch.equal(turned.read(pixels).logits, plain.flip(1))
    assert turned.match is not None
    assert "another order" in turned.match.describe()
    some = teacher(files, tmp_path / "c", CLASS_NAMES, ClassList(("7", "3")), method)
    assert torch.equal(some.read(pixels).logits, plain[:, [7, 3]])


def test_a_teacher_of_other_classes_is_refused_where_its_logits_are_used(files: Path, tmp_path: Path) -> None:
    with pytest.raises(ClassMismatch, match=r"data has the classes '0', .* teacher\.network .* none is in both"):
        teacher(files, tmp_path / "a", tuple("abcdefghij"), DIGITS)
    with pytest.raises(ClassMismatch, match=r"teacher\.network .* lacks 1 classes of the data, first: '9'"):
        teacher(files, tmp_path / "b", (*CLASS_NAMES[:9], "x"), DIGITS)
    assert teacher(files, tmp_path / "c", tuple("abc"), DIGITS, "class_token").match is None  # its features alone


def test_a_diffusion_teacher_is_read_with_its_own_numbers(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = build_tiny("digits_dit")
    monkeypatch.setattr("clarep_ray.cadistill.inputs.build", lambda config, field: model)
    config = small_config(files, "fitnet", teacher__source="diffusion", teacher__reading__layer=model.feature_layers[0])
    found = open_teacher(config, ClassList(("7", "3")))
    assert isinstance(found, DiffusionTeacher)
    asked: list[list[int]] = []
    cond = model.cond
    monkeypatch.setattr(model, "cond", lambda labels: asked.append(labels.tolist()) or cond(labels))
    found.read(torch.rand(3, 3, 8, 8), torch.tensor([0, 1, 0]), torch.randn(3, 3, 8, 8))
    assert asked == [[7, 3, 7]]
    with pytest.raises(ClassMismatch, match=r"teacher\.diffusion has '0', '1', '2'"):
        open_teacher(config, ClassList(("cat", "dog")))
    without = small_config(files, "repfusion", teacher__reading__layer=model.feature_layers[0])
    assert isinstance(open_teacher(without, ClassList(("cat", "dog"))), DiffusionTeacher)  # read without labels


def pictures(root: Path, *folders: str) -> DataConfig:
    for folder in folders:
        (root / folder).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(root / folder / "0.png")
    return DataConfig(source="image_folder", path=str(root))


def test_validation_pictures_have_the_training_sets_labels(tmp_path: Path) -> None:
    train = open_pictures(pictures(tmp_path / "train", "tench", "goldfish", "hen"), VIEW)
    assert train.class_names == ("goldfish", "hen", "tench")
    val = open_pictures(pictures(tmp_path / "val", "n01440764", "n01443537"), VIEW, train.classes, "val")
    assert dict(zip(val.keys, val.labels.tolist(), strict=True)) == {
        key: {"n01440764": 2, "n01443537": 0}[key[:9]] for key in val.keys
    }
    with pytest.raises(ValueError, match=r"val: .* has the unknown class 'unicorn'"):
        open_pictures(pictures(tmp_path / "more", "tench", "unicorn"), VIEW, train.classes, "val")
    with pytest.raises(ClassMismatch, match="none is in both"):
        open_pictures(pictures(tmp_path / "other", "bus", "tram"), VIEW, train.classes, "val")


def test_a_student_of_numbers_says_that_they_are_no_names(tmp_path: Path, files: Path) -> None:
    numbers = open_pictures(pictures(tmp_path / "numbers", *map(str, range(11))), VIEW)
    assert [int(row.id.partition("/")[0]) for row in numbers.rows] == numbers.labels.tolist()  # 10 is label 10, not 2
    config = small_config(files)
    assert architecture(config, numbers.classes).classes == ClassList.of_count(11)
    assert architecture(config, DIGITS).named


def test_what_is_matched_by_number_is_said(files: Path) -> None:
    opened = inputs.open_inputs(small_config(files, "cadistill"))
    assert opened.labels == (
        "val: 10 of 10 classes matched by name",
        "CLAReps: 10 of 10 classes matched by name",
    )
