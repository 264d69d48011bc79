"""Every interruption of a run in object storage: before each operation on objects, and with a second driver.

A run whose process dies before its n-th operation, whatever n is, is continued by the same command to the root of a run
in a folder; nothing that was reported is lost or computed again.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import obstore
import obstore.store
import pytest

from clarep_ray.data import object_store
from clarep_ray.data.clarep_index import ROOT, read_root
from clarep_ray.data.copy_output import copy_output
from clarep_ray.data.object_store import ObjectStore
from clarep_ray.data.verify import verify
from clarep_ray.errors import DamagedUnit
from tests.faults.shim import Killed
from tests.faults.small_run import NUM_UNITS, SmallRun, visible
from tests.s3 import S3Server

CHANGES = ("put", "delete")
NUM_OPERATIONS = 18
"""Of a run, that change objects."""


class Between:
    """The library, whose operations that change something pass a hook first."""

    def __init__(self, hook: Callable[[str, Any], None]) -> None:
        self.hook = hook

    def __getattr__(self, name: str) -> Any:
        plain = getattr(obstore, name)
        if name not in CHANGES:
            return plain

        def call(client: Any, path: Any, *arguments: Any, **options: Any) -> Any:
            self.hook(name, path)
            return plain(client, path, *arguments, **options)

        return call


@contextmanager
def hooked(hook: Callable[[str, Any], None]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(object_store, "obstore", Between(hook))
        yield


class DiesAt:
    """A process that is dead from its n-th operation on; the others are counted."""

    def __init__(self, number: int | None = None) -> None:
        self.number, self.operations = number, list[tuple[str, Any]]()

    def __call__(self, name: str, path: Any) -> None:
        if self.number is not None and len(self.operations) >= self.number:
            raise Killed
        self.operations.append((name, path))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run in a folder."""
    out = tmp_path_factory.mktemp("folder") / "out"
    SmallRun()(out)
    return out


def contents(store: ObjectStore) -> dict[str, bytes]:
    """Return every object that a reader may look at, but the record of where it lies."""
    names = [
        *store.names(""),
        *(f"{folder}/{name}" for folder in ("shards", "spectra", "units") for name in store.names(folder)),
    ]
    return {name: store.read(name, 2**20) for name in names if name != "run.json"}


def expected(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in visible(folder).items() if name != "run.json"}


def test_a_run_in_object_storage_is_the_run_in_a_folder(bucket: str, folder: Path, s3: S3Server) -> None:
    store = ObjectStore(f"{bucket}/out")
    summary = SmallRun()(store.where)
    assert (summary["output"], summary["root_sha256"]) == (store.where, read_root(folder)["root_sha256"])
    assert contents(store) == expected(folder)
    assert (verify(store), store.names("tmp")) == ([], [])
    again = SmallRun()
    assert again(store.where)["root_sha256"] == summary["root_sha256"]
    assert again.computed == []


def killed(store: ObjectStore, folder: Path, *numbers: int) -> None:
    """Let a run die before an operation, perhaps again while it is continued, then continue it, and compare."""
    second = SmallRun()
    for number in numbers:
        first = SmallRun()
        with hooked(DiesAt(number)), suppress(Killed):  # what goes on may be over before
            first(store.where)
        before = dict(store.each_committed())
        assert set(first.reported) <= before.keys(), "what was reported is lost"
        assert not store.has(ROOT) or verify(store) == []
    before = dict(store.each_committed())
    summary = second(store.where)
    assert not set(second.computed) & before.keys(), "a committed unit was computed again"
    assert summary["root_sha256"] == read_root(folder)["root_sha256"]
    assert contents(store) == expected(folder)
    assert verify(store) == []


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch, s3: S3Server) -> str:
    """URL below which objects lie in the library's own store in memory."""
    monkeypatch.setattr(object_store, "_client", lru_cache(None)(lambda *place: obstore.store.MemoryStore()))
    return "s3://memory"


@pytest.fixture(params=["memory", pytest.param("bucket", marks=pytest.mark.nightly)])
def kept_in(request: pytest.FixtureRequest) -> str:
    """Where objects lie: in memory, or on the server."""
    return request.getfixturevalue(request.param)


def test_a_death_before_any_operation_loses_and_doubles_nothing(kept_in: str, folder: Path) -> None:
    bucket, counted = kept_in, DiesAt()
    with hooked(counted):
        SmallRun()(f"{bucket}/whole")
    assert len(counted.operations) == NUM_OPERATIONS
    for number in range(len(counted.operations)):
        killed(ObjectStore(f"{bucket}/out-{number}"), folder, number)


@pytest.mark.nightly
def test_a_second_death_while_a_run_is_continued_does_neither(memory: str, folder: Path) -> None:
    for first in range(NUM_OPERATIONS):
        for second in range(NUM_OPERATIONS):
            killed(ObjectStore(f"{memory}/out-{first}-{second}"), folder, first, second)


def test_two_drivers_at_once_write_one_output(bucket: str, folder: Path, s3: S3Server) -> None:
    """Both commit every unit; the answers to some of their conditional PUTs are lost."""
    store = ObjectStore(f"{bucket}/out")
    SmallRun()(store.where)
    store.remove("units", store.names("units"))
    runs, together = [SmallRun(), SmallRun()], threading.Barrier(2, timeout=20)
    s3.lost_answers = 3

    results: list[bool] = []
    identity = {name: read_root(folder)[name] for name in ("label_map_sha256", "classes_sha256", "fingerprint")}

    class Context:
        def __init__(self) -> None:
            self.identity, self.store = identity, store

    def drive(run: SmallRun) -> None:
        together.wait()
        results.extend(report["fresh"] for report in run.stream(Context(), range(NUM_UNITS), {}))

    threads = [threading.Thread(target=drive, args=(run,)) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert sorted(results) == [False] * NUM_UNITS + [True] * NUM_UNITS
    assert contents(store) == expected(folder)
    assert verify(store) == []


def test_damage_is_found_and_the_unit_alone_made_again(bucket: str, folder: Path, s3: S3Server) -> None:
    store = ObjectStore(f"{bucket}/out")
    SmallRun()(store.where)
    (shard,) = [name for name in store.names("shards") if name.startswith("000001-")]
    data = bytearray(store.read(f"shards/{shard}", 2**20))
    data[700] ^= 1
    store.put(f"shards/{shard}", bytes(data))
    store.put("shards/000007-0123456789ab.tar", b"of nobody")
    damages = verify(store)
    assert [damage.unit for damage in damages] == [1, None]
    run = SmallRun()
    run(store.where, damages=damages)
    assert (run.computed, verify(store)) == ([1], [])
    assert contents(store) == expected(folder)


def test_a_verified_copy_is_put_in_place_whole_and_continued(
    bucket: str, folder: Path, s3: S3Server, tmp_path: Path
) -> None:
    store, target, said = ObjectStore(f"{bucket}/out"), tmp_path / "copies" / "out", list[str]()
    with pytest.raises(ValueError, match=r"has no MANIFEST\.json"):
        copy_output(store, target)
    SmallRun()(store.where)
    (shard,) = [name for name in store.names("shards") if name.startswith("000001-")]
    data = store.read(f"shards/{shard}", 2**20)
    store.put(f"shards/{shard}", data[:-1] + b"x")
    with pytest.raises(DamagedUnit, match=rf"{shard} has sha256 .*verify.py {store.where} --repair, and copy again"):
        copy_output(store, target, said.append)
    assert not target.exists()
    store.put(f"shards/{shard}", data)
    s3.reset()
    copy_output(store, target, said.append)
    fetched = [path for method, path in s3.requests if method == "GET" and "/shards/" in path]
    assert [path.rpartition("/")[2] for path in fetched] == [shard], "the other one was there"
    assert {name: data for name, data in visible(target).items() if name != "run.json"} == expected(folder)
    assert verify(target) == []
    assert not target.with_name("out.partial").exists()
    copy_output(store, target, said.append)
    assert said[-1] == f"{target} is a copy of it already"
    assert SmallRun()(target)["root_sha256"] == read_root(folder)["root_sha256"]
    (target / "shards" / shard).write_bytes(b"damaged")
    with pytest.raises(ValueError, match="is a copy that was damaged"):
        copy_output(store, target)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="holds something else; valid: a new folder"):
        copy_output(store, tmp_path / "thesis")


def test_a_manifest_cannot_name_files_elsewhere(bucket: str, s3: S3Server, tmp_path: Path) -> None:
    store = ObjectStore(f"{bucket}/out")
    SmallRun()(store.where)
    root = store.read(ROOT, 2**20)
    store.put(ROOT, root.replace(b'"shards/000000-', b'"shards/../../000000-'))
    with pytest.raises(ValueError, match="names the file"):
        copy_output(store, tmp_path / "copy", lambda line: None)
    assert not (tmp_path / "copy").exists()
