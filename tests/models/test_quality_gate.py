"""The quality gate: what it judges, what it tries in which order, and that it leaves good samples alone."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from clarep_ray import dotted
from clarep_ray.cluster.plan import make_plan
from clarep_ray.config import ExtractConfig
from clarep_ray.data.spurious_digits import SpuriousDigits
from clarep_ray.data.units import SPECTRUM_ARRAYS
from clarep_ray.models.answers import NO_ANSWER
from clarep_ray.models.extractor import UnitExtractor
from clarep_ray.models.quality_gate import QualityGate, artefact_score
from clarep_ray.presets import EXTRACT

GRID = torch.tensor([0.0, 100, 200, 300, 400, 500, 600, 700, 800])


def config(**changes: Any) -> ExtractConfig:
    return dotted.override(ExtractConfig(), {"gate.enabled": True, **changes})


class GreyLevel:
    """Reads the class of a picture from its first pixel."""

    def predict(self, images: np.ndarray) -> np.ndarray:
        return images[:, 0, 0, 0].astype(np.int64)


class StubRun:
    """Samples of one grey level, by key and try; notes what it was asked for."""

    def __init__(self, levels: dict[str, list[int]], margins: dict[str, float] | None = None) -> None:
        self.levels, self.margins = levels, margins or {}
        self.calls: list[tuple[float, float, tuple[str, ...], bool]] = []

    def __call__(
        self,
        settings: ExtractConfig,
        images: np.ndarray,
        labels: Sequence[int],
        keys: Sequence[str],
        resumed: Mapping[str, np.ndarray] | None,
    ) -> tuple[dict[str, np.ndarray], list[dict[str, Any]]]:
        turn, count = len(self.calls), len(keys)
        self.calls.append((settings.elbow.share, settings.inversion.project_t, tuple(keys), resumed is not None))
        levels = [self.levels[key][turn] if turn < len(self.levels[key]) else self.levels[key][-1] for key in keys]
        arrays = {name: np.full((count, 2), float(turn)) for name in SPECTRUM_ARRAYS}
        arrays["round_trip_error"] = np.full(count, 0.1)
        arrays["elbow_margin"] = np.array([self.margins.get(key, 1.0) for key in keys])
        arrays["samples"] = np.stack([np.full((4, 4, 3), level, np.uint8) for level in levels])
        reasons = [None if level < 200 else "nonfinite_decoding" for level in levels]
        return arrays, [
            {"status": "rejected" if reason else "ok", "reason": reason, "elbow_method": f"turn{turn}"}
            for reason in reasons
        ]


def gated(run: StubRun, settings: ExtractConfig | None = None) -> tuple[dict[str, np.ndarray], list[dict[str, Any]]]:
    keys = list(run.levels)
    gate = QualityGate(settings or config(), GRID, 10, [GreyLevel()])
    return gate.run(run, np.full((len(keys), 4, 4, 3), 100, np.uint8), [3] * len(keys), keys, None)


def test_remedies_go_from_fewer_directions_to_less_noise_for_those_that_need_them() -> None:
    run = StubRun(
        {"good": [3], "half": [5, 3], "quarter": [5, 5, 3], "early": [5, 5, 5, 3], "never": [5], "bad": [250]}
    )
    arrays, records = gated(run)
    failing = ("half", "quarter", "early", "never")
    assert run.calls == [
        (1.0, 800.0, ("good", "half", "quarter", "early", "never", "bad"), False),
        (0.5, 800.0, failing, True),
        (0.25, 800.0, failing[1:], True),
        (1.0, 600.0, failing[2:], False),
    ]
    assert [record.get("gate") for record in records] == ["accepted", "retried", "retried", "retried", "flagged", None]
    assert [record.get("gate_remedy") for record in records[1:5]] == [
        "elbow.share 0.5",
        "elbow.share 0.25",
        "inversion.project_t 600",
        "",
    ]
    assert {record["gate_faults"] for record in records[1:5]} == {"class"}
    assert [record["elbow_method"] for record in records] == ["turn0", "turn1", "turn2", "turn3", "turn0", "turn0"]
    assert arrays["samples"][:, 0, 0, 0].tolist() == [3, 3, 3, 3, 5, 250]
    assert arrays["singular_values"][:, 0].tolist() == [0, 1, 2, 3, 0, 0]
    assert not {"x_t", "right_vectors"} & arrays.keys()


def test_a_close_elbow_is_flagged_and_a_bad_inversion_goes_straight_to_less_noise() -> None:
    run = StubRun({"close": [3], "good": [3]}, {"close": 0.001})
    _, records = gated(run, config(**{"gate.min_elbow_margin": 0.01}))
    assert (records[0]["gate"], records[0]["gate_faults"], len(run.calls)) == ("flagged", "elbow", 1)
    run = StubRun({"lost": [3], "too": [3]})
    _, records = gated(run, config(**{"gate.max_round_trip_error": 0.01, "gate.num_earlier": 2}))
    assert [call[:2] for call in run.calls] == [(1.0, 800.0), (1.0, 600.0), (1.0, 400.0)]
    assert records[0]["gate_faults"] == "round_trip"


def test_the_gate_says_whether_its_judges_read_the_inputs() -> None:
    """A judge that does not read the class of the inputs either finds a fault that is its own."""
    gate = QualityGate(config(), GRID, 10, [GreyLevel()])
    run = StubRun({"a": [5], "b": [3]})
    images = np.stack([np.full((4, 4, 3), level, np.uint8) for level in (7, 3)])
    _, records = gate.run(run, images, [3, 3], ["a", "b"], None)
    assert [(record["gate"], record["gate_input_votes"]) for record in records] == [("flagged", 0.0), ("accepted", 1.0)]


def test_a_judge_without_an_answer_does_not_let_class_0_pass() -> None:
    class Silent:
        def predict(self, images: np.ndarray) -> np.ndarray:
            return np.full(len(images), NO_ANSWER)

    gate = QualityGate(config(), GRID, 10, [Silent()])
    _, records = gate.run(StubRun({"a": [0]}), np.full((1, 4, 4, 3), 100, np.uint8), [0], ["a"], None)
    assert (records[0]["gate"], records[0]["gate_faults"]) == ("flagged", "class")


def test_prompts_of_one_class_are_one_class() -> None:
    gate = QualityGate(config(), GRID, 10, [GreyLevel()])
    run = StubRun({"a": [3]})
    _, records = gate.run(run, np.full((1, 4, 4, 3), 100, np.uint8), [23], ["a"], None)
    assert records[0]["gate"] == "accepted"


def test_the_artefact_score_sees_noise_and_clipping_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    smooth = np.broadcast_to(np.linspace(40, 200, 16).astype(np.uint8)[None, :, None, None], (1, 16, 16, 3)).copy()
    noisy = np.clip(smooth.astype(int) + rng.integers(-60, 60, smooth.shape), 1, 254).astype(np.uint8)
    clipped = smooth.copy()
    clipped[:, 8:] = 255
    assert artefact_score(smooth, smooth)[0] == 0
    assert artefact_score(np.full_like(smooth, 90), smooth)[0] == 0  # smoother is no artefact
    assert artefact_score(noisy, smooth)[0] > 1
    assert artefact_score(clipped, smooth)[0] > 0.4
    assert artefact_score(smooth, noisy)[0] == 0


@pytest.mark.nightly
def test_good_samples_are_those_of_a_run_without_a_gate() -> None:
    settings = dotted.override(EXTRACT["digits"]().config, {"decoding.guidance_scale": 1.0, "engine.micro_batch": 4})
    pictures = SpuriousDigits(split="test", count=6, correlation=0.9, seed=0)
    images = np.stack([pictures[number].image for number in range(6)])
    wrong = 2
    labels = [pictures[number].label for number in range(6)]
    keys = [f"key{number}" for number in range(6)]
    extractor = UnitExtractor(dotted.override(settings, {"gate.enabled": True}))

    class OneWrong:
        """Takes the first try's sample for another class."""

        def predict(self, made: np.ndarray) -> np.ndarray:
            if len(made) == 1:
                return np.array([labels[wrong]])
            return np.array([-1 if number == wrong else label for number, label in enumerate(labels)])

    plain, _ = extractor.configured(settings).run(images, labels, keys)
    extractor.classifiers = [OneWrong()]
    arrays, records = extractor.run(images, labels, keys)
    assert plain.keys() == arrays.keys()
    others = [number for number in range(6) if number != wrong]
    for name, array in plain.items():
        np.testing.assert_array_equal(arrays[name][others], array[others], err_msg=name)
    assert [record["gate"] for record in records] == ["accepted"] * 2 + ["retried"] + ["accepted"] * 3
    halved, _ = extractor.configured(dotted.override(settings, {"elbow.share": 0.5})).run(images, labels, keys)
    np.testing.assert_array_equal(arrays["samples"][wrong], halved["samples"][wrong])
    assert arrays["num_removed"][wrong] == max(1, round(plain["num_removed"][wrong] / 2))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gate.min_votes": 1.5}, r"gate\.min_votes: 1\.5 is not valid; valid: 0 to 1"),
        ({"gate.num_fewer": -1}, r"gate\.num_fewer: -1 is not valid"),
        ({"output.keep_spectrum": True}, r"gate\.num_earlier: 1 is not valid; valid: 0 where output\.keep_spectrum"),
        ({"output.extras": ("other_image@1",)}, r"gate\.enabled: True is not valid; valid: off where a control takes"),
        ({"output.what": "features"}, r"gate\.enabled: True is not valid; valid: off where output\.what is features"),
        ({"elbow.share": 0.0}, r"elbow\.share: 0\.0 is not valid; valid: more than 0, at most 1"),
    ],
)
def test_what_a_gate_cannot_do_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**changes)


def test_the_judges_belong_to_the_run_by_content_and_are_checked_at_the_start(tmp_path: Any) -> None:
    on, off = (
        make_plan(
            dotted.override(
                EXTRACT["digits"]().config,
                {"gate.enabled": enabled, "data.digits.count": 4, "output.path": str(tmp_path / "out")},
            )
        )
        for enabled in (True, False)
    )
    assert off.fields["gate_classifiers_sha256"] is None
    assert len(on.fields["gate_classifiers_sha256"]) == 64
    with pytest.raises(ValueError, match="classifiers: '/nowhere' has no config"):
        make_plan(dotted.override(on.config, {"gate.classifiers": ("/nowhere",)}))
