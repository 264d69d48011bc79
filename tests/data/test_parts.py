"""Parts of a calibration: whole or not there, in their order, read one array at a time."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from clarep_ray.data.parts import Parts
from clarep_ray.data.sealed import DamagedPart
from clarep_ray.data.verdicts import VerdictParts

FINDING = {"name": "sane", "passed": True, "severity": "warn", "numbers": {"share": 0.25, "none": None}, "meaning": ""}


def test_columns_follow_the_numbers_of_their_parts(tmp_path: Path) -> None:
    parts = Parts(tmp_path / "parts")
    for number in (1, 0, 12):
        parts.write("cell-a.3-600", number, {"x/label": np.full((2, 3), number), "labels": np.array([number])})
    parts.write("cell-a.3-60", 0, {"labels": np.array([99])})
    assert parts.column("cell-a.3-600", "labels").tolist() == [0, 1, 12]
    assert parts.column("cell-a.3-600", "x/label")[:, 0].tolist() == [0, 0, 1, 1, 12, 12]
    assert sorted(parts.names("cell-a.3-600")) == ["labels", "x/label"]
    number, arrays = parts.first("cell-a.3-60")
    assert (number, arrays["labels"].tolist()) == (0, [99])
    assert parts.has("cell-a.3-600", 12)
    assert not parts.has("cell-a.3-600", 2)
    with pytest.raises(ValueError, match="no part of 'two_stage'"):
        parts.column("two_stage", "labels")


def test_an_interrupted_write_leaves_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = Parts(tmp_path)

    def die(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", die)
    with pytest.raises(KeyboardInterrupt):
        parts.write("features", 0, {"labels": np.array([1])})
    assert not parts.has("features", 0)
    monkeypatch.undo()
    parts.write("features", 0, {"labels": np.array([1])})
    assert parts.column("features", "labels").tolist() == [1]  # the remains of the first are no part


def every_flip_and_cut(path: Path) -> Iterator[None]:
    """Flip a bit of every byte in turn, then cut the file everywhere; it is as it was in the end."""
    data = path.read_bytes()
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1 << place % 8]) + data[place + 1 :])
        yield
    for length in range(len(data)):
        path.write_bytes(data[:length])
        yield
    path.write_bytes(data)


def test_a_damaged_part_of_a_calibration_is_never_taken_for_another_result(tmp_path: Path) -> None:
    parts = Parts(tmp_path)
    parts.write("features", 0, {"labels": np.arange(5), "x": np.linspace(0, 1, 6).reshape(2, 3)})
    _, arrays = parts.first("features")
    noticed = 0
    for _ in every_flip_and_cut(tmp_path / "parts" / "features.00000.safetensors"):
        try:
            _, found = parts.first("features")
        except DamagedPart as error:
            noticed += "delete it and run the same command again" in str(error)
            continue
        assert all(np.array_equal(found[name], arrays[name]) for name in arrays), "a bit that says nothing"
    assert noticed > 0.95 * 2 * (tmp_path / "parts" / "features.00000.safetensors").stat().st_size


def test_damaged_verdicts_and_findings_are_never_taken_for_other_results(tmp_path: Path) -> None:
    parts = VerdictParts(tmp_path)
    columns = {"key": ["a", "b"], "label": [0, 1], "right": [True, None], "linf_255": [float("nan"), 8.0]}
    parts.write_verdicts("clean", columns)
    parts.write_findings("trust", [FINDING])
    table, findings = parts.verdicts(["clean"]), parts.findings("trust")
    readers = {
        "clean.verdicts": lambda: parts.verdicts(["clean"]).to_pylist()[1],
        "trust.json": lambda: parts.findings("trust"),
    }
    for name, read in readers.items():
        wanted, noticed = read(), 0
        for _ in every_flip_and_cut(tmp_path / "parts" / name):
            try:
                assert read() == wanted, "a bit that says nothing"
            except DamagedPart:
                noticed += 1
        assert noticed > 0.8 * 2 * (tmp_path / "parts" / name).stat().st_size
    assert str(parts.verdicts(["clean"]).to_pydict()) == str(table.to_pydict())
    assert parts.findings("trust") == findings == [FINDING]
