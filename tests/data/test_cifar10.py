"""CIFAR-10's own files: read as they are, and nothing but arrays is unpickled."""

import io
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clarep_ray.config import DataConfig
from clarep_ray.data.cifar10 import read_batch
from clarep_ray.data.selection import expand_classes, select
from clarep_ray.data.sources import open_source
from tests.data import trees


@pytest.mark.parametrize("inside", [True, False])
def test_batches_give_pictures_labels_and_names(tmp_path: Path, inside: bool) -> None:
    trees.cifar10(tmp_path)
    path = tmp_path / "cifar-10-batches-py" if inside else tmp_path
    source = open_source(DataConfig(source="cifar10", path=str(path)), None)
    rows = list(source.rows())
    assert len(rows) == 20
    assert rows[4].id == "data_batch_2/00000"
    stored = pickle.loads((tmp_path / "cifar-10-batches-py" / "data_batch_2").read_bytes())
    assert rows[6].label == stored[b"labels"][2]
    assert rows[6].class_name == source.classes.names[rows[6].label]
    picture = Image.open(io.BytesIO(source.read(rows[6].source, rows[6].offset, 0)), formats=("PNG",))
    planes = stored[b"data"][2].reshape(3, 32, 32)
    np.testing.assert_array_equal(np.asarray(picture), planes.transpose(1, 2, 0))
    test = open_source(DataConfig(source="cifar10", path=str(path), split="test"), None)
    assert {Path(row.source).name for row in test.rows()} == {"test_batch"}
    assert all((path / row.source).is_file() for row in rows)


class _Evil:
    def __reduce__(self):
        return (os.mkdir, (str(Path(os.environ["CLAREP_CANARY"])),))


def test_a_batch_that_would_run_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLAREP_CANARY", str(tmp_path / "canary"))
    (tmp_path / "bad").write_bytes(pickle.dumps({b"data": _Evil()}))
    with pytest.raises(ValueError, match=r"bad' is no CIFAR-10 batch: it asks for posix\.mkdir; only arrays"):
        read_batch(tmp_path / "bad")
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no CIFAR-10 batch"),
        (pickle.dumps([1, 2]), "is no CIFAR-10 batch"),
        (pickle.dumps({b"data": np.zeros((2, 10), np.uint8), b"labels": [1, 2]}), r"uint8 \(2, 10\); valid: uint8"),
    ],
)
def test_damaged_batches_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "bad").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_batch(tmp_path / "bad")


def test_a_missing_batch_is_named(tmp_path: Path) -> None:
    trees.cifar10(tmp_path)
    (tmp_path / "cifar-10-batches-py" / "data_batch_3").unlink()
    with pytest.raises(ValueError, match=r"has no data_batch_3; valid: the folder cifar-10-batches-py"):
        open_source(DataConfig(source="cifar10", path=str(tmp_path)), None)


def test_class_subsets_and_files(tmp_path: Path) -> None:
    listed = tmp_path / "classes.txt"
    listed.write_text("cat  # a comment\n\n7\n")
    assert expand_classes(["dog", f"@{listed}"]) == ["dog", "cat", "7"]
    assert len(set(expand_classes(["imagenet20"]))) == 20
    with pytest.raises(ValueError, match="'@/nowhere' cannot be read"):
        expand_classes(["@/nowhere"])
    (tmp_path / "empty.txt").write_text("# none\n")
    with pytest.raises(ValueError, match="names no class"):
        expand_classes([f"@{tmp_path / 'empty.txt'}"])
    with pytest.raises(ValueError, match=r"'imagenet100' is not valid.*; valid: @FILE with one WordNet id a line"):
        expand_classes(["imagenet100"])
    trees.cifar10(tmp_path, per_batch=30)
    config = DataConfig(source="cifar10", path=str(tmp_path), classes=(f"@{listed}",))
    assert {row.class_name for row in select(open_source(config, None).rows(), config)} == {"cat", "horse"}
