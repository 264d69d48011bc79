"""`ray job submit` with a token, for every job and sweep: logs, exit codes, stop and resume."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from clarep_ray.data.verify import verify
from tests.cluster.nodes import SimulatedCluster, simulated_cluster

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.nightly, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[SimulatedCluster]:
    with simulated_cluster() as found:
        found.environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # `python` is this one
        found.head("--num-cpus", "3", "--include-dashboard", "true")
        yield found


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("submitted")


@pytest.fixture(scope="module")
def extracted(cluster: SimulatedCluster, out: Path) -> Path:
    done = submit(cluster, "jobs/extract.py", "--preset", "digits_smoke", "--output.path", str(out / "extract"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "images" in done.stdout, "the job's log is shown"
    assert verify(out / "extract") == []
    return out / "extract"


def ray(cluster: SimulatedCluster, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ray.scripts.scripts", "job", *arguments],
        env={**cluster.environment, "RAY_ADDRESS": cluster.dashboard},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def submit(cluster: SimulatedCluster, *command: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    return ray(cluster, "submit", *options, "--working-dir", ".", "--", "python", *command, "--tracking.no-enabled")


def space(path: Path, values: dict[str, list[float]]) -> str:
    path.write_text(json.dumps(values))
    return str(path)


@pytest.mark.parametrize("job", ["calibrate", "distill", "evaluate", "train_cdm", "clarid", "cadistill"])
def test_it_is_submitted(cluster: SimulatedCluster, extracted: Path, out: Path, job: str) -> None:
    output = str(out / job)
    two = ["--search.seeds", "0"]
    commands = {
        "calibrate": ["jobs/calibrate.py", "--preset", "digits_smoke", "--output", output],
        "distill": ["jobs/distill.py", "--preset", "smoke", "--clareps.path", str(extracted), "--output", output],
        "evaluate": ["jobs/evaluate.py", "--preset", "digits_smoke", "--output", output],
        "train_cdm": ["jobs/train_cdm.py", "--preset", "smoke", "--output", output],
        "clarid": [
            *("tune/clarid.py", "--preset", "digits_smoke", *two, "--output.path", output),
            *("--search.space", space(out / "k.json", {"elbow.num_removed": [1, 2], "elbow.rule": ["fixed"]})),
        ],
        "cadistill": [
            *("tune/cadistill.py", "--preset", "smoke", *two, "--clareps.path", str(extracted), "--output", output),
            *("--search.space", space(out / "w.json", {"loss.weight_cka": [0.0, 0.1]})),
        ],
    }
    done = submit(cluster, *commands[job])
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    last = "result.json" if job in ("distill", "train_cdm") else "run.json"
    assert (Path(output) / last).is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--output.path", "outputs/x"), "output.path: 'outputs/x' is relative"),
        (("--preset", "digit"), "--preset: 'digit' is unknown; valid: digits,"),
    ],
)
def test_misuse_is_a_failed_job_that_says_why(
    cluster: SimulatedCluster, arguments: tuple[str, ...], message: str
) -> None:
    done = submit(cluster, "jobs/extract.py", *arguments)
    assert done.returncode != 0
    assert message in done.stdout
    assert re.search(r"exit code 2\b", done.stdout + done.stderr)


def test_without_the_token_nothing_is_submitted(cluster: SimulatedCluster, tmp_path: Path) -> None:
    (tmp_path / "token").touch(mode=0o600)
    (tmp_path / "token").write_text("0" * 64)
    other = {**cluster.environment, "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")}
    stranger = replace(cluster, environment=other)
    done = submit(stranger, "jobs/extract.py", "--dry-run")
    assert done.returncode != 0
    assert re.search(r"401|403|[Uu]nauth|[Ii]nvalid.*token", done.stdout + done.stderr)


def test_a_stopped_job_is_continued_by_the_same_command(cluster: SimulatedCluster, out: Path) -> None:
    output = out / "stopped"
    command = ["jobs/extract.py", "--preset", "digits_smoke", "--output.path", str(output), "--data.digits.count", "96"]
    command += ["--engine.unit-size", "4", "--engine.micro-batch", "4"]
    started = submit(cluster, *command, options=("--no-wait", "--submission-id", "stop-me"))
    assert started.returncode == 0, started.stdout + started.stderr
    ended = time.monotonic() + 180
    while not (output / "units").is_dir() or len(list((output / "units").iterdir())) < 3:
        assert time.monotonic() < ended
        time.sleep(0.1)
    assert ray(cluster, "stop", "stop-me").returncode == 0
    before = {path.name: path.read_bytes() for path in (output / "units").iterdir()}
    assert len(before) < 24, "it was stopped on the way"
    done = submit(cluster, *command)
    assert done.returncode == 0, done.stdout + done.stderr
    assert verify(output) == []
    after = {path.name: path.read_bytes() for path in (output / "units").iterdir()}
    assert len(after) == 24
    assert {name: after[name] for name in before} == before
