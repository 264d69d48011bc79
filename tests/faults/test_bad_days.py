"""Ordinary bad days of every job, as tables: one line and a code, before anything expensive, and nothing touched.

Jobs are called as a user calls them, in this process, up to where Ray would start. Each test of a table takes a part of
its rows, another one for every job, and all of them *nightly*; so does what needs a process or a disk of its own.
"""

import errno
import importlib
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import Any

import pytest

from clarep_ray import cli, errors
from clarep_ray.cluster import runtime
from tests.data import trees

ROOT = Path(__file__).parents[2]
SECONDS = 60
"""No bad day takes longer than this on a busy machine; most of it is what the first one imports."""


class RayStarted(Exception):
    pass


class Hung(BaseException):
    pass


@pytest.fixture(autouse=True)
def bounded(monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    """No Ray, and an end of waiting."""

    def connect(*_: object, **__: object) -> None:
        raise RayStarted

    def ring(*_: object) -> None:
        raise Hung

    monkeypatch.setattr(runtime, "connect", connect)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if "ray" in sys.modules:  # other tests of this process may have joined a cluster
        monkeypatch.setattr("ray.is_initialized", lambda: False)
    before = signal.signal(signal.SIGALRM, ring)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what can be in the way; the working folder is another one in it."""
    (tmp_path / "file").write_text("x" * 100)
    (tmp_path / "empty").mkdir()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere/deep")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    os.mkfifo(tmp_path / "fifo")
    for name in ("MANIFEST.json", "run.json", "summary.json", "report.html", "index.parquet"):
        (tmp_path / f"has-{name}" / name).mkdir(parents=True)
    for name in ("tmp", "units", "checkpoints"):
        (tmp_path / f"file-{name}").mkdir()
        (tmp_path / f"file-{name}" / name).write_text("mine")
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    return tmp_path


Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], day: Path) -> Run:
    """Call a job, and return its code and its one line."""

    def call(job: str, *arguments: str) -> tuple[int, str]:
        before = tree(day)
        signal.alarm(SECONDS)
        monkeypatch.setattr("sys.argv", [f"{job}.py", *arguments])
        module = importlib.import_module(f"{'tune' if job in ('clarid', 'cadistill') else 'jobs'}.{job}")
        with pytest.raises(SystemExit) as ended:
            module.main()
        said = [line for line in capfd.readouterr().err.splitlines() if line]
        signal.alarm(0)
        assert len(said) == 1, said
        assert said[0].startswith("error: "), said
        assert len(said[0]) < 1100
        assert tree(day) == before
        assert isinstance(ended.value.code, int)
        return ended.value.code, said[0]

    return call


def tree(folder: Path) -> dict[str, object]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else path.lstat().st_mode
        for path in folder.rglob("*")
    }


OUTPUTS = {
    "extract": ("--output.path={}",),
    "extract --dry-run": ("--output.path={}", "--dry-run"),
    "extract --controls": ("--output.path={}", "--controls"),
    "calibrate": ("--output={}",),
    "calibrate --dry-run": ("--output={}", "--dry-run"),
    "evaluate": ("--output={}",),
    "evaluate --dry-run": ("--output={}", "--dry-run"),
    "distill": ("--preset=smoke", "--output={}"),
    "distill --dry-run": ("--preset=smoke", "--output={}", "--dry-run"),
    "train_cdm": ("--output={}",),
    "clarid": ("--output.path={}",),
    "cadistill": ("--preset=smoke", "--output={}"),
    "toy": ("--output={}",),
    "train_classifiers": ("--output={}",),
    "verify --copy-to": ("s3://bucket/out", "--copy-to={}"),
    "convert": ("dit", "missing.pt", "{}"),
}
"""Job -> how it is given its output folder."""
PLACES = {
    "/sys/out": "cannot be written: nothing can be made in '/sys'",
    "/proc/out": "cannot be written: nothing can be made in '/proc'",
    "/dev/null": "it is no folder and in the way",
    "/dev/null/out": "'/dev/null' is no folder and in the way",
    "{day}/file": "it is no folder and in the way",
    "{day}/file/out": "is no folder and in the way",
    "{day}/fifo": "it is no folder and in the way",
    "{day}/dangling": "it is a link to nowhere",
    "{day}/loop": "it is a link to nowhere: Too many levels of symbolic links",
    "{day}/loop/out": "is a link to nowhere",
    "{day}/has-MANIFEST.json": "'MANIFEST.json' in it is a folder, where a file belongs",
    "{day}/has-run.json": "'run.json' in it is a folder, where a file belongs",
    "{day}/has-summary.json": "'summary.json' in it is a folder, where a file belongs",
    "{day}/has-report.html": "'report.html' in it is a folder, where a file belongs",
    "{day}/has-index.parquet": "'index.parquet' in it is a folder, where a file belongs",
    "{day}/file-tmp": "'tmp' in it is no folder, and one belongs there",
    "{day}/file-units": "'units' in it is no folder, and one belongs there",
    "{day}/file-checkpoints": "'checkpoints' in it is no folder, and one belongs there",
    "{day}/" + "n" * 256: "File name too long",
    "{day}/" + "猫" * 86: "File name too long",
    "{day}/" + "d/" * 2100: "bytes; valid: at most 3072",
    "{day}/a\nb": "it has a control character",
    "{day}/a\x1b[2Jb": "it has a control character",
    "{day}/caf\udce9": "it is not UTF-8",
    "~/out": "the shell has not expanded ~",
    "~somebody": None,
    "": "it is empty",
}
"""Output folder -> what the line says; None: it is a folder like any other."""


SHARE = 12
"""One in so many rows of a table is tried for each job by default."""


def some_and_all(names: Iterable[str]) -> list[Any]:
    """Return parameters (name, rows of the table to try): a part of them for each name, and all of them nightly."""
    some = [pytest.param(name, slice(at % SHARE, None, SHARE), id=name) for at, name in enumerate(names)]
    return some + [pytest.param(name, slice(None), id=f"{name}-all", marks=pytest.mark.nightly) for name in names]


@pytest.mark.parametrize(("job", "part"), some_and_all(OUTPUTS))
def test_an_output_that_cannot_be_is_one_line_in_every_job(run: Run, day: Path, job: str, part: slice) -> None:
    for place, said in list(PLACES.items())[part]:
        if said is not None:
            where = place.format(day=day)
            code, line = run(job.split()[0], *(argument.format(where) for argument in OUTPUTS[job]))
            assert code == 2, (place, line)
            assert said in line, (place, line)


INPUTS = {
    "data.path, folder": ("extract", "--data.source=image_folder", "--data.path={}"),
    "data.path, tars": ("extract", "--data.source=webdataset", "--data.path={}"),
    "data.path, Parquet": ("extract", "--data.source=parquet", "--data.path={}"),
    "data.path, batches": ("extract", "--data.source=cifar10", "--data.path={}"),
    "data.labels-file": ("extract", "--data.source=flat_folder", "--data.path={}", "--data.labels-file={}"),
    "data.path, a list": ("extract", "--data.source=webdataset", "--data.path=@{}"),
    "data.classes": ("extract", "--data.classes=@{}"),
    "model.weights": ("extract", "--model.weights={}"),
    "model.weights, diffusers": ("extract", "--preset=dit_xl_256", "--model.weights={}"),
    "model.prompts": ("extract", "--preset=sd21_smoke", "--model.prompts={}"),
    "calibration": ("extract", "--calibration={}"),
    "gate.classifiers": ("extract", "--gate.enabled", "--gate.classifiers={}"),
    "output.from-spectrum": ("extract", "--output.from-spectrum={}"),
    "calibrate: classifiers": ("calibrate", "--classifiers={}"),
    "classifier.weights": ("evaluate", "--classifier.weights={}"),
    "classifier.compared": ("evaluate", "--classifier.compared={}"),
    "benchmarks.image-folder": ("evaluate", "--benchmarks.names", "image_folder", "--benchmarks.image-folder={}"),
    "benchmarks.cifar10-c": ("evaluate", "--benchmarks.names", "cifar10_c", "--benchmarks.cifar10-c={}"),
    "clareps.path": ("distill", "--clareps.path={}"),
    "teacher.features": ("distill", "--method=fitnet", "--teacher.source=features", "--teacher.features={}"),
    "teacher.network": ("distill", "--method=kd", "--teacher.source=network", "--teacher.network={}"),
    "train_cdm: data.path": ("train_cdm", "--preset=own_dit", "--data.path={}"),
    "clarid: search.space": ("clarid", "--search.space={}"),
    "cadistill: search.space": ("cadistill", "--preset=smoke", "--search.space={}"),
    "report": ("report", "{}"),
    "verify": ("verify", "{}"),
    "replay": ("replay", "{}"),
    "convert": ("convert", "uvit", "{}", "converted"),
    "benchmark: record": ("benchmark", "svd", "--record={}"),
}
SOURCES = ("missing", "file", "file/in", "empty", "fifo", "dangling", "loop", "/proc/self/mem", "/dev/zero", "n" * 256)
NO_RECORD = ("missing", "dangling")
"""What `--record` makes, as a new file."""


@pytest.mark.parametrize(("option", "part"), some_and_all(INPUTS))
def test_an_input_that_cannot_be_read_is_one_line_in_every_job(run: Run, day: Path, option: str, part: slice) -> None:
    job, *arguments = INPUTS[option]
    if job not in ("report", "verify", "replay", "convert", "benchmark"):
        arguments += ["--tracking.no-enabled", f"--output{'.path' if job in ('extract', 'clarid') else ''}={day}/out"]
    for source in SOURCES[part]:
        if job == "benchmark" and source in NO_RECORD:
            continue
        code, line = run(job, *(argument.format(day / source) for argument in arguments))
        assert code == 2, (source, line)


SETTINGS = [
    ("extract", "--preset=nope"),
    ("extract", "--outputt=x"),
    ("extract", "--output.path"),
    ("extract", "--data.source=tape"),
    ("extract", "--data.limit=-3"),
    ("extract", "--seed=1" + "0" * 40),
    ("extract", "--engine.num-actors=abc"),
    ("extract", "--engine.unit-size=0"),
    ("extract", "--decoding.guidance-scale=nan"),
    ("extract", "--decoding.guidance-scale=1e999"),
    ("extract", "--inversion.num-steps=-1"),
    ("extract", "positional"),
    ("extract", "--dry-run=maybe"),
    ("calibrate", "--parts=telepathy"),
    ("evaluate", "--attacks.names=magic"),
    ("evaluate", "--attacks.eps-255=nan"),
    ("distill", "--method=osmosis"),
    ("distill", "--schedule.epochs=-1"),
    ("train_cdm", "--num-steps=0"),
    ("train_cdm", "--learning-rate=inf"),
    ("clarid", "--sweep=nope"),
    ("cadistill", "--search.num-trials=-1"),
    ("toy", "--num-models=-3"),
    ("report",),
    ("report", "out", "--max-mb=nan"),
    ("verify",),
    ("verify", ""),
    ("replay", "a", "b"),
    ("convert",),
    ("convert", "gan", "x", "y"),
    ("benchmark",),
    ("benchmark", "weather"),
    ("train_classifiers", "--seed=x"),
]


@pytest.mark.parametrize("arguments", SETTINGS, ids=" ".join)
def test_a_wrong_command_line_is_one_line_in_every_job(run: Run, arguments: tuple[str, ...]) -> None:
    assert run(*arguments)[0] == errors.USAGE_ERROR


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("extract", "--engine.gpus-per-actor=1"), "engine.num_actors: 1 actors of 1 GPUs exceed the cluster's 0"),
        (("extract", "--engine.gpus-per-actor=1", "--dry-run"), "1 GPUs exceed the cluster's 0; valid: --engine.gpus"),
        (("calibrate", "--engine.gpus-per-actor=1", "--dry-run"), "1 GPUs exceed the cluster's 0"),
        (("evaluate", "--engine.gpus-per-actor=0.5", "--dry-run"), "0.5 GPUs exceed the cluster's 0"),
        (("train_cdm", "--use-gpu"), "1 workers of one GPU each exceed the cluster's 0; valid: --no-use-gpu"),
        (("train_cdm", "--use-gpu", "--dry-run"), "1 workers of one GPU each exceed the cluster's 0"),
        (("distill", "--preset=smoke", "--use-gpu", "--dry-run"), "1 workers of one GPU each exceed the cluster's 0"),
        (
            ("distill", "--preset=smoke", "--num-workers=4096", "--schedule.batch-size=4096"),
            "4096 workers of one CPU each",
        ),
    ],
)
def test_machines_that_are_not_there_are_one_line(
    run: Run, arguments: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    code, line = run(*arguments)
    assert code == 2
    assert said in line


@pytest.mark.parametrize("dry_run", [(), ("--dry-run",)])
def test_an_input_of_which_nothing_would_come_is_one_line(run: Run, day: Path, dry_run: tuple[str, ...]) -> None:
    whole = trees.picture_bytes(1, "PNG")
    for name, folder, data in (("cut", "3", whole[: len(whole) // 2]), ("unknown", "cat", whole)):
        (day / name / folder).mkdir(parents=True)
        for number in range(3):
            (day / name / folder / f"{number}.png").write_bytes(data)
    given = ("extract", "--data.source=image_folder", f"--output.path={day}/out", *dry_run)
    code, line = run(*given, f"--data.path={day}/cut")
    assert code == 2
    assert "not one of 3 images can be used (3 cannot be decoded)" in line
    code, line = run(*given, f"--data.path={day}/unknown")
    assert code == 2


def test_a_disk_with_too_little_space_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch, day: Path) -> None:
    monkeypatch.setattr("clarep_ray.cluster.cost.free_bytes", lambda *_: 10**5)
    code, line = run("extract", "--dry-run", f"--output.path={day}/out")
    assert code == errors.DiskFull.code
    assert "MB are to be written, and 0.1 MB are free" in line


def test_a_dry_run_says_what_it_found_and_writes_nothing(
    day: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tree(day)
    for job, *arguments in (
        ("evaluate", "--output={}", "--benchmarks.digits-splits=test", "--benchmarks.digits.count=24"),
        ("distill", "--preset=smoke", "--output={}", "--data.digits.count=24", "--val.digits.count=24"),
    ):
        given = [argument.format(day / "some/where") for argument in arguments]
        monkeypatch.setattr("sys.argv", [job, *given, "--dry-run"])
        importlib.import_module(f"jobs.{job}").main()
        said = capsys.readouterr().out
        assert f"output       {day}/some/where can be written" in said
        assert "machines     this one: " in said
    assert tree(day) == before


def raised_in_a_worker(error: Exception, as_cause: bool) -> Exception:
    """Return what Ray raises in the driver where a worker raised an error: of its class too, or as text alone."""
    from ray.exceptions import RayTaskError, UserCodeException

    try:
        raise error
    except Exception:
        text = traceback.format_exc().replace(str(Path(__file__)), "/somewhere/clarep_ray/cluster/stages.py")
    if as_cause:
        return RayTaskError("decode_stage", text, error).as_instanceof_cause()
    text += "\nThe above exception was the direct cause of the following exception:\n\nray.exceptions.UserCodeException"
    return RayTaskError("decode_stage", text, UserCodeException("UDF failed")).as_instanceof_cause()


@pytest.mark.parametrize("as_cause", [True, False])
def test_what_a_worker_raises_arrives_with_its_line_and_code(as_cause: bool) -> None:
    for name, kind in errors.kinds().items():
        found = cli.known_fault(raised_in_a_worker(kind(f"{name} of a unit"), as_cause))
        assert found == (f"{name} of a unit", kind.code)
    wrong = raised_in_a_worker(ValueError("output.from_spectrum: unit 3 is about other samples"), as_cause)
    assert cli.known_fault(wrong) == ("output.from_spectrum: unit 3 is about other samples", 2)
    gone = raised_in_a_worker(FileNotFoundError(errno.ENOENT, "No such file or directory", "/data/3.png"), as_cause)
    assert (cli.known_fault(gone) or ("", 0))[1] == 2
    full = raised_in_a_worker(OSError(errno.ENOSPC, "No space left on device", "/out/x"), as_cause)
    assert (cli.known_fault(full) or ("", 0))[1] == 5
    for bug in (KeyError("rows"), AssertionError("shapes"), RuntimeError("mat1 and mat2 shapes cannot be multiplied")):
        assert cli.known_fault(raised_in_a_worker(bug, as_cause)) is None


def test_a_file_of_ours_that_is_not_there_is_our_fault() -> None:
    ours = Path(cli.__file__).parent / "presets" / "gone.json"
    for path, known in ((str(ours), False), ("/data/gone.json", True)):
        error = FileNotFoundError(errno.ENOENT, "No such file or directory", path)
        assert (cli.known_fault(error) is not None) == known
    assert cli.known_fault(ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")) is None


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("{job} --dry-run > /dev/full", 5, "No space left on device"),
        ("set -o pipefail; {job} --dry-run | true", 2, "standard output was closed"),
        ("mkdir gone; cd gone; rmdir ../gone; {job} --dry-run", 2, "the working folder is not there"),
        ("RAY_TMPDIR=/dev/null {job}", 2, "environment: RAY_TMPDIR: '/dev/null' is not valid"),
        ("RAY_TMPDIR=$PWD/" + "l" * 150 + " {job}", 2, "environment: RAY_TMPDIR is "),
        ("RAY_ADDRESS=127.0.0.1:9 RAY_AUTH_MODE=token RAY_AUTH_TOKEN=x {job}", 4, "127.0.0.1:9 cannot be joined"),
        (
            "mkdir ro; chmod 555 ro; setpriv --bounding-set -dac_override {job} --output.path ro/out",
            2,
            "Permission denied",
        ),
        (
            "unshare -m sh -c 'mount -t tmpfs -o ro none .; cd .; {job} --output.path $PWD/out'",
            2,
            "Read-only file system",
        ),
        ("unshare -m sh -c 'mount -t tmpfs -o size=4k none /mnt; {job} --output.path /mnt/out'", 5, "No space left"),
    ],
)
def test_a_bad_day_of_the_machine_is_one_line(tmp_path: Path, command: str, code: int, said: str) -> None:
    """Whole processes, as root where a file system is mounted."""
    if "unshare" in command and os.geteuid():
        pytest.skip("only root may mount")
    job = f"{sys.executable} {ROOT}/jobs/extract.py --preset digits_smoke --tracking.no-enabled"
    done = subprocess.run(
        ["bash", "-c", command.format(job=job)], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    said_lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == code, done.stderr[-2000:]
    assert len(said_lines) == 1, done.stderr[-2000:]
    assert said in said_lines[0]
    assert "Traceback" not in done.stderr
