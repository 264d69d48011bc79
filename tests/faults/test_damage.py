"""Bit rot and cuts: every one in an output or a checkpoint is noticed, and repaired where it is and nowhere else.

A failure prints its seed and how to run that one alone.
"""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clarep_ray.analysis.figures import write_figures
from clarep_ray.analysis.outputs import ExtractionOutput
from clarep_ray.cluster import made_again, publish
from clarep_ray.cluster.report import write_report
from clarep_ray.config import ReportConfig
from clarep_ray.data import derived
from clarep_ray.data.clarep_index import read_root
from clarep_ray.data.clarep_store import open_clareps
from clarep_ray.data.plain_json import plain_json
from clarep_ray.data.sealed import sealed
from clarep_ray.data.shards import npy_bytes, read_shard, shard_bytes
from clarep_ray.data.store import UNIT_SEAL, OutputStore
from clarep_ray.data.tar_index import DamagedTar
from clarep_ray.data.verify import AGAIN, uncovered, verify, withdraw
from clarep_ray.errors import DamagedUnit
from clarep_ray.models.checkpoints import load_newest, save_checkpoint
from tests.analysis.made_output import made_output
from tests.faults.small_run import NUM_UNITS, SmallRun, visible

SEED = "CLAREP_TEST_SEED"
FLIPS, NIGHTLY_FLIPS = 1_600, 8_000
CHECKPOINT_FLIPS, NIGHTLY_CHECKPOINT_FLIPS = 400, 2_000


def seeds(count: int) -> Iterator[int]:
    """Yield the seeds of a sweep, or the one that is asked for."""
    only = os.environ.get(SEED)
    yield from range(count) if only is None else [int(only)]


def replay(seed: int, test: str) -> str:
    return f"seed {seed}; again: {SEED}={seed} uv run pytest tests/faults/test_damage.py -k {test}"


def damaged(data: bytes, random: np.random.Generator) -> tuple[bytes, str]:
    """Return a file's bytes after one accident: a bit, a byte, zeros in a row, an end cut off, a piece twice."""
    at, length = int(random.integers(len(data))), int(random.integers(1, 65))
    kind = random.choice(["bit", "byte", "zeros", "cut", "doubled"], p=[0.5, 0.2, 0.1, 0.1, 0.1])
    found = bytearray(data)
    if kind == "bit":
        found[at] ^= 1 << int(random.integers(8))
    elif kind == "byte":
        found[at] ^= int(random.integers(1, 256))
    elif kind == "zeros":
        found[at : at + length] = bytes(len(found[at : at + length]))
    elif kind == "cut":
        del found[at:]
    else:
        found[at:at] = found[at : at + length]
    return bytes(found), f"{kind} at {at}"


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("damage") / "out"
    SmallRun()(root)
    return root


def unit_of(name: str) -> int | None:
    """Return the unit that a file belongs to, None for one of the whole output."""
    return int(Path(name).name[:6]) if name.startswith(("shards/", "spectra/", "units/")) else None


def sweep_output(root: Path, count: int) -> int:
    golden, changed = visible(root), 0
    names = sorted(golden)
    for seed in seeds(count):
        random = np.random.default_rng(seed)
        name = names[seed % len(names)]
        data, what = damaged(golden[name], random)
        if data == golden[name]:  # zeros over zeros
            continue
        changed += 1
        (root / name).write_bytes(data)
        found = verify(root)
        (root / name).write_bytes(golden[name])
        assert found, f"{name}: {what} is not noticed; {replay(seed, 'output')}"
        assert {damage.unit for damage in found} == {unit_of(name)}, (
            f"{name}: {what}: {found}; {replay(seed, 'output')}"
        )
    assert verify(root) == []
    return changed


def test_every_accident_to_an_output_is_noticed_where_it_is(output: Path) -> None:
    assert sweep_output(output, FLIPS) > 0.9 * FLIPS or SEED in os.environ


@pytest.mark.nightly
def test_thousands_of_accidents_to_an_output_are_noticed(output: Path) -> None:
    assert sweep_output(output, NIGHTLY_FLIPS) > 0.9 * NIGHTLY_FLIPS


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output with everything that a job may leave in one: figures, summary, page, members, a decoding at fixed k."""
    root = tmp_path_factory.mktemp("published") / "out"
    path = {"data.source": "image_folder", "data.path": "/in"}
    made_output(root, count=6, edge=8, extras=("original",), changes=path)
    store, health = OutputStore(root), {"verdict": "ok", "warnings": [], "labels": None}
    store.put("health.json", (json.dumps(health, indent=1) + "\n").encode())
    store.put("summary.json", plain_json({"health": health, "metrics": {"nmi/canonical": 0.5}, "wall_s": 12.0}))
    write_figures(ExtractionOutput(store))
    derived.record_derived(store, [name for name in derived.NAMES if name != "report.html"])
    made_output(root / "k_steps" / "0004", count=6, edge=8, extras=(), changes=path, fields=spectrum_of(root))
    write_report(ReportConfig(folder=root))
    open_clareps(str(root))
    assert {name.partition("/")[0] for name in visible(root)} >= {*derived.NAMES, derived.DERIVED, "members.parquet"}
    assert verify(root) == [] == uncovered(root)
    return root


def spectrum_of(root: Path) -> dict[str, Any]:
    return {"spectrum_root_sha256": read_root(root)["root_sha256"]}


def test_every_accident_to_any_file_of_a_published_output_is_noticed(published: Path) -> None:
    assert sweep_output(published, 200) > 150 or SEED in os.environ


HARM: dict[str, Callable[[bytes], bytes | None]] = {
    "cut to 700 bytes": lambda data: data[:700] if len(data) > 700 else data[:-9],
    "other JSON": lambda data: b"[]",
    "missing": lambda data: None,
}


@pytest.mark.parametrize("harm", HARM)
def test_what_is_made_from_the_units_is_made_again_and_never_fatal(
    published: Path, tmp_path: Path, harm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By `verify --repair`, and by the page; figures are drawn for one kind of harm alone, they take a second each."""
    root = shutil.copytree(published, tmp_path / "out")
    golden, store = visible(root), OutputStore(root)
    if harm != "missing":
        monkeypatch.setattr(made_again, "write_figures", lambda output: [])
    figures = derived.FIGURES if harm == "missing" else ()
    for name in ("summary.json", "health.json", "report.html", derived.DERIVED, "members.parquet", *figures):
        changed = HARM[harm](golden[name])
        (root / name).unlink() if changed is None else (root / name).write_bytes(changed)
        assert [(damage.unit, made_again.is_derived(damage)) for damage in verify(root)] == [(None, True)], name
        assert name in made_again.make_again(store)
        assert verify(root) == [], name
        if name in ("health.json", *figures):
            assert visible(root)[name] == golden[name], f"{name} comes back as it was"
        if name == "summary.json":
            summary = json.loads((root / name).read_bytes())
            assert (summary["num_ok"], summary["made_again"], summary["health"]["verdict"]) == (6, True, "ok")
            (root / name).write_bytes(golden[name][:700])
            assert publish._read_summary(store) is None
            write_report(ReportConfig(folder=root))
            assert verify(root) == []
        if name == "members.parquet":
            open_clareps(str(root))
        for other, data in golden.items():
            (root / other).write_bytes(data)


def test_a_record_that_was_damaged_together_with_what_it_records_blesses_nothing(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = shutil.copytree(published, tmp_path / "out")
    monkeypatch.setattr(made_again, "write_figures", lambda output: [])
    (root / derived.DERIVED).unlink()
    (root / "summary.json").write_bytes((root / "summary.json").read_bytes().replace(b"0.5", b"0.9"))
    (root / "health.json").write_bytes((root / "health.json").read_bytes().replace(b'"ok"', b'"ill"'))
    assert [damage.what for damage in verify(root)] == [f"derived.json is missing or damaged{AGAIN}"]
    made_again.make_again(OutputStore(root))
    assert not (root / "health.json").exists(), "summary and record say different things, so nothing is known"
    summary = json.loads((root / "summary.json").read_bytes())
    assert (summary["made_again"], summary["health"]) == (True, None)
    assert summary["metrics"]["nmi/canonical"] == 0.0, "that of the units"
    assert verify(root) == []


@pytest.mark.parametrize("name", [*derived.NAMES[:4], derived.DERIVED, "members.parquet"])
def test_a_link_or_a_folder_in_the_place_of_a_file_is_damage_and_nothing_behind_it_is_touched(
    published: Path, tmp_path: Path, name: str
) -> None:
    root, victim = shutil.copytree(published, tmp_path / "out"), tmp_path / "victim"
    shutil.copyfile(root / name, victim)  # the right bytes, elsewhere
    before = victim.read_bytes()
    (root / name).unlink()
    (root / name).symlink_to(victim)
    assert [(damage.unit, made_again.is_derived(damage)) for damage in verify(root)] == [(None, True)]
    with suppress(ValueError):
        made_again.make_again(OutputStore(root))
    assert victim.read_bytes() == before
    (root / name).unlink(missing_ok=True)
    (root / name).mkdir()
    assert [damage.unit for damage in verify(root)] == [None] * (name != "members.parquet")  # may be deleted


def test_what_no_hash_covers_is_told(published: Path, tmp_path: Path) -> None:
    root = shutil.copytree(published, tmp_path / "out")
    for name in (
        "attempts/0",
        ".mlflow-outbox/0",
        "tmp/owner.1",
        "input_stamps.jsonl",
        "notes.txt",
        "shards/old/a.tar",
    ):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"")
    (root / "elsewhere").symlink_to("/")
    told = {line.partition(": ")[0]: line.partition(": ")[2] for line in uncovered(root)}
    assert told.keys() == {*derived.NOT_COVERED, "notes.txt", "elsewhere", "shards/old"}
    assert {told[name] for name in ("notes.txt", "elsewhere", "shards/old")} == {derived.UNKNOWN}
    assert verify(root) == []
    for stray in ("units/000099.json", "units/x.json", "spectra/000000-0123456789ab.safetensors"):
        (root / stray).write_bytes(b"{}")
    found = verify(root)
    assert [damage.what.partition(" ")[0] for damage in found] == [
        "spectra/000000-0123456789ab.safetensors",
        "units/000099.json",
        "units/x.json",
    ]
    withdraw(root, found)
    (root / "k_steps" / "0004" / "index.parquet").write_bytes(b"")
    (root / "k_steps" / "stray").mkdir()
    (root / "k_steps" / "9").symlink_to(published)
    assert [damage.what.partition(" ")[0] for damage in verify(root)] == ["k_steps/0004:", "k_steps/9", "k_steps/stray"]


def test_every_cut_of_every_file_is_noticed(output: Path) -> None:
    golden, cuts = visible(output), 0
    for name, data in golden.items():
        for length in range(0, len(data), 64):
            (output / name).write_bytes(data[:length])
            assert {damage.unit for damage in verify(output)} == {unit_of(name)}, f"{name} cut at {length}"
            cuts += 1
        (output / name).write_bytes(data)
    assert cuts >= 384


def test_every_cut_of_a_shard_stops_its_readers(tmp_path: Path) -> None:
    """A cut at the border of a member is where other readers see a whole, shorter file."""
    random = np.random.default_rng(0)
    samples = {
        f"k{i}": {"png": random.bytes(1200), "cls": b"1", "feature.npy": npy_bytes(random.random(9))} for i in range(16)
    }
    whole = shard_bytes(samples)
    store = OutputStore(tmp_path / "out")
    store.prepare()
    store.commit(0, {"shards": whole}, {"rows": [], "num_ok": 16})
    shard = store.root / store.committed_unit(0)["files"]["shards"]["name"]
    cuts = range(0, len(whole), 64)
    assert len(cuts) >= 384
    for length in cuts:
        shard.write_bytes(whole[:length])
        with pytest.raises(DamagedUnit):
            store.committed_unit(0)
        if any(whole[length:]):  # else only zeros of the end are gone
            with pytest.raises(DamagedTar):
                list(read_shard(shard))


@pytest.mark.parametrize("lost", [False, True], ids=["flipped", "deleted"])
def test_repair_computes_the_damaged_unit_again_and_nothing_else(output: Path, lost: bool) -> None:
    golden = visible(output)
    for name in golden:
        if lost:
            (output / name).unlink()
        else:
            data = bytearray(golden[name])
            data[len(data) // 2] ^= 1
            (output / name).write_bytes(bytes(data))
        run = SmallRun()
        if name == "run.json":  # whose run it was cannot be told from anything else
            if not lost:
                (output / name).write_bytes(b"{" + golden[name])
            with pytest.raises(ValueError, match="choose another folder"):
                run(output)
            (output / name).write_bytes(golden[name])
            continue
        run(output, damages=verify(output))
        unit = unit_of(name)
        assert run.computed == ([] if unit is None else [unit]), name
        assert visible(output) == golden, name
    assert verify(output) == []


def test_a_record_of_the_run_that_can_be_restored_is(output: Path) -> None:
    """The settings are those of the run, and something in the file beside them is damaged."""
    golden = visible(output)
    (output / "run.json").write_bytes(golden["run.json"].replace(b'"output.path": "/', b'"output.path": "_'))
    assert [damage.unit for damage in verify(output)] == [None]
    SmallRun()(output)
    assert visible(output) == golden


@pytest.mark.parametrize("name", ["input.parquet", "index.parquet", "members.parquet"])
def test_a_table_of_ours_with_a_wrong_bit_is_not_even_parsed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pyarrow may end the process that reads it; whoever opens it looks at its hash first."""
    from clarep_ray.cluster.stages import _manifest
    from clarep_ray.data import parquet_files
    from clarep_ray.data.clarep_index import finish, read_index, read_root
    from clarep_ray.data.clarep_members import locate_members
    from clarep_ray.data.manifest import InputManifest, unchanged_hashes, write_stamps
    from clarep_ray.errors import InputChanged

    root = tmp_path / "out"
    SmallRun()(root)
    frozen = InputManifest(root / "input.parquet", read_root(root)["input_file_sha256"])
    write_stamps(root, str(root), [row.source for row in frozen.rows()], frozen.sha256)
    located = locate_members(root)[1]
    _manifest.cache_clear()
    later = InputManifest(frozen.path, frozen.sha256)
    data = bytearray((root / name).read_bytes())
    data[-9] ^= 1  # the last byte of the footer
    (root / name).write_bytes(bytes(data))
    plain = parquet_files.pq.read_metadata

    def read_metadata(path: Path) -> Any:
        assert path.name != name, "it is parsed"
        return plain(path)

    monkeypatch.setattr(parquet_files.pq, "read_metadata", read_metadata)
    if name == "members.parquet":
        assert locate_members(root)[1].equals(located)
        return
    assert [damage.unit for damage in verify(root)] == [None]
    if name == "index.parquet":
        with pytest.raises(parquet_files.DamagedParquet, match=r"index\.parquet' is damaged: its sha256 is"):
            read_index(root)
        (root / "members.parquet").unlink()
        with pytest.raises(ValueError, match=r"index\.parquet is missing or damaged; run: uv run jobs/verify.py"):
            locate_members(root)
        return
    assert unchanged_hashes(root, str(root)) == {}
    with pytest.raises(InputChanged, match=r"input\.parquet is not what this run began with"):
        _manifest(str(root), "run", frozen.sha256)
    with pytest.raises(parquet_files.DamagedParquet, match=r"input\.parquet' is damaged"):
        later.unit_rows(0)
    with pytest.raises(parquet_files.DamagedParquet, match=r"input\.parquet' is damaged"):
        finish(OutputStore(root), frozen, "train", {})  # opened before the accident


def test_a_blank_too_many_in_a_manifest_holds_no_resumed_run_up_and_is_noticed_when_it_ends(tmp_path: Path) -> None:
    root = tmp_path / "out"
    SmallRun()(root)
    path = root / "units" / "000001.json"
    path.write_bytes(path.read_bytes().replace(b"\n ", b"\n  ", 1))
    assert [damage.unit for damage in verify(root)] == [1]
    store = OutputStore(root)
    assert [unit for unit, _ in store.each_committed(to_the_byte=False)] == [0, 1]
    with pytest.raises(DamagedUnit, match=r"unit 1 .* does not match its own hash"):
        SmallRun()(root)
    path.write_bytes(path.read_bytes().replace(b'"num_ok": 1', b'"num_ok": 2'))
    with pytest.raises(DamagedUnit, match=r"unit 1 .* does not match its own hash"):
        list(store.each_committed(to_the_byte=False))


def test_a_thousand_committed_units_are_found_again_at_once(tmp_path: Path) -> None:
    """The bar is 5 s for ten thousand; this one is wide, for a machine that does other work."""
    store = OutputStore(tmp_path / "out")
    store.prepare()
    rows = [{"key": f"{number}_png", "status": "ok", "num_removed": 2, "elbow_margin": 0.0123} for number in range(64)]
    store.commit(0, {"shards": b"one"}, {"rows": rows, "num_ok": len(rows)})
    first = store.committed_unit(0)
    entry = first["files"]["shards"]
    for unit in range(1, 1000):
        name = entry["name"].replace("000000-", f"{unit:06d}-")
        os.link(store.root / entry["name"], store.root / name)
        record = first | {"unit": unit, "files": {"shards": entry | {"name": name}}}
        store.unit_path(unit).write_bytes(sealed(record, UNIT_SEAL))
    began = time.monotonic()
    assert sum(1 for _ in store.each_committed(to_the_byte=False)) == 1000
    assert time.monotonic() - began < 5


def test_files_that_change_places_are_noticed(output: Path) -> None:
    golden = visible(output)
    for folder in ("shards", "spectra", "units"):
        first, second = sorted(name for name in golden if name.startswith(folder))[:NUM_UNITS]
        (output / first).write_bytes(golden[second])
        (output / second).write_bytes(golden[first])
        assert {damage.unit for damage in verify(output)} == {0, 1}
        for name in (first, second):
            (output / name).write_bytes(golden[name])
    (output / "shards" / "000007-0123456789ab.tar").write_bytes(b"")
    assert [damage.what for damage in verify(output)] == ["shards/000007-0123456789ab.tar belongs to no unit"]
    (output / "shards" / "000007-0123456789ab.tar").unlink()


class SmallTraining:
    """A training of few bytes, as `models/checkpoints.py` keeps it."""

    def __init__(self) -> None:
        self.step, self.weights, self.loss = 0, torch.zeros(7), {"mean": 0.0}

    def parts(self) -> dict[str, dict[str, torch.Tensor]]:
        return {"network": {"weights": self.weights}, "optimizer": {"moment": self.weights * 2}}

    def notes(self) -> dict[str, Any]:
        return {"loss": self.loss, "seed": 3}

    def restore(self, parts: dict[str, dict[str, torch.Tensor]], notes: dict[str, Any]) -> None:
        self.weights, self.loss = parts["network"]["weights"], notes["loss"]


def checkpoints(root: Path) -> Path:
    shutil.rmtree(root, ignore_errors=True)
    training = SmallTraining()
    for step in (1, 2):
        training.step, training.weights, training.loss = step, torch.full((7,), float(step)), {"mean": 1 / step}
        save_checkpoint(training, root, "mark")
    return root


def sweep_checkpoints(root: Path, count: int) -> None:
    newest = checkpoints(root) / "step-00000002"
    golden = {path.name: path.read_bytes() for path in newest.iterdir()}
    names = sorted(golden)
    for seed in seeds(count):
        name = names[seed % len(names)]
        data, what = damaged(golden[name], np.random.default_rng(seed))
        if data == golden[name]:
            continue
        (newest / name).write_bytes(data)
        resumed = SmallTraining()
        with pytest.warns(UserWarning, match="step-00000002 is damaged"):
            load_newest(resumed, root, "mark")
        (newest / name).write_bytes(golden[name])
        assert (resumed.step, resumed.loss) == (1, {"mean": 1.0}), f"{name}: {what}; {replay(seed, 'checkpoint')}"
        assert torch.equal(resumed.weights, torch.ones(7))
    resumed = SmallTraining()
    load_newest(resumed, root, "mark")
    assert resumed.step == 2


def test_every_accident_to_a_checkpoint_goes_back_to_the_one_before(tmp_path: Path) -> None:
    sweep_checkpoints(tmp_path / "checkpoints", CHECKPOINT_FLIPS)


@pytest.mark.nightly
def test_thousands_of_accidents_to_a_checkpoint_go_back_to_the_one_before(tmp_path: Path) -> None:
    sweep_checkpoints(tmp_path / "checkpoints", NIGHTLY_CHECKPOINT_FLIPS)
