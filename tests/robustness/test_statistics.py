"""Intervals and tests against SciPy; tables in the paper's shapes."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from clarep_ray.robustness.statistics import Figure, ResultTable, class_report, mcnemar, paper_table, wilson_interval


@pytest.mark.parametrize(("num_correct", "count"), [(0, 10), (10, 10), (7, 20), (12_345, 50_000)])
def test_intervals_are_wilsons(num_correct: int, count: int) -> None:
    found = wilson_interval(num_correct, count)
    expected = binomtest(num_correct, count).proportion_ci(0.95, method="wilson")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize(("only_first", "only_second", "both"), [(0, 0, 5), (3, 3, 1), (1, 9, 40), (700, 900, 10)])
def test_paired_tests_are_exact(only_first: int, only_second: int, both: int) -> None:
    first = np.array([True] * (only_first + both) + [False] * only_second)
    second = np.array([False] * only_first + [True] * (both + only_second))
    found = mcnemar(first, second)
    assert (found.only_first, found.only_second) == (only_first, only_second)
    assert found.difference == pytest.approx(first.mean() - second.mean())
    count = only_first + only_second
    expected = binomtest(only_first, count).pvalue if count else 1.0
    assert found.p_value == pytest.approx(expected, rel=1e-9)


def test_bad_counts_are_named() -> None:
    with pytest.raises(ValueError, match="num_correct: 3 of 2 is not valid"):
        wilson_interval(3, 2)
    with pytest.raises(ValueError, match=r"confidence: 95\.0 is not valid"):
        wilson_interval(1, 2, 95.0)
    with pytest.raises(ValueError, match="valid: two of one length"):
        mcnemar(np.array([True]), np.array([True, False]))
    with pytest.raises(ValueError, match="2, 1 and 2 entries are not valid"):
        class_report(np.array([0, 1]), np.array([True]), np.array([True, True]))


def test_class_report_has_each_class_that_is_there() -> None:
    labels = np.array([4, 4, 1, 4])
    report = class_report(labels, np.array([True, True, False, False]), np.array([True, False, False, False]))
    assert [(entry.label, entry.clean.accuracy, entry.robust.accuracy) for entry in report] == [
        (1, 0.0, 0.0),
        (4, pytest.approx(2 / 3), pytest.approx(1 / 3)),
    ]
    assert report[1].clean.count == 3


def test_tables_have_the_papers_columns() -> None:
    figures = {
        "Vanilla": {
            "imagenet/clean": Figure([0.759], 100),
            "imagenet/pgd": Figure([0.155, 0.157], 100, clean=0.759),
            "imagenet_c/top1": Figure([0.459], 7500),
        },
        "CaDistill": {"imagenet/clean": Figure([0.759], 100)},
    }
    table = paper_table("table_1_imagenet", figures)
    header, _, vanilla, cadistill = table.markdown().splitlines()
    assert header == "| table_1_imagenet | Clean | PGD | CW | APGD-DLR | APGD-CE | IM-C | IM-A | IM-ReaL |"
    assert vanilla == "| Vanilla | 75.9 (100) | 15.6 +- 0.14 (100) | - | - | - | 45.9 (7500) | - | - |"
    assert cadistill.startswith("| CaDistill | 75.9 (100) | - |")
    assert "Vanilla,PGD,1,15.7,100" in table.csv()
    assert paper_table("table_2", {}).columns == ("Original", "BG-Same", "BG-Rand", "Only-FG")
    assert paper_table("table_10", {}).columns == ("Clean", "Square")
    with pytest.raises(ValueError, match="table: 'table_3' is unknown; valid: table_1_imagenet"):
        paper_table("table_3", {})


def test_clean_stands_over_the_images_of_the_attack_beside_it() -> None:
    """Clean 15.0 of 240 images beside PGD 23.3 of 30 would read as if an attack made a classifier better."""
    few = {"imagenet/clean": Figure([0.15], 240), "imagenet/square": Figure([0.233], 30, clean=0.267)}
    assert paper_table("table_10", {"m": few}).markdown().splitlines()[2] == "| m | 26.7 (30) | 23.3 (30) |"
    mixed = {
        "imagenet/clean": Figure([0.15], 240),
        "imagenet/pgd": Figure([0.1], 240, clean=0.15),
        "imagenet/cw": Figure([0.233], 30, clean=0.267),
        "imagenet/apgd_ce": Figure([0.2], 30, clean=0.267),
    }
    table = paper_table("table_1_imagenet", {"m": mixed})
    assert table.columns[:4] == ("Clean", "PGD", "Clean for CW, APGD-CE", "CW")
    assert table.markdown().splitlines()[2].startswith("| m | 15.0 (240) | 10.0 (240) | 26.7 (30) | 23.3 (30) | - | 20")


def test_a_slice_of_which_nothing_could_be_read_has_no_figure() -> None:
    table = ResultTable("t", ("clean",), {"m": {"clean": Figure([math.nan], 0)}})
    assert table.markdown().splitlines()[2] == "| m | - |"
    assert table.csv().splitlines()[1] == "m,clean,0,,0"
