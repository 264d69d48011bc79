"""The command line as a user meets it: kill -9 of the driver, exit codes, plan, help."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from clarep_ray import models
from clarep_ray.config import ModelConfig
from clarep_ray.data.clarep_index import read_root
from clarep_ray.data.verify import verify
from tests.cluster.reference import attempts, command_line, committed_hashes, plain_loop, small_config, tiny_weights
from tests.data import trees

ROOT = Path(__file__).parents[2]


def job(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "jobs" / "extract.py"), *arguments]
    env = {**os.environ, **environment}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)


def run_job(*arguments: str, **environment: str) -> tuple[int, str]:
    process = job(*arguments, **environment)
    output, _ = process.communicate(timeout=240)
    return process.returncode, output


@pytest.fixture
def address(ray_session: None) -> str:
    import ray

    return ray.get_runtime_context().gcs_address


def test_a_killed_driver_is_continued_by_the_same_command(tmp_path: Path, address: str) -> None:
    """kill -9 after the fifth of 14 units; then the command runs to its end (more often: test_seeded_kills.py)."""
    weights = tiny_weights(tmp_path / "weights")
    images = trees.image_folder(tmp_path / "in", ("0", "1", "2", "3"), per_class=7)
    output = tmp_path / "out"
    changes = {"engine__unit_size": 2, "engine__micro_batch": 2, "inversion__num_steps": 25}
    config = small_config(weights, images, output, **changes)
    arguments = command_line(config)
    process = job(*arguments, RAY_ADDRESS=address)
    while len(list((output / "units").glob("*.json"))) < 5:
        assert process.poll() is None, process.stdout and process.stdout.read()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = set(committed_now(output))
    code, text = run_job(*arguments, RAY_ADDRESS=address)
    assert code == 0, text
    assert committed_hashes(output) == plain_loop(config, tmp_path)
    assert verify(output) == []
    assert read_root(output)["num_ok"] == 28
    started_again = {name.split(".")[0] for name in last_run_attempts(output)} & before
    assert not started_again, "a committed unit was computed again"


def committed_now(output: Path) -> list[str]:
    return [path.stem for path in (output / "units").glob("*.json")]


def last_run_attempts(output: Path) -> list[str]:
    last = max((output / "attempts").iterdir(), key=lambda folder: folder.stat().st_mtime)
    assert attempts(output)
    return [path.name for path in last.iterdir()]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "digit"], "--preset: 'digit' is unknown; valid: digits,"),
        (["--spectrum.num-direction", "3"], "--spectrum.num-directions"),
        (["--projection.mode", "clarity"], "clarity"),
        (["--decoding.guidance-scale", "-1"], "decoding.guidance_scale: -1.0 is not valid"),
        (["--model.weights-sha256", "0" * 64], "is not that of 'rho10'; valid: "),
        (["--model.weights-sha256", "ABC"], "model.weights_sha256: 'ABC' is not valid; valid: None, or 64 hexa"),
        (["--model.weights", "/nowhere"], "'/nowhere' has no config.json; valid: rho90, rho10"),
    ],
)
def test_misuse_exits_with_2_and_names_value_and_choices(arguments: list[str], message: str) -> None:
    code, text = run_job("--dry-run", *arguments)
    assert code == 2, text
    assert message in " ".join(text.replace("│", " ").split())


def test_help_explains_every_field() -> None:
    code, text = run_job("--help", COLUMNS="200")
    assert code == 0
    for flag in ("--preset", "--dry-run", "--controls", "--spectrum.num-directions", "--output.keep-spectrum"):
        assert flag in text
    assert "[paper Sec. K.7.6: 3 on ImageNet]" in " ".join(text.split())


def test_dry_run_prints_plan_and_cost_and_writes_nothing(tmp_path: Path) -> None:
    output = tmp_path / "out"
    code, text = run_job("--dry-run", "--output.path", str(output), "--data.digits.count", "50")
    assert code == 0, text
    for word in (
        "50 images in 10 classes",
        "3 of up to 24 images",
        "per sample",
        "disk",
        "fingerprint",
        models.weights_sha256(ModelConfig(weights="rho10")),
        "tuned",
        "user",
    ):
        assert word in text
    assert not output.exists()


def test_unsafe_environment_is_refused(tmp_path: Path) -> None:
    code, text = run_job(
        "--preset", "digits_smoke", "--output.path", str(tmp_path / "out"), GOPEN_REWRITE="a=b", RAY_ADDRESS=""
    )
    assert code == 2
    assert "GOPEN_REWRITE is set; unset it" in text
