"""Commit, determinism of shards, and what verify and repair notice."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from clarep_ray.data.shards import npy_bytes, read_npy, read_shard, shard_bytes
from clarep_ray.data.store import OutputStore
from clarep_ray.errors import DamagedUnit, NondeterministicUnit


@pytest.fixture
def store(tmp_path: Path) -> OutputStore:
    made = OutputStore(tmp_path / "out")
    made.prepare()
    return made


def test_commit_publishes_under_the_content_hash_and_leaves_no_temporary_file(store: OutputStore) -> None:
    assert store.commit(3, {"shards": b"abc"}, {"rows": []})
    (entry,) = store.committed_unit(3)["files"].values()
    assert entry["name"].startswith("shards/000003-ba7816bf8f01")
    assert (store.root / entry["name"]).read_bytes() == b"abc"
    assert list((store.root / "tmp").iterdir()) == []


def test_a_second_equal_result_changes_nothing_and_another_one_is_an_error(store: OutputStore) -> None:
    store.commit(0, {"shards": b"abc"}, {"rows": []})
    before = store.unit_path(0).read_bytes()
    assert not store.commit(0, {"shards": b"abc"}, {"rows": []})
    with pytest.raises(NondeterministicUnit, match="unit 0"):
        store.commit(0, {"shards": b"abd"}, {"rows": []})
    assert store.unit_path(0).read_bytes() == before


def test_prepare_clears_what_is_long_dead_in_the_work_folder_only(store: OutputStore) -> None:
    store.commit(0, {"shards": b"abc"}, {"rows": []})
    dead, alive, foreign = (store.root / "tmp" / name for name in ("a" * 32, "b" * 32, "notes.txt"))
    for path in (dead, alive, foreign):
        path.write_bytes(b"half a shard")
    for path in (dead, foreign):
        os.utime(path, (0, 0))
    store.prepare()
    assert set((store.root / "tmp").iterdir()) == {alive, foreign}
    assert list(store.committed_units()) == [0]


def test_only_our_own_temporary_files_count_as_nothing(tmp_path: Path) -> None:
    store = OutputStore(tmp_path)
    store.prepare()
    (tmp_path / "tmp" / ("a" * 32)).write_bytes(b"")
    assert not store.holds_files()
    (tmp_path / "tmp" / "notes.txt").write_bytes(b"")
    assert store.holds_files()


def test_orphans_are_collected_and_named_files_stay(store: OutputStore) -> None:
    store.commit(0, {"shards": b"abc"}, {"rows": []})
    (entry,) = store.committed_unit(0)["files"].values()
    (store.root / "shards" / "000001-0123456789ab.tar").write_bytes(b"published, never committed")
    store.collect_orphans({entry["name"]})
    assert [path.name for path in (store.root / "shards").iterdir()] == [entry["name"].rpartition("/")[2]]


@pytest.mark.parametrize("damage", ["missing", "short", "manifest", "edited"])
def test_damage_is_named(store: OutputStore, damage: str) -> None:
    store.commit(0, {"shards": b"abc"}, {"rows": []})
    shard = store.root / store.committed_unit(0)["files"]["shards"]["name"]
    if damage == "missing":
        shard.unlink()
    elif damage == "short":
        shard.write_bytes(b"ab")
    elif damage == "edited":
        text = store.unit_path(0).read_text()
        store.unit_path(0).write_text(text.replace('"rows": []', '"rows": [1]'))
    else:
        store.unit_path(0).write_text("{")
    with pytest.raises(DamagedUnit, match=r"unit 0 of .* is damaged"):
        store.committed_units()


def test_shard_bytes_depend_on_content_alone(tmp_path: Path) -> None:
    samples = {f"k{i}": {"png": b"p" * i, "cls": b"1", "a.feature.npy": npy_bytes(np.arange(i))} for i in range(5)}
    assert shard_bytes(samples) == shard_bytes({k: dict(reversed(v.items())) for k, v in samples.items()})
    (tmp_path / "a.tar").write_bytes(shard_bytes(samples))
    read = {sample.key: sample.members for sample in read_shard(tmp_path / "a.tar")}
    assert read == samples


def test_object_arrays_are_refused() -> None:
    with pytest.raises(ValueError, match="allow_pickle"):
        npy_bytes(np.array([{}], dtype=object))
    assert read_npy(npy_bytes(np.arange(3))).tolist() == [0, 1, 2]


def test_unit_manifests_are_plain_json(store: OutputStore) -> None:
    store.commit(0, {"shards": b""}, {"rows": [{"key": "a"}]})
    assert json.loads(store.unit_path(0).read_text())["rows"] == [{"key": "a"}]
