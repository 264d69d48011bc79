"""Parts of a calibration: whole or not there, in their order, read one array at a time."""

from pathlib import Path

import numpy as np
import pytest

from clarep_ray.data.parts import Parts


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
