"""Paired differences against scipy and by hand."""

import pytest
from scipy import stats

from clarep_ray.analysis.paired import difference_table, holm, paired_difference
from clarep_ray.analysis.tables import SeedTable

FIRST, SECOND = (0.9, 0.8, 0.85, 0.7), (0.85, 0.82, 0.8, 0.6)


def test_a_difference_is_tested_in_pairs() -> None:
    found = paired_difference(FIRST, SECOND)
    assert found.mean == pytest.approx(0.045)
    assert found.error == pytest.approx(0.0246644, rel=1e-5)
    assert found.p == pytest.approx(stats.ttest_1samp([0.05, -0.02, 0.05, 0.1], 0).pvalue)
    assert str(found) == f"+0.045 +- 0.025 (p {found.p:.3f})"
    assert paired_difference(FIRST, FIRST).p == 1
    for short in (((0.1,), (0.2,)), ((0.1, 0.2), (0.1,))):
        with pytest.raises(ValueError):
            paired_difference(*short)


def test_holm_multiplies_the_smallest_most_and_never_turns_the_order() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_a_missing_value_is_no_test_and_takes_nothing_from_the_others() -> None:
    """Python's min(1.0, NaN) is 1.0: a p that looks like a finding of no difference."""
    first, missing, third = holm([0.01, float("nan"), 0.03])
    assert (first, third) == pytest.approx((0.02, 0.03))
    assert missing != missing
    assert str(paired_difference((0.5, float("nan")), (0.5, 0.6))) == "-"


def test_a_table_has_every_row_but_the_reference() -> None:
    values = {"vanilla": {"clean": SECOND}, "a": {"clean": FIRST}, "b": {"clean": SECOND}}
    lines = difference_table(SeedTable("t", ("clean",), values), "vanilla").splitlines()
    assert lines[0] == "| minus vanilla | clean |"
    assert lines[3] == "| b | +0.000 +- 0.000 (p 1.000) |"
    assert len(lines) == 4
