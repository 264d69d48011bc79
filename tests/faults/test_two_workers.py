"""A training of two workers, one of which is killed: both end, and started again they come to the same weights."""

import json
import multiprocessing
import os
import signal
import warnings
from datetime import timedelta
from pathlib import Path

import pytest

from clarep_ray.data.shards import sha256_file
from tests.cadistill.small import small_config

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(900)]
FORK = multiprocessing.get_context("fork")
PEER_S = 20.0
"""How long a worker waits for one that is gone; over TCP it mostly notices at once."""
SAVE = "while it saves"
KILLS = [(1, 1), (0, 3), (1, 4), (1, 8), (0, 8), (0, SAVE)]
"""Which worker, and after which of eight steps; the first is also the one that saves."""


def worker(rank: int, files: Path, output: Path, meeting: Path, kill: tuple[int, int | str] | None) -> None:
    import torch
    from torch.nn.parallel import DistributedDataParallel

    from clarep_ray.cadistill import run
    from clarep_ray.cadistill.inputs import open_inputs
    from clarep_ray.models import checkpoints

    torch.set_num_threads(1)
    warnings.simplefilter("error", UserWarning)  # no checkpoint is damaged
    config = small_config(files, "vanilla", checkpoint_every=2, num_workers=2, output=str(output))
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=2, timeout=timedelta(seconds=PEER_S)
    )
    victim, when = kill or (None, None)
    plain_steps, plain_seal = run.train_steps, checkpoints.sealed

    def train_steps(*arguments):  # type: ignore[no-untyped-def]
        for step in plain_steps(*arguments):
            if (rank, step) == (victim, when):
                os.kill(os.getpid(), signal.SIGKILL)
            yield step

    def sealed(state, name):  # type: ignore[no-untyped-def]
        if (rank, when, state["step"]) == (victim, SAVE, 6):
            os.kill(os.getpid(), signal.SIGKILL)  # the tensors are there, and what says so is not
        return plain_seal(state, name)

    run.train_steps, checkpoints.sealed = train_steps, sealed
    opened = open_inputs(config)
    run.run_training(config, opened, opened.fingerprint(config), wrap=DistributedDataParallel, rank=rank, world=2)
    torch.distributed.destroy_process_group()


def train(files: Path, output: Path, kill: tuple[int, int | str] | None = None) -> list[int | None]:
    """Train on two workers and return how they ended."""
    output.mkdir(exist_ok=True)
    meeting = output.parent / f"meeting-{output.name}-{'killed' if kill else 'calm'}"
    workers = [FORK.Process(target=worker, args=(rank, files, output, meeting, kill)) for rank in range(2)]
    for process in workers:
        process.start()
    for process in workers:
        process.join(timeout=120)
    return [process.exitcode for process in workers]


def result(output: Path) -> dict[str, str]:
    found = {name: sha256_file(output / name / "model.safetensors") for name in ("last", "best")}
    return found | {"loss": json.loads((output / "result.json").read_text())["loss"]}


@pytest.fixture(scope="module")
def whole(files: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    output = tmp_path_factory.mktemp("whole") / "out"
    assert train(files, output) == [0, 0]
    return result(output)


@pytest.mark.parametrize("kill", KILLS, ids=str)
def test_a_killed_worker_changes_no_weight(
    kill: tuple[int, int | str], whole: dict[str, str], files: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    ended = train(files, output, kill)
    assert ended[kill[0]] == -signal.SIGKILL
    assert not (output / "result.json").exists() or kill == (1, 8), "the other one has all it needs then"
    assert train(files, output) == [0, 0]
    assert result(output) == whole
