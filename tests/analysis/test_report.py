"""What the table of an extraction says beside its numbers."""

import numpy as np
import pytest

from clarep_ray.analysis.judges import accuracy_on_originals, judge, originals_of
from clarep_ray.analysis.report import summary_table
from clarep_ray.cluster.publish import about_the_norm
from clarep_ray.config import DigitsConfig

BLIND = {"nmi/canonical": 0.955, "nmi/original": 0.95, "nmi_chance": 0.2}


def test_an_nmi_that_the_label_can_explain_says_so() -> None:
    text = summary_table(BLIND)
    assert "the label is an input of the network and can explain it by itself" in text
    assert "| picture | NMI, with label |" in text
    assert "can explain it by itself" not in summary_table(
        BLIND | {"nmi_null/canonical": 0.3, "nmi_null/original": 0.2}
    )


def test_one_image_a_class_gives_a_sentence_and_no_empty_table() -> None:
    assert summary_table({"mean_round_trip_error": 0.1}) == (
        "no NMI: it needs two classes or more, and more images than classes"
    )
    judged = summary_table({"judge/canonical/class_kept": 0.9})
    assert "| canonical | 0.900 |" in judged
    assert "no NMI" in judged


def test_what_judges_read_stands_beside_what_they_read_in_the_inputs() -> None:
    text = summary_table(BLIND | {"judge/canonical/class_kept": 0.4, "judge_on_inputs/digit": 0.38})
    assert "the judges on the inputs themselves: digit 0.380" in text
    assert "read the class of 38.0% of the inputs themselves; the judges are the problem" in summary_table(
        BLIND | {"gate/class_read_in_inputs": 0.38}
    )


def test_an_image_that_is_not_finite_keeps_nothing() -> None:
    """It is stored as black, in which the judges read something all the same."""
    originals = originals_of(DigitsConfig(split="test", count=40, seed=1), list(range(40)))
    images = np.stack([picture.image for picture in originals])
    whole = judge(images, originals)
    valid = np.arange(40) >= 10
    assert accuracy_on_originals(originals) == {"digit": whole.class_kept, "background": whole.background_kept}
    some = judge(np.where(valid[:, None, None, None], images, 0).astype(np.uint8), originals, valid)
    assert some.class_kept <= 0.75
    assert some.background_kept <= 0.75


@pytest.mark.parametrize(("ratio", "powerless"), [(0.992, True), (0.96, True), (0.9, False)])
def test_controls_of_a_norm_that_hardly_changes_say_that_they_have_no_power(ratio: float, powerless: bool) -> None:
    text = about_the_norm([ratio, ratio])
    assert f"{ratio:.3f} in the mean" in text
    assert ("have no power" in text) == powerless
