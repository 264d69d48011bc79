"""Ctrl-C and SIGTERM at seeded moments of every job: a line, the exit code, nothing left, the same bytes afterwards."""

import hashlib
import json
import random
import shutil
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cluster.conftest import images, weights
from tests.cluster.reference import command_line, small_config
from tests.faults.stops import CODES, Ending, run_stopped

__all__ = ["images", "weights"]

SIGNALS = (signal.SIGINT, signal.SIGTERM)
MOMENTS = 10
"""Of each job and signal, one in each tenth of what an undisturbed run takes."""
LINES = {True: "stopped; the same command continues", False: "stopped; the same command starts again"}


@dataclass(frozen=True)
class Job:
    command: Sequence[str]
    results: tuple[str, ...]
    """Patterns of the files whose bytes must be those of an undisturbed run."""
    continues: bool = True


def job(name: str, out: Path, weights: Path, images: Path) -> Job:
    """Return a small run of a job."""
    output = str(out)
    if name == "extract":
        config = small_config(weights, images, out, engine__unit_size=2, engine__micro_batch=2, inversion__num_steps=20)
        return Job(["jobs/extract.py", *command_line(config)], ("shards/*", "index.parquet", "dataset.json"))
    if name == "clarid":
        space = out.with_name("space.json")
        space.write_text(json.dumps({"elbow.num_removed": [1, 2], "elbow.rule": ["fixed"]}))
        smoke = ["--preset", "digits_smoke", "--search.seeds", "0", "--search.space", str(space)]
        return Job(["tune/clarid.py", *smoke, "--output.path", output], ("*/shards/*", "trials/*/shards/*"))
    trained = ("**/*.safetensors",)
    kinds: dict[str, Job] = {
        "calibrate": Job(["jobs/calibrate.py", "--preset", "digits_smoke"], ("calibration.json",)),
        "evaluate": Job(["jobs/evaluate.py", "--preset", "digits_smoke"], ("units/*",)),
        "distill": Job(["jobs/distill.py", "--preset", "smoke", "--method", "vanilla"], trained),
        "train_cdm": Job(["jobs/train_cdm.py", "--preset", "smoke"], trained),
        "toy": Job(["jobs/toy.py"], ("*.csv", "*.md"), continues=False),
        "train_classifiers": Job(["jobs/train_classifiers.py"], trained, continues=False),
    }
    kind = kinds[name]
    return Job([*kind.command, "--output", output], kind.results, kind.continues)


def digest(out: Path, results: tuple[str, ...]) -> dict[str, str]:
    """Return {file: sha256} of a finished run's results."""
    files = sorted({path for pattern in results for path in out.glob(pattern) if path.is_file()})
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def problems(ended: Ending, number: signal.Signals, line: str) -> list[str]:
    """Return what is wrong with how a job ended; one that was done before the signal came has ended with 0."""
    if ended.code == 0 and ended.took_s < 0.1:
        return []
    found = [] if ended.code == CODES[number] else [f"exit code {ended.code}"]
    said = [text for text in ended.last if "Set ray log level" not in text]  # of Ray's, at its start
    if said[-1:] != [line] or (len(said) > 1 and not ended.terminal) or "Traceback" in ended.said:
        found.append(f"said {said[-5:]}")
    return [*found, *(f"left {command}" for command in ended.left)]


def stop_often(
    work: Job,
    out: Path,
    span_s: float,
    seed: int,
    moments: int = MOMENTS,
    signals: Sequence[signal.Signals] = SIGNALS,
    say: Callable[[str], None] = print,
) -> list[str]:
    """Stop a job at seeded moments, half of them in a terminal, each time going on in the same output."""
    draw, found = random.Random(seed), list[str]()
    for tenth in range(moments):
        for number in signals:
            moment = max(0.1, span_s * (tenth + draw.random()) / moments)
            terminal = draw.random() < 0.5
            ended = run_stopped(work.command, moment, number, terminal=terminal)
            wrong = problems(ended, number, LINES[work.continues])
            where = "terminal" if terminal else "background"
            case = f"{Path(work.command[0]).stem} {number.name} {moment:.1f} s {where}"
            say(f"{case}: {ended.code} after {ended.took_s:.1f} s {'; '.join(wrong) or 'right'}")
            found += [f"{case}: {what}; seed {seed}" for what in wrong]
            claims = list(out.glob("tmp/owner.*"))
            found += [f"{case}: the claim stays; seed {seed}"] if claims else []
    return found


def undisturbed(work: Job, out: Path) -> tuple[float, dict[str, str]]:
    """Return how long an undisturbed run takes [s], and its results; the output is removed."""
    ended = run_stopped(work.command, 280.0)
    assert ended.code == 0, ended.said[-3000:]
    found = digest(out, work.results)
    assert found, f"no results in {sorted(path.name for path in out.iterdir())}"
    shutil.rmtree(out)
    return ended.ran_s, found


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "name",
    ["extract", "calibrate", "evaluate", "distill", "train_cdm", "clarid", "toy", "train_classifiers"],
)
def test_a_job_stopped_at_any_moment_ends_in_a_line_and_goes_on(
    name: str, weights: Path, images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    work = job(name, out, weights, images)
    span_s, golden = undisturbed(work, out)
    assert stop_often(work, out, span_s, seed=17) == []
    ended = run_stopped(work.command, 280.0)
    assert ended.code == 0, ended.said[-3000:]
    assert digest(out, work.results) == golden


@pytest.mark.parametrize(("number", "terminal"), [(signal.SIGINT, True), (signal.SIGTERM, False)])
def test_a_job_that_still_imports_ends_in_a_line(number: signal.Signals, terminal: bool, tmp_path: Path) -> None:
    command = ["jobs/train_classifiers.py", "--output", str(tmp_path / "out")]
    ended = run_stopped(command, 0.5, number, terminal=terminal)
    assert problems(ended, number, LINES[False]) == []
    assert ended.code == CODES[number]


def test_stopping_while_it_is_stopped_ends_at_once(tmp_path: Path) -> None:
    """What is being closed hangs: it is waited for two seconds, or until a second signal."""
    script = tmp_path / "job.py"
    script.write_text(
        "import sys, time\n"
        "from clarep_ray import stopping\n"
        "stopping.install()\n"
        "def main():\n"
        "    try:\n"
        "        open(sys.argv[1], 'w').close()\n"
        "        time.sleep(60)\n"
        "    finally:\n"
        "        time.sleep(60)\n"
        "stopping.run(main)\n"
    )
    ready = tmp_path / "ready"
    for again_s, least, most in ((None, 1.9, 8.0), (0.6, 0.5, 1.8)):
        ready.unlink(missing_ok=True)
        ended = run_stopped([str(script), str(ready)], 0.0, signal.SIGINT, again_s=again_s, file=ready)
        assert problems(ended, signal.SIGINT, LINES[True]) == []
        assert least < ended.took_s < most


def test_a_signal_of_our_own_is_no_stop(tmp_path: Path) -> None:
    """An output that was taken over interrupts the main thread, and the job ends as it says itself."""
    script = tmp_path / "job.py"
    script.write_text(
        "import sys, threading, time\n"
        "from clarep_ray import stopping\n"
        "stopping.install()\n"
        "def main():\n"
        "    try:\n"
        "        threading.Timer(0.1, stopping.interrupt_main).start()\n"
        "        time.sleep(60)\n"
        "    except KeyboardInterrupt:\n"
        "        sys.exit(8)\n"
        "stopping.run(main)\n"
    )
    ended = run_stopped([str(script)], 60.0)
    assert (ended.code, ended.said, ended.left) == (8, "", ())


def test_what_was_ignored_stays_ignored(tmp_path: Path) -> None:
    """`nohup`, and Ctrl-C for the jobs that a script has put into the background."""
    program = (
        "import os, signal, time\n"
        "for number in (signal.SIGINT, signal.SIGHUP):\n"
        "    signal.signal(number, signal.SIG_IGN)\n"
        "from clarep_ray import stopping\n"
        "stopping.install()\n"
        "def main():\n"
        "    os.kill(os.getpid(), signal.SIGHUP)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(0.2)\n"
        "stopping.run(main)\n"
    )
    script = tmp_path / "job.py"
    script.write_text(program)
    ended = run_stopped([str(script)], 60.0)
    assert (ended.code, ended.said) == (0, "")
