"""Logits that are no numbers are no answer, wherever logits become answers."""

from pathlib import Path

import numpy as np
import pytest
import torch

from clarep_ray.cadistill.evaluation import accuracy
from clarep_ray.config import BenchmarksConfig, DataConfig, DigitsConfig
from clarep_ray.data.class_list import ClassList
from clarep_ray.models import digit_classifier
from clarep_ray.models.answers import NO_ANSWER, answers_of
from tests.broken_models import broken_timm

BAD = [float("nan"), float("inf"), float("-inf")]


@pytest.mark.parametrize("bad", BAD)
def test_one_such_logit_is_enough(bad: float) -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0], [bad, 3.0, 2.0], [1.0, 3.0, bad], [bad] * 3])
    assert answers_of(logits).tolist() == [1, NO_ANSWER, NO_ANSWER, NO_ANSWER]
    assert NO_ANSWER not in (-1, *range(1000))  # -1 is a label, too: a class that is not known


def test_overflow_of_half_precision_is_no_answer() -> None:
    logits = torch.tensor([[7e4, 1.0], [2.0, 1.0]]).half().float()
    assert answers_of(logits).tolist() == [NO_ANSWER, 0]


def test_the_shipped_judge_says_nothing_with_a_broken_bias() -> None:
    network = digit_classifier.load("digit")
    with torch.no_grad():
        network.head.bias[4] = torch.nan
    images = np.zeros((3, 16, 16, 3), np.uint8)
    assert network.predict(images).tolist() == [NO_ANSWER] * 3


def test_a_timm_judge_says_nothing_with_a_broken_bias(tmp_path: Path) -> None:
    from clarep_ray.models.judges import check_judges, load_judges

    folder = str(broken_timm(tmp_path / "judge"))
    (judge,) = load_judges([folder], ClassList.of_count(10))
    with pytest.raises(ValueError, match=r"classifiers: .*NaN"):
        check_judges([folder], ClassList.of_count(10))
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    assert judge.predict(images).tolist() == [NO_ANSWER] * 3


@pytest.mark.parametrize("bad", BAD)
def test_a_benchmark_counts_it_as_wrong(bad: float) -> None:
    from clarep_ray.robustness.benchmarks import open_benchmark

    benchmark = open_benchmark("spurious_digits", BenchmarksConfig(digits=DigitsConfig(count=4)))
    logits = np.zeros((2, 10), np.float32)
    logits[:, 5] = 1
    logits[1, 0] = bad
    assert benchmark.predict(logits).tolist() == [5, NO_ANSWER]


def test_a_student_is_not_right_by_them() -> None:
    from clarep_ray.data.picture_rows import open_pictures
    from clarep_ray.errors import TrainingDiverged
    from clarep_ray.models.students import Architecture, make_student

    grey = (0.5, 0.5, 0.5)
    names = tuple("0123456789")
    student = make_student(Architecture(name="small_cnn", class_names=names, image_size=16, mean=grey, std=grey), 0)
    pictures = open_pictures(DataConfig(source="spurious_digits", digits=DigitsConfig(count=40)), student.view)
    assert 0 in pictures.labels  # which argmax of NaN would call right
    with torch.no_grad():
        for weight in student.parameters():
            weight.fill_(torch.nan)
    with pytest.raises(TrainingDiverged, match="not one of 40 validation images"):
        accuracy(student, pictures)
