"""One Ray session for the module's tests, and faults injected from test code alone."""

import errno
import os
import re
import resource
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.data import trees

FAULTS = "CLAREP_TEST_FAULTS"


def arm_faults() -> None:
    """Run at the start of every Ray worker: kill or hang the process on a key named in a fault file."""
    folder = Path(os.environ[FAULTS])

    from clarep_ray.cluster import stages
    from clarep_ray.data import units

    plain, plain_decode = stages.extract_unit, units.decode_row

    def due(fault: str, keys: set[str]) -> bool:
        path = folder / fault
        return path.is_file() and not keys.isdisjoint(path.read_text().split())

    def harm(keys: set[str], stage: str) -> None:
        if due(f"kills_{stage}", keys):
            os.kill(os.getpid(), signal.SIGKILL)
        if due(f"sleeps_{stage}", keys):
            time.sleep(1e6)
        if due(f"holds_lock_{stage}", keys):
            re.match("(a+)+$", "a" * 64 + "b")  # one call of C, with Python's lock, for years
        if due(f"starves_{stage}", keys):
            starve()

    def decode_row(source, row, *rest):
        harm({row.key}, "decode")
        return plain_decode(source, row, *rest)

    def extract_unit(extractor, blob):
        slow = folder / "slow"
        harm({record["key"] for record in blob.records if record["status"] == "ok"}, "extract")
        if (folder / "flaky").is_file():
            (folder / "flaky").unlink()
            raise OSError(errno.EIO, "Input/output error")
        if slow.is_file():
            time.sleep(float(slow.read_text()))
        return plain(extractor, blob)

    stages.extract_unit, units.decode_row = extract_unit, decode_row


def starve() -> None:
    """Ask for more memory than this process may have: the system refuses, and Python says so."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**26, before[1]))
    try:
        bytearray(2**30)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.fixture(scope="session")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder whose files arm faults in the workers: `slow` (seconds), `flaky` (once), and, with keys of pictures in
    them, `kills_`, `sleeps_`, `holds_lock_` and `starves_`, each followed by `decode` or `extract`."""
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="session")
def ray_session(faults: Path) -> Iterator[None]:
    from clarep_ray.cluster import runtime

    os.environ["PYTHONPATH"] = str(Path(__file__).parents[2])  # workers import this file
    runtime.prepare_environment()
    import ray

    runtime_env = {"worker_process_setup_hook": arm_faults, "env_vars": {FAULTS: str(faults)}}
    for attempt in (1, 2):
        try:
            ray.init(
                "local",
                num_cpus=2,
                include_dashboard=False,
                object_store_memory=500_000_000,
                log_to_driver=False,
                logging_level="error",
                runtime_env=runtime_env,
            )
            break
        except Exception:
            ray.shutdown()
            if attempt == 2:
                raise
    yield
    ray.shutdown()


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stream the units through the same stages in this process: what is tested is not the engine."""
    from clarep_ray.cluster import calibrate, calibrate_scores, evaluate, extract, runtime

    monkeypatch.setattr(runtime, "connect", lambda: {"CPU": 1.0})
    monkeypatch.setattr(extract, "stream", in_process)
    monkeypatch.setattr(calibrate, "_stream", pieces_in_process)
    monkeypatch.setattr(calibrate_scores, "_score_stream", scores_in_process)
    monkeypatch.setattr(evaluate, "_stream", evaluation_in_process)


def in_process(context: Any, todo: Sequence[int], workers: dict[str, Any]) -> Iterator[dict[str, Any]]:
    import pyarrow as pa

    from clarep_ray.cluster.stages import ExtractStage, commit_stage, decode_stage
    from clarep_ray.models.extractor import UnitExtractor

    stage = ExtractStage.__new__(ExtractStage)
    stage.context, stage.extractor = context, UnitExtractor(context.extract_config)
    for unit in todo:
        yield from commit_stage(stage(decode_stage(pa.table({"unit": [unit]}), context)), context).to_pylist()


def pieces_in_process(context: Any, items: list[dict[str, Any]], workers: dict[str, Any]) -> Iterator[dict[str, Any]]:
    import json

    import pyarrow as pa

    from clarep_ray.cluster.calibrate_pieces import CalibrateStage
    from clarep_ray.models.calibrator import Calibrator

    stage = CalibrateStage.__new__(CalibrateStage)
    stage.context, stage.calibrator = context, Calibrator(context.calibrate_config)
    for item in items:
        yield from stage(pa.Table.from_pylist([{"item": json.dumps(item)}])).to_pylist()


def scores_in_process(score: Any, columns: list[tuple[str, str]]) -> Iterator[dict[str, Any]]:
    import pyarrow as pa

    yield from score(pa.Table.from_pylist([{"group": group, "name": name} for group, name in columns])).to_pylist()


def evaluation_in_process(context: Any, units: Sequence[Any], workers: dict[str, Any]) -> Iterator[dict[str, Any]]:
    import json
    from dataclasses import asdict

    import pyarrow as pa

    from clarep_ray.cluster.evaluate_units import EvaluateStage, Evaluator, read_stage

    stage = EvaluateStage.__new__(EvaluateStage)
    stage.context, stage.evaluator = context, Evaluator(context.evaluate_config)
    for unit in units:
        yield from stage(read_stage(pa.table({"unit": [json.dumps(asdict(unit))]}), context)).to_pylist()


@pytest.fixture
def armed(faults: Path) -> Iterator[Path]:
    yield faults
    for file in faults.iterdir():
        file.unlink()


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model."""
    from tests.cluster.reference import tiny_weights  # not at the top: it imports torch into Ray's workers

    return tiny_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """28 pictures of four classes."""
    return trees.image_folder(tmp_path_factory.mktemp("images"), ("0", "1", "2", "3"), per_class=7)
