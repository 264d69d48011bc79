"""Names of files and classes cannot write on a terminal, break a line or a figure, or fill a log."""

from pathlib import Path

import pytest

from clarep_ray import cli
from clarep_ray.data.records import printable, shown

NAMES = ["a\x1b[31mb", "a\nb", "a\r\x08b", "a\u202eb", "a\x9b2J", "a\ud800b", "\x1b]0;title\x07", "x" * 5000]


@pytest.mark.parametrize("name", NAMES)
def test_names_are_shown_on_one_line_and_cut(name: str) -> None:
    assert shown(name).isprintable()
    assert len(shown(name)) <= 200
    assert printable("Grüße, 数字 ☃") == "Grüße, 数字 ☃"


def test_a_job_says_names_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit), cli.exit_codes():
        raise ValueError("data.path: a\x1b[2J\nb is not a folder")
    assert capsys.readouterr().err == "error: data.path: a\\x1b[2J\\nb is not a folder\n"


def test_class_names_with_mathematics_and_control_characters_are_drawn(tmp_path: Path) -> None:
    """matplotlib reads `$` as mathematics, and ends in an error where that is none."""
    import numpy as np

    from clarep_ray.analysis.calibration_figures import picture_sheet

    images = np.zeros((4, 8, 8, 3), np.uint8)
    arrays = {"labels": np.array([0, 0, 1, 1]), "a": images}
    figure = picture_sheet(arrays, {"a": "a"}, ["$\\frac$", "\x1b[2J\n$"])
    figure.savefig(tmp_path / "sheet.png")


def test_verify_says_names_escaped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from clarep_ray.data import verify
    from jobs.verify import main

    monkeypatch.setattr("sys.argv", ["verify.py", str(tmp_path)])
    monkeypatch.setattr(verify, "verify", lambda folder: [verify.Damage(None, "shards/\x1b[2J\nx belongs to no unit")])
    with pytest.raises(SystemExit):
        main()
    assert capsys.readouterr().out.splitlines()[0] == "damaged: shards/\\x1b[2J\\nx belongs to no unit"
