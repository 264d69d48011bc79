"""Outputs in object storage, against a real S3-speaking server: operations, commit, faults, owners, what is refused."""

import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import obstore
import pytest
from obstore.exceptions import AlreadyExistsError, GenericError

from clarep_ray import cli
from clarep_ray.cluster.runtime import TRANSIENT
from clarep_ray.config.location import parse_s3
from clarep_ray.data import owner
from clarep_ray.data.object_store import ObjectStore
from clarep_ray.data.owner import owned, refuse_used
from clarep_ray.data.store import OutputStore, Store, open_store
from clarep_ray.errors import DamagedUnit, NondeterministicUnit, OutputInUse, StorageFault
from tests.s3 import SECRET, S3Server


@pytest.fixture(params=["folder", "objects"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    where = str(tmp_path / "out") if request.param == "folder" else f"{request.getfixturevalue('bucket')}/runs/out"
    made = open_store(where)
    made.check()
    made.prepare()
    return made


@pytest.fixture
def objects(bucket: str) -> ObjectStore:
    return ObjectStore(f"{bucket}/out")


def test_both_kinds_of_output_do_the_same(store: Store) -> None:
    assert not store.holds_files()
    assert [store.put_new("units/000002.json", data) for data in (b"a", b"b", b"a")] == [True, False, False]
    store.put("run.json", b"long ago")
    store.put("run.json", b"now")
    store.put("units/000001.json", b"")
    assert store.names("units") == ["000001.json", "000002.json"]
    assert (store.units(), store.names("nothing"), store.names("shards")) == ([1, 2], [], [])
    assert "run.json" in store.names("")
    assert (store.size("run.json"), store.read("run.json", 3)) == (3, b"now")
    assert [store.has(name) for name in ("run.json", "units", "units/000003.json")] == [True, False, False]
    with pytest.raises(ValueError, match="more than 2 bytes"):
        store.read("run.json", 2)
    with store.local("units/000002.json") as path:
        assert path.read_bytes() == b"a"
    store.remove("units", ["000001.json", "000003.json"])
    assert store.names("units") == ["000002.json"]
    assert store.holds_files()


@pytest.mark.parametrize("call", ["read", "size", "local"])
def test_what_is_not_there_is_named(store: Store, call: str) -> None:
    calls: dict[str, Callable[[], object]] = {
        "read": lambda: store.read("units/000007.json", 10),
        "size": lambda: store.size("units/000007.json"),
        "local": lambda: store.local("units/000007.json").__enter__(),
    }
    with pytest.raises(FileNotFoundError, match=f"{store.where}/units/000007.json"):
        calls[call]()


def test_a_unit_is_committed_once_and_other_bytes_are_found_out(store: Store) -> None:
    assert store.commit(3, {"shards": b"abc", "spectra": b"xyz"}, {"rows": []})
    assert not store.commit(3, {"shards": b"abc", "spectra": b"xyz"}, {"rows": []})
    with pytest.raises(NondeterministicUnit, match="unit 3"):
        store.commit(3, {"shards": b"abd", "spectra": b"xyz"}, {"rows": []})
    manifest = store.committed_unit(3)
    assert manifest["files"]["shards"]["name"].startswith("shards/000003-ba7816bf8f01")
    named = {entry["name"] for entry in manifest["files"].values()}
    store.collect_orphans(named)
    assert store.names("shards") == [manifest["files"]["shards"]["name"].removeprefix("shards/")]
    assert list(store.committed_units()) == [3]


@pytest.mark.parametrize("damage", ["missing", "short", "manifest"])
def test_damage_is_named_with_the_command_that_mends_it(store: Store, damage: str) -> None:
    store.commit(0, {"shards": b"abc"}, {"rows": []})
    name = store.committed_unit(0)["files"]["shards"]["name"]
    if damage == "missing":
        store.remove("shards", [name.removeprefix("shards/")])
    elif damage == "short":
        store.put(name, b"ab")
    else:
        store.put("units/000000.json", b"{}")
    for read in (store.committed_units, lambda: store.committed_unit(0)):
        with pytest.raises(DamagedUnit, match=f"unit 0 of .* is damaged.*verify.py {store.where} --repair"):
            read()


def test_many_units_are_read_ahead_and_come_in_order(
    objects: ObjectStore, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clarep_ray.data.object_store.READ_AHEAD", 4)
    for unit in range(10):
        objects.commit(unit, {"shards": bytes([unit])}, {"rows": []})
    s3.reset()
    assert [unit for unit, _ in objects.each_committed()] == list(range(10))
    assert s3.count() == {"GET": 10 + 3}, "a manifest each, and three listings"


def test_of_many_writers_of_one_name_one_is_first(objects: ObjectStore) -> None:
    def write(number: int) -> None:
        together.wait()
        results.append(objects.put_new("attempts/1", bytes([number])))

    for _ in range(5):
        results, together = list[bool](), threading.Barrier(6, timeout=20)
        threads = [threading.Thread(target=write, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
        assert sorted(results) == [False] * 5 + [True]
        objects.remove("attempts", ["1"])


def test_a_lost_answer_is_no_defeat(objects: ObjectStore, s3: S3Server) -> None:
    """The client repeats the PUT, and finds its own object there."""
    s3.lost_answers = 2
    assert objects.put_new("units/000000.json", b"mine")
    assert s3.lost_answers <= 1
    s3.lost_answers = 1
    assert not objects.put_new("units/000000.json", b"mine"), "equal bytes of another writer are another's"
    s3.lost_answers = 1
    assert objects.commit(1, {"shards": b"abc"}, {"rows": []})
    assert not objects.commit(1, {"shards": b"abc"}, {"rows": []})


def test_an_answer_that_never_comes_is_looked_for(objects: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client has given up: whether its object is there says the store."""
    plain = obstore.put

    def done_without_an_answer(*arguments: Any, **options: Any) -> None:
        with suppress(AlreadyExistsError):
            plain(*arguments, **options)
        raise GenericError("connection reset by peer")

    def never_done(*arguments: Any, **options: Any) -> None:
        raise GenericError("connection refused")

    monkeypatch.setattr(obstore, "put", done_without_an_answer)
    assert objects.put_new("units/000000.json", b"mine")
    assert not objects.put_new("units/000000.json", b"mine"), "that is the one before"
    monkeypatch.setattr(obstore, "put", never_done)
    with pytest.raises(StorageFault, match="connection refused"):
        objects.put_new("units/000001.json", b"mine")
    assert objects.names("units") == ["000000.json"]


def test_a_store_that_is_busy_is_asked_again(objects: ObjectStore, s3: S3Server) -> None:
    objects.put("run.json", b"{}")
    s3.unavailable = 3
    assert objects.read("run.json", 2) == b"{}"
    s3.unavailable = 2
    assert objects.put_new("units/000000.json", b"{}")


def test_a_store_without_put_if_absent_is_refused(objects: ObjectStore, s3: S3Server) -> None:
    s3.heeds_conditions = False
    with pytest.raises(ValueError, match=r"output.path: .* ignores If-None-Match.*valid: Amazon S3"):
        objects.check()
    s3.heeds_conditions = True
    objects.check()
    assert not objects.holds_files()


@pytest.mark.parametrize("method", ["GET", "PUT", "POST"])
def test_a_permission_that_lacks_is_one_line_without_secrets(
    objects: ObjectStore, s3: S3Server, method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    s3.forbidden = {method}
    with pytest.raises(SystemExit) as ended, cli.exit_codes():
        objects.check()
    said = capsys.readouterr().err
    assert ended.value.code == 14
    assert "403 Forbidden" in said
    assert "AccessDenied" in said
    assert (SECRET in said, said.count("\n")) == (False, 1)


def test_a_bucket_that_is_not_there_is_named(s3: S3Server) -> None:
    with pytest.raises(StorageFault, match=r"s3://no-such-bucket/out .*NoSuchBucket") as found:
        ObjectStore("s3://no-such-bucket/out").check()
    assert any(pattern in str(found.value) for pattern in TRANSIENT), "Ray does not try the unit again"


@pytest.mark.parametrize(
    ("endpoint", "message"),
    [
        ("http://storage.example.com", "could be read and changed on its way; valid: https://, or AWS_ALLOW_HTTP=true"),
        (f"https://key:{SECRET}@storage.example.com", "without user or password"),
        ("storage.example.com", "valid: https://HOST"),
    ],
)
def test_an_endpoint_that_gives_secrets_away_is_refused(
    objects: ObjectStore, monkeypatch: pytest.MonkeyPatch, endpoint: str, message: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    with pytest.raises(ValueError, match=message) as refused:
        objects.check()
    assert SECRET not in str(refused.value)


def test_plain_http_is_for_who_asks_for_it(objects: ObjectStore, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.url.replace("127.0.0.1", "localhost"))
    objects.check()
    monkeypatch.setattr("clarep_ray.data.object_store._is_loopback", lambda host: False)
    with pytest.raises(ValueError, match="AWS_ALLOW_HTTP=true"):
        objects.check()
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    objects.check()


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("s3://bucket/a", ("bucket", "a")),
        ("s3://my.bucket-1/runs/2026=11/out_1/", ("my.bucket-1", "runs/2026=11/out_1")),
        *(
            (url, None)
            for url in (
                *("s3://bucket", "s3://bucket/", "s3:/bucket/a", "s3://Bucket/a", "s3://bucket//a", "s3://bucket/../a"),
                *("s3://bucket/a/./b", "s3://key:pass@bucket/a", "s3://bucket/a?b", "s3://bucket/a%2e", "s3://b/a"),
                *("gs://bucket/a", "file:///tmp/a", "https://bucket.s3.amazonaws.com/a", "s3://bucket/a b"),
            )
        ),
    ],
)
def test_only_plain_urls_are_taken(url: str, place: tuple[str, str] | None) -> None:
    assert parse_s3(url) == place
    if place is None:
        with pytest.raises(ValueError, match="valid: a folder, or s3://BUCKET/PREFIX"):
            open_store(url)
    else:
        assert open_store(url).where == f"s3://{place[0]}/{place[1]}"


def quiet(line: str) -> None:
    pass


def test_one_driver_at_a_time_works_on_objects(objects: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "HEARTBEAT_S", 0.05)
    with owned(objects, say=quiet):
        with pytest.raises(OutputInUse, match=f"{objects.where} is in use by process"):
            refuse_used(objects, "engine.take-over")
        with pytest.raises(OutputInUse, match=r"--engine\.take-over"), owned(objects):
            pass
        assert objects.names("tmp") == ["owner.000001"]
    assert not objects.holds_files()
    assert objects.names("tmp") == []
    lost = threading.Event()

    def first() -> None:
        try:
            with owned(objects, say=quiet):
                taken.wait(20)
                lost.wait(1)
        except OutputInUse as error:
            found.append(error)

    taken, found = threading.Event(), list[OutputInUse]()
    thread = threading.Thread(target=first)
    thread.start()
    while not objects.names("tmp"):
        pass
    said: list[str] = []
    with owned(objects, take_over=True, say=said.append):
        taken.set()
        thread.join(timeout=30)
    assert "taken this output over" in str(found[0])
    assert said[0].startswith("taking over: ")
    assert objects.names("tmp") == []


def test_an_owner_of_objects_elsewhere_is_gone_when_it_is_silent(
    objects: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = owner.Process("elsewhere", 7, "another boot", 1, "long ago")
    with monkeypatch.context() as patch:
        patch.setattr(owner, "this_process", lambda: elsewhere)
        objects.put("tmp/owner.000004", owner.process_bytes())
    with pytest.raises(OutputInUse, match="process 7 on elsewhere"), owned(objects, say=quiet):
        pass
    monkeypatch.setattr(owner, "SILENT_S", -1.0)
    said: list[str] = []
    with owned(objects, say=said.append):
        assert objects.names("tmp") == ["owner.000005"]
    assert said[0].startswith("continuing: ")


def test_probes_of_the_dead_are_removed(objects: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    objects.put("tmp/probe-0", b"")
    objects.prepare()
    assert objects.names("tmp") == ["probe-0"]
    monkeypatch.setattr("clarep_ray.data.object_store.ABANDONED_S", -1.0)
    objects.prepare()
    assert objects.names("tmp") == []


def test_a_folder_store_is_what_a_path_gives(tmp_path: Path) -> None:
    assert open_store(str(tmp_path)) == OutputStore(tmp_path)
