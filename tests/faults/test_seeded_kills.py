"""Real kills at seeded moments, hundreds of them: of drivers without Ray, and of a driver's actors and tasks on Ray.

A failure prints its seed and how to run that one alone.
"""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from clarep_ray.data.store import OutputStore
from tests.faults.light_driver import NUM_UNITS, unit_files
from tests.faults.test_damage import SEED

ROOT = Path(__file__).parents[2]
KILLS, PARTS = 200, 10
UNIT_S = 0.03


def replay(seed: int) -> str:
    return f"seed {seed}; again: {SEED}={seed} uv run pytest -m nightly tests/faults/test_seeded_kills.py -k one_seed"


def start(root: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "tests.faults.light_driver", str(root), str(UNIT_S)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT)


def units_said(text: str) -> list[int]:
    return [int(line.split()[1]) for line in text.splitlines() if line.startswith("unit ")]


def kill_until_done(seed: int, root: Path) -> int:
    """Kill drivers at moments drawn from the seed until one has come to the end; return how many were killed."""
    draw, kills, reported = random.Random(seed), 0, list[int]()
    while True:
        driver = start(root)
        assert driver.stdout is not None
        said = driver.stdout.readline()
        while said and not said.startswith("started"):
            said = driver.stdout.readline()
        assert said, f"the driver ended with {driver.wait()}; {replay(seed)}"
        with suppress(subprocess.TimeoutExpired):
            driver.wait(draw.uniform(0, 0.5 * NUM_UNITS * UNIT_S))
        driver.send_signal(signal.SIGKILL)
        rest = driver.communicate()[0]
        assert not set(reported) & set(units_said(rest)), f"a committed unit was done again; {replay(seed)}"
        reported += units_said(rest)
        if driver.returncode == 0:
            break
        assert driver.returncode == -signal.SIGKILL, f"{rest}; {replay(seed)}"
        kills += 1
    for unit, manifest in OutputStore(root).each_committed():
        shard = root / manifest["files"]["shards"]["name"]
        assert shard.read_bytes() == unit_files(unit)["shards"], f"unit {unit}; {replay(seed)}"
    assert len(list((root / "units").iterdir())) == NUM_UNITS, replay(seed)
    return kills


def kill_drivers(first: int, kills: int, folder: Path) -> None:
    seed, killed = first, 0
    while killed < kills:
        killed += kill_until_done(seed, folder / str(seed))
        seed += 1
    print(f"seeds {first} to {seed - 1}: {killed} kills")


def test_a_dozen_kills_of_drivers_lose_and_double_nothing(tmp_path: Path) -> None:
    kill_drivers(0, 12, tmp_path)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", range(PARTS))
def test_drivers_killed_at_seeded_moments_lose_and_double_nothing(part: int, tmp_path: Path) -> None:
    kill_drivers(10_000 * part, KILLS // PARTS, tmp_path)


@pytest.mark.nightly
@pytest.mark.skipif(SEED not in os.environ, reason=f"{SEED} says which")
def test_one_seed(tmp_path: Path) -> None:
    kill_until_done(int(os.environ[SEED]), tmp_path / "out")


def workers_at_work(output: Path) -> list[int]:
    """Return the processes that are decoding a unit or taking it through the model."""
    begun = [path for path in (output / "attempts").rglob("*.*") if path.suffix[1:].isdigit()]
    open_notes = [path for path in begun if not path.with_name(f"{path.name}.end").is_file()]
    return [json.loads(path.read_bytes())["pid"] for path in open_notes]


def kill_workers(draw: random.Random, output: Path, killed: list[int], count: int, ended: threading.Event) -> None:
    while len(killed) < count and not ended.wait(draw.uniform(0.0, 1.0)):
        pids = [pid for pid in workers_at_work(output) if pid not in killed]
        if pids:
            with suppress(ProcessLookupError):
                pid = draw.choice(sorted(pids))
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(2))
def test_workers_of_ray_killed_at_seeded_moments_lose_and_double_nothing(
    seed: int, tmp_path: Path, ray_session: None, armed: Path
) -> None:
    from clarep_ray.cluster.extract import run_extraction
    from tests.cluster.reference import committed_hashes, plain_loop, small_config, tiny_weights
    from tests.data import trees

    (armed / "slow").write_text("0.5")
    weights, images = tiny_weights(tmp_path / "w"), trees.image_folder(tmp_path / "i", ("0", "1", "2"), per_class=8)
    config = small_config(weights, images, tmp_path / "out", engine__max_attempts=20, engine__num_actors=2)
    killed, ended = list[int](), threading.Event()
    arguments = random.Random(seed), tmp_path / "out", killed, 4, ended
    killer = threading.Thread(target=kill_workers, args=arguments, daemon=True)
    killer.start()
    began = time.monotonic()
    summary = run_extraction(config, lambda _: None)
    ended.set()
    killer.join()
    print(f"seed {seed}: {len(killed)} kills in {time.monotonic() - began:.0f} s")
    assert killed, f"seed {seed}"
    assert summary["num_ok"] == 24, f"seed {seed}"
    assert committed_hashes(tmp_path / "out") == plain_loop(config, tmp_path), f"seed {seed}"
