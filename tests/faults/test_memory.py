"""Memory that is short rejects no picture: the work is tried again, then its unit is given up and named, with 6."""

import errno
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from clarep_ray import cli
from clarep_ray.cluster import memory, runtime, stages
from clarep_ray.cluster.extract import run_extraction
from clarep_ray.cluster.memory import is_short_of_memory, while_memory_is_short
from clarep_ray.config import EngineConfig
from clarep_ray.data import pixels, units
from clarep_ray.data.records import safe_key
from clarep_ray.data.store import OutputStore
from clarep_ray.data.verify import verify
from clarep_ray.errors import UnitGivenUp
from tests.cluster.conftest import images, weights, without_ray
from tests.cluster.reference import committed_hashes, plain_loop, small_config
from tests.cluster.test_poison import run_calmly
from tests.data import trees

__all__ = ["images", "weights", "without_ray"]
MOST = EngineConfig().max_attempts
GPU = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.1 GiB"
SHORT: dict[str, Callable[[], Exception]] = {
    "python": MemoryError,
    "numpy": lambda: error_of(lambda: np.empty(10**15)),
    "arrow": lambda: pa.ArrowMemoryError("malloc of size 5 failed"),
    "torch on the host": lambda: error_of(lambda: torch.empty(10**15)),
    "torch on a GPU": lambda: torch.OutOfMemoryError(GPU),
    "cuBLAS": lambda: RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
    "kernel": lambda: OSError(errno.ENOMEM, "Cannot allocate memory"),
}
OTHER: dict[str, Exception] = {
    "disk": OSError(errno.ENOSPC, "No space left on device"),
    "value": ValueError("out of memory"),
    "runtime": RuntimeError("The size of tensor a (3) must match"),
}


def error_of(work: Callable[[], Any]) -> Exception:
    with pytest.raises((MemoryError, RuntimeError)) as caught:
        work()
    return caught.value


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "PAUSE_S", 0.0)


def raising(error: Exception, times: int) -> Callable[[], str]:
    """Return work that raises so many times."""
    left = [error] * times

    def work() -> str:
        if left:
            raise left.pop()
        return "done"

    return work


@pytest.mark.parametrize("kind", SHORT)
def test_every_library_s_word_for_it_is_known_and_tried_again(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gc, "collect", lambda: 0)  # half a second in a process of many tests
    error = SHORT[kind]()
    assert is_short_of_memory(error)
    assert while_memory_is_short("it", EngineConfig(), raising(error, MOST - 1)) == "done"
    with pytest.raises(UnitGivenUp, match=f"memory was short {MOST} times for it; .*--engine.micro-batch below 12"):
        while_memory_is_short("it", EngineConfig(), raising(error, MOST))


@pytest.mark.parametrize("kind", OTHER)
def test_other_errors_are_raised_at_once(kind: str) -> None:
    assert not is_short_of_memory(OTHER[kind])
    with pytest.raises(type(OTHER[kind])):
        while_memory_is_short("it", EngineConfig(), raising(OTHER[kind], 1))


def test_ray_does_not_try_again_what_was_given_up() -> None:
    from ray._common.retry import matches_error

    with pytest.raises(UnitGivenUp) as caught:
        while_memory_is_short("it", EngineConfig(), raising(torch.OutOfMemoryError(GPU), MOST))
    assert "a GPU's batch" in str(caught.value)
    assert not any(matches_error(pattern, f"UnitGivenUp: {caught.value}") for pattern in runtime.TRANSIENT)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (MemoryError(), "memory was short: nothing more is known"),
        (SHORT["numpy"](), "memory was short: Unable to allocate 7.11 PiB for an array"),
        (torch.OutOfMemoryError(GPU), f"memory was short: {GPU}"),
        (RuntimeError("ray::f() (pid=3)\n  raise MemoryError\nMemoryError"), "memory was short: nothing more"),
        (RuntimeError("ray::f()\nnumpy._core._exceptions._ArrayMemoryError: Unable to"), "memory was short: Unable to"),
        (RuntimeError("ray::f()\nMemoryError: x\n\nclarep_ray.errors.UnitGivenUp: unit 3"), "unit 3"),
    ],
)
def test_errors_of_memory_end_with_6_wherever_they_come_from(error: Exception, line: str) -> None:
    said, code = cli.known_fault(error) or ("", 0)
    assert said.startswith(line)
    assert code == 6


def test_a_full_object_store_ends_as_a_full_disk() -> None:
    error = RuntimeError(
        "ray::f()\nray.exceptions.OutOfDiskError: Local disk is full\nThe object cannot be created ..."
    )
    line = "Ray's object store is full, and so is the disk it spills to: Local disk is full"
    assert cli.known_fault(error) == (line, 5)


def test_ray_s_own_is_known() -> None:
    from ray.exceptions import OutOfMemoryError

    killed = OutOfMemoryError("Task was killed due to the node running low on memory.\nMemory on the node was ...")
    assert cli.known_fault(killed) == ("memory was short: Task was killed due to the node running low on memory.", 6)


STAGES = {
    "decoding": (units, "decode_row"),
    "the model on": (stages, "extract_unit"),
    "committing": (stages, "finished_files"),
}


@pytest.mark.parametrize(
    "doing", [pytest.param(doing, marks=[] if doing == "the model on" else pytest.mark.nightly) for doing in STAGES]
)
def test_a_stage_that_is_short_of_memory_gives_its_unit_up_and_rejects_nothing(
    doing: str, weights: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_ray: None
) -> None:
    config = small_config(weights, images, tmp_path / "out", data__limit=8)
    module, name = STAGES[doing]
    plain, tried = getattr(module, name), list[str]()

    def short(*arguments: Any) -> Any:
        if OutputStore(tmp_path / "out").units():  # it is the second unit
            tried.append(doing)
            raise MemoryError
        return plain(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(module, name, short)
        with pytest.raises(UnitGivenUp, match=f"memory was short {MOST} times for {doing} unit 1;"):
            run_extraction(config, lambda _: None)
    assert tried == [doing] * MOST
    assert OutputStore(tmp_path / "out").units() == [0]
    assert run_extraction(config, lambda _: None)["rejects"] == {}
    assert verify(tmp_path / "out") == []


@pytest.mark.nightly
@pytest.mark.timeout(600)
@pytest.mark.parametrize("stage", ["decode", "extract"])
def test_an_actor_or_task_of_ray_without_memory_rejects_nothing(
    stage: str, weights: Path, images: Path, tmp_path: Path, ray_session: None, armed: Path
) -> None:
    """One picture takes more memory than its process may have, every time it comes."""
    config = small_config(weights, images, tmp_path / "out", engine__max_attempts=2, engine__num_actors=2)
    (armed / f"starves_{stage}").write_text(safe_key("0/img_5.png"))
    with pytest.raises(Exception, match="memory was short") as caught:
        run_extraction(config, lambda _: None)
    line, code = cli.known_fault(caught.value) or ("", 0)
    assert code == 6, line
    doing = {"decode": "decoding", "extract": "the model on"}[stage]
    assert line.startswith(f"memory was short 2 times for {doing} unit 1; what helps is --engine.num-actors"), line
    assert not any(
        row["status"] == "rejected"
        for _, unit in OutputStore(tmp_path / "out").each_committed()
        for row in unit["rows"]
    )
    (armed / f"starves_{stage}").unlink()
    # Not on Ray: while the error is held, so are the failed run's actors.
    assert run_calmly(config)["rejects"] == {}
    assert committed_hashes(tmp_path / "out") == plain_loop(config, tmp_path)


def test_a_codec_without_memory_is_no_damaged_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: Any) -> None:
        raise OSError("out of memory when reading image file")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    with pytest.raises(MemoryError, match="out of memory"):
        pixels.decode_image(trees.picture_bytes(1, "JPEG"), 8)
