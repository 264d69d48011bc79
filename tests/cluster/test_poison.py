"""Pictures that kill or hang the process that works on them: found, named, and set aside where that is allowed.

The stages are the engine's; most tests let forks of this process die instead of Ray's actors, which take seconds to
come back.
"""

import json
import math
import multiprocessing
import os
import re
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from clarep_ray import cli, dotted
from clarep_ray.cluster import extract, runtime, stages
from clarep_ray.cluster.calibrate_pieces import FEATURES, CalibrateStage, CalibrationContext
from clarep_ray.cluster.evaluate_units import EvaluateStage, EvaluationContext, Unit
from clarep_ray.cluster.extract import run_extraction
from clarep_ray.config import ExtractConfig
from clarep_ray.data import units
from clarep_ray.data.clarep_index import read_index
from clarep_ray.data.class_list import ClassList
from clarep_ray.data.manifest import freeze
from clarep_ray.data.records import safe_key
from clarep_ray.data.selection import select
from clarep_ray.data.shards import read_shard
from clarep_ray.data.sources import open_source
from clarep_ray.data.store import OutputStore
from clarep_ray.data.verify import verify
from clarep_ray.dotted import override
from clarep_ray.errors import PoisonedInput, UnitGivenUp
from clarep_ray.models.extractor import UnitExtractor
from clarep_ray.presets import CALIBRATE, EVALUATE
from tests.cluster.conftest import in_process
from tests.cluster.reference import small_config, starts
from tests.data import trees

PIECES = {"extract": r"\d{6}", "decode": r"\d{6}-decode"}
HARMS: dict[str, Callable[[], Any]] = {
    "kills": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "sleeps": lambda: time.sleep(1e6),
    "holds_lock": lambda: re.match("(a+)+$", "a" * 64 + "b"),
}
DEADLINE_S = 5.0


def deaths(output: Path, stage: str) -> int:
    """Return how many processes ended while they were at work in a stage."""
    return sum(not path.with_name(f"{path.name}.end").is_file() for path in starts(output, PIECES[stage]))


def samples(output: Path) -> dict[str, dict[str, bytes]]:
    """Return the members of every sample."""
    names = [manifest["files"]["shards"]["name"] for _, manifest in OutputStore(output).each_committed()]
    return {sample.key: sample.members for name in names for sample in read_shard(output / name)}


def run_calmly(config: ExtractConfig, **changes: Any) -> dict[str, Any]:
    """Run in this process, where nothing harms it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtime, "connect", lambda: {"CPU": 1.0})
        patch.setattr(extract, "stream", in_process)
        changed = {name.replace("__", "."): value for name, value in changes.items()}
        return run_extraction(override(config, changed), lambda _: None)


def check_neighbours(output: Path, calm: Path, poison: Sequence[str]) -> None:
    """Check that all but the poison is as in an undisturbed run, to the byte."""
    assert verify(output) == []
    reasons = {row["id"]: row["reason"] for row in read_index(output).to_pylist() if row["status"] == "rejected"}
    assert reasons == dict.fromkeys(poison, "poison")
    keys = {safe_key(name) for name in poison}
    assert samples(output) == {key: members for key, members in samples(calm).items() if key not in keys}


def in_forks(context: Any, todo: Sequence[int], workers: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Do units in the engine's stages, each in forks that are started again until one has lived through it."""
    stage = stages.ExtractStage.__new__(stages.ExtractStage)
    stage.context, stage.extractor = context, UnitExtractor(context.extract_config)
    report = Path(context.output) / "tmp" / "report"

    def work(unit: int) -> None:
        decoded = stages.decode_stage(pa.table({"unit": [unit]}), context)
        report.write_text(json.dumps(stages.commit_stage(stage(decoded), context).to_pylist()))

    for unit in todo:
        for _ in range(40):
            process = multiprocessing.get_context("fork").Process(target=work, args=(unit,))
            process.start()
            process.join(timeout=60)
            if process.exitcode == 0:
                break
        yield from json.loads(report.read_text())
        report.unlink()


def harmed(patch: pytest.MonkeyPatch, stage: str, harm: Callable[[], Any], poison: Sequence[str]) -> None:
    """Let some pictures harm whoever decodes them, or takes them through the model."""
    keys = {safe_key(name) for name in poison}
    plain, plain_decode = stages.extract_unit, units.decode_row

    def extract_unit(extractor: Any, blob: units.UnitBlob) -> units.UnitBlob:
        if keys & {record["key"] for record in blob.records if record["status"] == "ok"}:
            harm()
        return plain(extractor, blob)

    def decode_row(source: Any, row: Any, *rest: Any) -> Any:
        if row.key in keys:
            harm()
        return plain_decode(source, row, *rest)

    if stage == "extract":
        patch.setattr(stages, "extract_unit", extract_unit)
    else:
        patch.setattr(units, "decode_row", decode_row)


@pytest.fixture
def forks(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(runtime, "connect", lambda: {"CPU": 1.0})
    monkeypatch.setattr(extract, "stream", in_forks)
    return monkeypatch


@pytest.fixture(scope="module")
def calm(weights: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> ExtractConfig:
    """An undisturbed run of 28 images in units of 8, with side-cars."""
    output = tmp_path_factory.mktemp("calm") / "out"
    config = small_config(weights, images, output, engine__unit_size=8, output__keep_spectrum=True)
    run_calmly(config)
    return config


@pytest.mark.parametrize("stage", PIECES)
def test_poison_becomes_a_reject_and_its_neighbours_keep_their_bytes(
    stage: str, calm: ExtractConfig, tmp_path: Path, forks: pytest.MonkeyPatch
) -> None:
    poison = ["0/img_1.png", "0/img_6.png", "3/img_6.png"]
    config = override(calm, {"output.path": str(tmp_path / "out"), "engine.allow_poison": True})
    with forks.context() as patch:
        harmed(patch, stage, HARMS["kills"], poison)
        summary = run_extraction(config, lambda _: None)
    assert summary["rejects"] == {"poison": len(poison)}
    assert deaths(tmp_path / "out", stage) <= len(poison) * (3 + math.log2(8))
    check_neighbours(tmp_path / "out", Path(calm.output.path), poison)
    # Without an SVD, from what was kept: no stand-in passes for a picture.
    changes = {"output__from_spectrum": str(tmp_path / "out"), "output__path": str(tmp_path / "again")}
    again = run_calmly(config, **changes, output__keep_spectrum=False)
    assert again["rejects"] == {"nonfinite_inversion": len(poison)}


def test_poison_that_is_not_allowed_is_named_and_everything_else_is_done(
    calm: ExtractConfig, tmp_path: Path, forks: pytest.MonkeyPatch
) -> None:
    config = override(calm, {"output.path": str(tmp_path / "out")})
    with forks.context() as patch:
        harmed(patch, "extract", HARMS["kills"], ["1/img_2.png"])
        with pytest.raises(PoisonedInput) as caught:
            run_extraction(config, lambda _: None)
    line, code = cli.known_fault(caught.value) or ("", 0)
    assert code == 3
    here = f"1/img_2.png (unit 1; died on {socket.gethostname()})"
    assert line.startswith(f"samples kill or hang the process that works on them: {here}; all units without one are")
    assert list(OutputStore(tmp_path / "out").committed_units()) == [0, 2, 3]
    assert run_calmly(config)["num_ok"] == 28
    assert samples(tmp_path / "out") == samples(Path(calm.output.path))


@pytest.mark.nightly
def test_a_hang_is_named_with_where_its_stack_lies(
    calm: ExtractConfig, tmp_path: Path, forks: pytest.MonkeyPatch
) -> None:
    config = override(calm, {"output.path": str(tmp_path / "out"), "engine.unit_deadline_s": DEADLINE_S})
    config = override(config, {"data.limit": 1, "engine.unit_size": 1})
    forks.setattr(tempfile, "tempdir", str(tmp_path))
    with forks.context() as patch:
        harmed(patch, "extract", HARMS["sleeps"], ["0/img_0.png"])
        with pytest.raises(PoisonedInput) as caught:
            run_extraction(config, lambda _: None)
    found = re.search(rf"hung, (\S+) on {re.escape(socket.gethostname())} says where", str(caught.value))
    assert found is not None, str(caught.value)
    assert "extract_unit" in Path(found[1]).read_text()


@pytest.mark.nightly
@pytest.mark.usefixtures("ray_session")
def test_an_actor_of_ray_that_is_killed_by_a_picture_knows_it_when_it_comes_back(
    weights: Path, images: Path, tmp_path: Path, armed: Path
) -> None:
    """Three times: a unit of one picture, beside another unit."""
    config = small_config(weights, images, tmp_path / "out", engine__unit_size=1, data__limit=2)
    (armed / "kills_extract").write_text(safe_key("0/img_0.png"))
    with pytest.raises(PoisonedInput, match=r"0/img_0\.png \(unit 0; died on "):
        run_extraction(config, lambda _: None)
    assert deaths(tmp_path / "out", "extract") == 3
    assert list(OutputStore(tmp_path / "out").committed_units()) == [1]


@pytest.mark.nightly
@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("stage", PIECES)
@pytest.mark.parametrize("harm", HARMS)
def test_poison_on_ray_becomes_a_reject_and_its_neighbours_keep_their_bytes(
    harm: str, stage: str, calm: ExtractConfig, tmp_path: Path, armed: Path
) -> None:
    changes = {"output.path": str(tmp_path / "out"), "engine.allow_poison": True, "engine.num_actors": 2}
    config = override(calm, changes | {"engine.unit_deadline_s": None if harm == "kills" else 4 * DEADLINE_S})
    (armed / f"{harm}_{stage}").write_text(safe_key("1/img_2.png"))
    summary = run_extraction(config, lambda _: None)
    assert summary["rejects"] == {"poison": 1}
    assert deaths(tmp_path / "out", stage) <= 3 + math.log2(8)
    check_neighbours(tmp_path / "out", Path(calm.output.path), ["1/img_2.png"])


@pytest.mark.nightly
@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("ray_session")
def test_poison_holds_up_no_other_unit(weights: Path, tmp_path: Path, armed: Path) -> None:
    """Eight units of eight pictures on two actors, of which one dies again and again."""
    pictures = trees.image_folder(tmp_path / "in", ("0", "1", "2", "3"), per_class=16)
    config = small_config(weights, pictures, tmp_path / "out", engine__unit_size=8, engine__num_actors=2)
    config = override(config, {"engine.allow_poison": True})
    began = time.time()
    run_extraction(override(config, {"output.path": str(tmp_path / "calm")}), lambda _: None)
    undisturbed = ended_after(tmp_path / "calm", began)
    (armed / "kills_extract").write_text(safe_key("1/img_0.png"))
    began = time.time()
    assert run_extraction(config, lambda _: None)["rejects"] == {"poison": 1}
    disturbed = ended_after(tmp_path / "out", began)
    poison = disturbed.pop(2)
    print(f"undisturbed {max(undisturbed.values()):.0f} s; with poison its unit {poison:.0f} s, others {disturbed}")
    assert max(disturbed.values()) <= poison


def ended_after(output: Path, began: float) -> dict[int, float]:
    """Return when each unit was committed [s]."""
    return {int(path.stem): path.stat().st_mtime - began for path in (output / "units").iterdir()}


def until_one_lives(folder: Path, work: Callable[[], Any]) -> tuple[str, int]:
    """Do work in forks until one comes to an end; return what it said, and how many died before."""
    said = folder / "said"

    def work_and_say() -> None:
        try:
            work()
            said.write_text("done")
        except (PoisonedInput, UnitGivenUp) as error:
            said.write_text(f"{type(error).__name__}: {error}")

    for died in range(40):
        process = multiprocessing.get_context("fork").Process(target=work_and_say)
        process.start()
        process.join(timeout=60)
        if process.exitcode == 0:
            return said.read_text(), died
    raise AssertionError("it never ends")


class KilledBy:
    """An evaluator or calibrator whom one of eight pictures kills, or every one; notes what it finished."""

    def __init__(self, key: str | None, done: Path) -> None:
        self.key, self.done = key, done

    def meet(self, keys: Sequence[str]) -> None:
        if self.key is None or self.key in keys:
            os.kill(os.getpid(), signal.SIGKILL)

    def results(self, unit: Any, blob: units.UnitBlob) -> dict[str, Any]:
        self.meet([record["key"] for record in blob.records if (blob.arrays["images"] != units.STAND_IN).any()])
        return {}

    def do(self, unit: Any, blob: units.UnitBlob, parts: Any) -> None:
        self.results(unit, blob)
        self.done.touch()

    def feature_map(self, images: Any, labels: Any, keys: Sequence[str], *_: Any) -> dict[str, Any]:
        self.meet(keys if (images != units.STAND_IN).any() else [])
        return {"x": np.zeros(len(keys), np.float32)}


def evaluated(folder: Path, key: str | None) -> Callable[[], Any]:
    """Return what an actor of an evaluation does with a unit of eight pictures."""
    config = override(EVALUATE["digits_smoke"]().config, {"output": str(folder)})
    stage = EvaluateStage.__new__(EvaluateStage)
    stage.context = EvaluationContext(dotted.flatten(config), str(folder), "run", ())
    stage.evaluator = KilledBy(key, folder / "done")  # type: ignore[assignment]
    unit = Unit(role=0, benchmark="digits", part="test", attack="pgd", seed=0, count=None, start=0, stop=8)
    records = [{"key": f"key-{row}", "labels": [0], "source": "", "offset": 0, "reject": None} for row in range(8)]
    blob = units.UnitBlob({"images": np.arange(8 * 12, dtype=np.uint8).reshape(8, 2, 2, 3)}, records)
    table = pa.table({"unit": [json.dumps(asdict(unit))], "payload": pa.array([blob.to_bytes()], pa.large_binary())})
    return lambda: stage(table)


def calibrated(folder: Path, key: str | None) -> Callable[[], Any]:
    """Return what an actor of a calibration does with a piece of eight pictures."""
    pictures = trees.image_folder(folder / "in", ("0", "1"), per_class=4)
    config = override(CALIBRATE["digits_smoke"]().config, {"output": str(folder)})
    config = override(config, {"data.source": "image_folder", "data.path": str(pictures)})
    source = open_source(config.data, ClassList(("0", "1")))
    rows = [asdict(row) for row in freeze(source, select(source.rows(), config.data))]
    stage = CalibrateStage.__new__(CalibrateStage)
    stage.context = CalibrationContext(dotted.flatten(config), str(folder), 8, ("0", "1"), "run")
    stage.calibrator = KilledBy(None if key is None else rows[int(key[-1])]["key"], folder / "done")  # type: ignore
    item = {"group": FEATURES, "number": 0, "layers": [], "times": [], "rows": rows}
    return lambda: stage(pa.Table.from_pylist([{"item": json.dumps(item)}]))


@pytest.mark.parametrize("job", [evaluated, calibrated])
def test_a_picture_that_kills_an_evaluation_or_calibration_is_named(job: Any, tmp_path: Path) -> None:
    OutputStore(tmp_path).prepare()
    said, died = until_one_lives(tmp_path, job(tmp_path, "key-5"))
    name = {"evaluated": "key-5", "calibrated": "1/img_1.png"}[job.__name__]
    assert said.startswith("PoisonedInput: ")
    assert f"pictures kill or hang the process that works on them: {name} (died on " in said
    assert died <= 3 + math.log2(8)
    assert not (tmp_path / "done").exists()


@pytest.mark.parametrize("job", [evaluated, calibrated])
def test_an_evaluation_or_calibration_that_dies_of_everything_blames_no_picture(job: Any, tmp_path: Path) -> None:
    OutputStore(tmp_path).prepare()
    said, _ = until_one_lives(tmp_path, job(tmp_path, None))
    assert said.startswith("UnitGivenUp: unit ")
    assert "and no picture of it kills by itself" in said
