"""From an extraction with its side-car to a page with a slider: steps through the engine's own stages."""

import sys
from pathlib import Path

import numpy as np
import pytest

from clarep_ray.analysis.outputs import ExtractionOutput
from clarep_ray.cluster.extract import run_extraction
from clarep_ray.cluster.report import write_report
from clarep_ray.config import ReportConfig
from clarep_ray.data.verify import verify
from jobs import report as job
from tests.cluster.reference import given, small_config

pytestmark = pytest.mark.usefixtures("without_ray")
MOST = 4
"""Window M of `small_config`."""


@pytest.fixture
def extraction(tmp_path: Path, weights: Path, images: Path, without_ray: None) -> Path:
    folder = tmp_path / "out"
    how = {"output__keep_spectrum": True, "output__extras": ("original",), "data__limit": 9}
    run_extraction(small_config(weights, images, folder, **how), lambda _: None)
    return folder


def test_steps_have_the_same_k_for_every_sample_and_nothing_else_differs(
    extraction: Path, weights: Path, images: Path
) -> None:
    own, said = ExtractionOutput(extraction), list[str]()
    chosen = np.array(own.index["num_removed"].to_pylist())
    usual = int(np.bincount(chosen).argmax())
    page = write_report(
        ReportConfig(folder=extraction, k_steps=(0, usual, MOST), given=given(weights, images)), said.append
    )
    assert page == extraction / "report.html"
    assert [line for line in said if "decoding" in line] == [
        f"k = {k}: decoding into {extraction / 'k_steps' / f'{k:04d}'}" for k in dict.fromkeys((0, usual, MOST))
    ]
    assert verify(extraction) == []
    steps = {k: ExtractionOutput(extraction / "k_steps" / f"{k:04d}") for k in (0, usual, MOST)}
    assert steps[0].what == "unprojected"
    assert {k: set(steps[k].index["num_removed"].to_pylist()) for k in (usual, MOST)} == {usual: {usual}, MOST: {MOST}}
    same = chosen == usual
    np.testing.assert_array_equal(steps[usual].pictures()[same], own.pictures()[same])
    assert (steps[0].pictures() != steps[MOST].pictures()).any()


def test_finished_steps_are_taken_as_they_are(extraction: Path, weights: Path, images: Path) -> None:
    told = given(weights, images)
    with pytest.raises(ValueError, match=rf"add: --model\.weights {weights} --data\.path {images}$"):
        write_report(ReportConfig(folder=extraction, k_steps=(2,)))
    write_report(ReportConfig(folder=extraction, k_steps=(2,), given=told), lambda _: None)
    said: list[str] = []
    page = write_report(ReportConfig(folder=extraction, k_steps=(2, 3), given=told), said.append)
    assert [line for line in said if "decoding" in line] == [f"k = 3: decoding into {extraction / 'k_steps' / '0003'}"]
    assert '"steps":[2,3]' in page.read_text()
    write_report(ReportConfig(folder=extraction, k_steps=(2, 3)), said.append)  # nothing is decoded: nothing to give
    without = write_report(ReportConfig(folder=extraction), said.append)
    assert '"steps":[2,3]' in without.read_text()


def test_wrong_wishes_are_refused_before_anything_is_decoded(
    extraction: Path, tmp_path: Path, weights: Path, images: Path
) -> None:
    refused = {
        r"k_steps: 5 is not valid; valid: 0 to 4": {"k_steps": (1, 5)},
        r"k_steps: -1 is not valid": {"k_steps": (-1,)},
        r"--calibration: .* is no calibration\.json": {"k_steps": (1,), "calibration": tmp_path / "none.json"},
    }
    for message, wish in refused.items():
        with pytest.raises(ValueError, match=message):
            write_report(ReportConfig(folder=extraction, **wish, given=given(weights, images)))
    bare = tmp_path / "bare"
    run_extraction(small_config(weights, images, bare, data__limit=4), lambda _: None)
    with pytest.raises(ValueError, match=r"output\.keep_spectrum: False is not valid; valid: an output of --output"):
        write_report(ReportConfig(folder=bare, k_steps=(1,), given=given(weights, images)))
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "sweep.json").write_text("{}")
    with pytest.raises(ValueError, match=r"k_steps: \(1,\) is not valid; valid: none: .* is a sweep"):
        write_report(ReportConfig(folder=tmp_path / "sweep", k_steps=(1,)))
    assert not list(tmp_path.rglob("k_steps"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "no extraction was finished there"),
        (["--max-samples", "0"], "max_samples: 0 is not valid; valid: 1 or more"),
        (["--max-mb", "0"], "max_mb: 0.0 is not valid; valid: more than 0"),
    ],
)
def test_the_job_ends_with_one_line_and_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["report.py", str(tmp_path), *flags])
    with pytest.raises(SystemExit) as left:
        job.main()
    assert left.value.code == 2
    assert message in capsys.readouterr().err
