"""Hostile settings and lists: every reader of JSON and text ends with one line and exit code 2 or 7."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clarep_ray import cli
from clarep_ray.data.selection import read_class_files
from clarep_ray.data.store import RUN, OutputStore
from tests.hostile.settings import CORRUPT

VALID: dict[str, Any] = {
    "version": 1,
    "settings": {"inversion.project_t": 680.0},
    "model": {"name": "digits_dit", "weights_sha256": "0" * 64},
    "fingerprint": "0" * 64,
    "notes": [],
    "curves": {},
}


def calibrated(path: Path) -> None:
    from clarep_ray.presets import EXTRACT

    cli.start_of(EXTRACT, "digits", str(path))


def real(path: Path) -> None:
    from clarep_ray.robustness.benchmarks.imagenet import _read_real

    _read_real(path)


def run_of_another(path: Path) -> None:
    from clarep_ray.cluster.identity import check_same_run

    (path.parent / RUN).write_bytes(path.read_bytes())
    check_same_run({"a": 1}, OutputStore(path.parent), "output.path")


def repaired(path: Path) -> None:
    from clarep_ray.cluster.repair import repair

    (path.parent / RUN).write_bytes(path.read_bytes())
    repair(path.parent, [])


def spectrum(path: Path) -> None:
    from clarep_ray.cluster.plan import _spectrum_fields

    (path.parent / RUN).write_bytes(path.read_bytes())
    _spectrum_fields(OutputStore(path.parent))


def prompts(path: Path) -> None:
    from clarep_ray.config import ModelConfig
    from clarep_ray.models.stable_diffusion import read_prompts

    read_prompts(ModelConfig(name="stable_diffusion", weights="tiny", prompts=str(path)))


JSON: dict[str, Callable[[Path], None]] = {
    "calibration": calibrated,
    "ImageNet-ReaL": real,
    "run.json to continue": run_of_another,
    "run.json to repair": repaired,
    "run.json of a spectrum": spectrum,
    "prompts": prompts,
}


@pytest.mark.parametrize("label", CORRUPT)
@pytest.mark.parametrize("reader", JSON)
def test_corrupt_json_is_one_line_with_exit_code_2_or_7(
    reader: str, label: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "\x1b[2Jred\nline.json"
    path.write_bytes(CORRUPT[label])
    if f"{reader} {label}" in {"prompts control characters"}:
        path.write_text(json.dumps({"\x1b[2J": "a", "b": ["x", "\x07"]}))
    with pytest.raises(SystemExit) as ended, cli.exit_codes():
        JSON[reader](path)
    said = capsys.readouterr().err
    assert ended.value.code in (2, 7)
    assert said.startswith("error: ")
    assert said[:-1].isprintable(), said
    assert len(said) < 1500


@pytest.mark.parametrize(
    "change",
    [
        {"settings": {"inversion.project_t": "680; touch canary"}},
        {"settings": {"inversion.project_t": float("nan")}},
        {"settings": {"inversion.num_steps": 10**30}},
        {"settings": {"inversion.num_steps": True}},
        {"settings": {"output.path": "/etc"}},
        {"settings": {"tracking.uri": "http://evil.example"}},
        {"settings": {"\x1b[2J": 1}},
        {"settings": {"spectrum.layer": ["a"]}},
        {"settings": []},
        {"model": "digits_dit"},
        {"model": {}},
        {"version": 2},
        {"version": "1"},
    ],
)
def test_a_calibration_may_set_what_it_calibrates_and_nothing_else(change: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps(VALID))
    calibrated(path)
    path.write_text(json.dumps(VALID | change))
    with pytest.raises(ValueError, match=r"valid|calibration") as raised:
        calibrated(path)
    assert str(raised.value).isprintable()


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "huge", "not UTF-8", "empty", "missing"])
def test_lists_of_classes_and_labels_are_plain_files(kind: str, tmp_path: Path) -> None:
    from clarep_ray.data.sources.image_labels import read_image_labels

    path = tmp_path / "list.csv"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "huge":
        path.touch()
        os.truncate(path, 2**40)
    elif kind != "missing":
        path.write_bytes(b"\xff\xfe" if kind == "not UTF-8" else b"# nothing\n")
    with pytest.raises(ValueError, match=r"^data\.classes: '@.*list\.csv"):
        read_class_files([f"@{path}"])
    with pytest.raises(ValueError, match=r"^data\.labels_file: "):
        read_image_labels(str(path))
