"""Selection and freezing keep their choice, stream, and stay small for millions of rows."""

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clarep_ray.config import DataConfig
from clarep_ray.data import manifest, selection
from clarep_ray.data.class_list import ClassList
from clarep_ray.data.manifest import digest_of, freeze
from clarep_ray.data.selection import select
from clarep_ray.data.sources import Listed, Source, open_source
from clarep_ray.data.sources.listed import Labels

LARGE = """
import resource, sys
from pathlib import Path
from clarep_ray.config import DataConfig
from clarep_ray.data.class_list import ClassList
from clarep_ray.data.manifest import digest_of, freeze, write_manifest, write_stamps
from clarep_ray.data.selection import select
from tests.data.test_manifest import Numbered
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
source = Numbered(1_280_000, 1000)
rows = freeze(source, select(source.rows(), DataConfig(fraction=float(sys.argv[1]))))
manifest = write_manifest(rows, Path(sys.argv[2]) / "input.parquet", 64)
write_stamps(Path(sys.argv[2]), sys.argv[2], (row.source for row in rows), manifest.sha256)
assert manifest.digest() == digest_of(rows)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


class Numbered(Source):
    """Files that are not there: row n is `label/n.png`, and its bytes are its name."""

    def __init__(self, count: int = 400, num_classes: int = 8) -> None:
        self.count = count
        self.class_names = tuple("abcdefgh"[n] if n < 8 else str(n) for n in range(num_classes))

    def find_labels(self) -> Labels:
        return Labels(ClassList(self.class_names))

    def rows(self) -> Iterator[Listed]:
        for n in range(self.count):
            label = n * 7 % len(self.class_names)
            name = f"{label}/{n}.png"
            yield Listed(id=name, source=name, offset=0, size=n, label=label, class_name=self.class_names[label])

    def read(self, source: str, offset: int, size: int) -> bytes:
        return source.encode()


@pytest.mark.parametrize(
    ("changes", "digest"),
    [
        ({}, "f8d4cd505dfff991fe48c9cc2b440e3f5f1f3a8d1c61a6094800b1abd25af4c1"),
        ({"fraction": 0.1}, "66111184c2647f31bd912ca0d9e3f6f76bf2e77d3750e1a642691bc6d7a1a4e8"),
        ({"per_class": 3, "seed": 5}, "19b1a5fa134baf3b90906116d98f2a58140f120ed33d172c50f69da6b9d58cdb"),
        (
            {"fraction": 0.3, "classes": ("a", "7"), "limit": 20},
            "5e28e2b5e4ffaaff12f10a45d4499b3aeac88cc6485705615ec63d23137fac79",
        ),
        ({"limit": 9}, "2eecbe863f0135979c52413f1389ceac4705411dc25f224c36f84ffc9f496e3d"),
    ],
)
def test_the_choice_is_the_one_of_the_first_release(
    changes: dict[str, Any], digest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest, "HASHING_CHUNK", 7)
    source = Numbered()
    assert digest_of(freeze(source, select(source.rows(), DataConfig(**changes)))) == digest


def test_a_limit_alone_lists_no_further() -> None:
    taken: list[str] = []

    def rows() -> Iterator[Listed]:
        for row in Numbered().rows():
            taken.append(row.id)
            yield row

    assert len(select(rows(), DataConfig(limit=5))) == len(taken) == 5


def numbered_folders(folder: Path) -> Source:
    """Return class folders 1 to 12, whose label numbers are 0 to 11."""
    for name in range(1, 13):
        (folder / str(name)).mkdir()
        (folder / str(name) / "a.png").write_bytes(b"x")
    return open_source(DataConfig(source="image_folder", path=str(folder)), None)


def chosen_names(source: Source, *classes: str) -> set[str]:
    return {row.class_name for row in select(source.rows(), DataConfig(classes=classes), source.classes)}


def test_a_class_of_that_name_wins_over_a_label_number(tmp_path: Path) -> None:
    source = numbered_folders(tmp_path)
    assert source.classes.names[1] == "2"
    assert source.classes.names[9] == "10"
    assert chosen_names(source, "10") == {"10"}
    assert chosen_names(source, "0", "10") == {"1", "10"}, "no class is called 0"
    (tmp_path / "10" / "a.png").unlink()
    with pytest.raises(ValueError, match="the class folder '10' has no file"):
        chosen_names(source, "2")
    source = open_source(DataConfig(source="image_folder", path=str(tmp_path)), source.classes)
    with pytest.raises(ValueError, match=r"'10' is not in the input \(the class has no image\); valid: 1, 2"):
        chosen_names(source, "10")


def test_a_named_subset_means_label_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(selection.CLASS_SUBSETS, "two", (1, 10))
    source = numbered_folders(tmp_path)
    assert chosen_names(source, "two") == {"1", "10"}
    assert chosen_names(source, "two", "3") == {"1", "10", "3"}
    monkeypatch.setitem(selection.CLASS_SUBSETS, "two", (1, 13))
    with pytest.raises(ValueError, match="class 13 of ImageNet and one of 'two', is not in the input"):
        chosen_names(source, "two")


def test_equal_short_hashes_are_no_collision_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "hash", lambda text: 7, raising=False)
    source = Numbered(5)
    assert len(freeze(source, list(source.rows()))) == 5
    with pytest.raises(ValueError, match=r"'0/0\.png' of '0/0\.png' and '0/0\.png' of '0/0\.png'"):
        freeze(source, [*source.rows(), *Numbered(1).rows()])


def test_a_file_is_hashed_in_pieces(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "a.png").write_bytes(b"abc")
    source = open_source(DataConfig(source="image_folder", path=str(tmp_path)), None)
    source.read = lambda *_: pytest.fail("read whole")  # type: ignore[method-assign]
    assert freeze(source, list(source.rows()))[0].sha256 == hashlib.sha256(b"abc").hexdigest()


@pytest.mark.nightly
@pytest.mark.parametrize(("fraction", "megabytes"), [(0.1, 500), (1.0, 1500)])
def test_planning_of_imagenet_stays_small(fraction: float, megabytes: int, tmp_path: Path) -> None:
    command = [sys.executable, "-c", LARGE, str(fraction), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert float(done.stdout) < megabytes
