"""Canaries in place of passwords and tokens: refused where every output would repeat them, and told to nobody."""

import json
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

from clarep_ray import cli, dotted
from clarep_ray.config import ExtractConfig, OutputConfig, TrackingConfig
from clarep_ray.config.credentials import check_environment_uri, redact, shown_url
from clarep_ray.data.store import open_store
from clarep_ray.presets import EXTRACT
from clarep_ray.tracking import start_run

ROOT = Path(__file__).parents[2]
CANARY = "c4n4ry-Pa55"
URIS = (
    f"http://user:{CANARY}@host:5000",
    f"https://{CANARY}@host",
    f"https://host/?password={CANARY}",
    f"https://host/mlflow?x=1&api_token={CANARY}",
    f"https://host/#{CANARY}",
    f"https://host/mlflow;token={CANARY}",
    f"https://host/a@{CANARY}/b",
    f"https://user%3A{CANARY}%40host/",
    f"https://host\\@{CANARY}",
    f"http:/user:{CANARY}@host",
    f"http:user:{CANARY}@host",
    f"HTTPS://user:{CANARY}@host",
    f" https://user:{CANARY}@host",
    f"ht\ntp://user:{CANARY}@host",
    f"https://host/\x00{CANARY}",
    f"https://host/ {CANARY}",
    f"postgresql://user:{CANARY}@host/db",
    f"postgresql://user:{CANARY}%40host@host/db",
    f"postgresql://host/db?password={CANARY}",
    f"postgresql://host/db?user=u&PASSWORD={CANARY}",
    f"postgresql://host/db?pass%77ord={CANARY}",
    f"postgresql://host/db?pass%2577ord={CANARY}",
    f"mysql+pymysql://host/db?charset=utf8;passwd={CANARY}",
    f"mssql://host/db?Pwd={CANARY}",
    f"mssql://host/db#token={CANARY}",
    f"sqlite:////x.db?key={CANARY}",
    f"databricks://user:{CANARY}@profile",
)
GOOD = (
    *("http://127.0.0.1:5000", "https://mlflow.example.com", "https://host/mlflow/", "http://[::1]:5000", "databricks"),
    *("sqlite:///mlflow.db", "sqlite:////home/a b/team@lab/mlflow.db", "file:///x/y@z", "mlruns", "./mlruns"),
    *("postgresql://host/db?sslmode=verify-full&sslkey=/run/key.pem", "mysql+pymysql://host/db?charset=utf8mb4"),
    *("databricks://profile", "postgresql+psycopg://host:5432/db"),
)


@pytest.mark.parametrize("uri", URIS, ids=ascii)
def test_a_uri_with_room_for_a_secret_is_refused_without_repeating_it(
    uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended, cli.exit_codes():
        TrackingConfig(uri=uri)
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith(
        ("error: tracking.uri: a URI with ", "error: uri: it is not valid: it has a control character")
    )
    assert CANARY not in said
    assert "MLFLOW_TRACKING_PASSWORD" in said or "control character" in said


@pytest.mark.parametrize("uri", GOOD)
def test_uris_without_one_are_taken(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert TrackingConfig(uri=uri).uri == uri
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    check_environment_uri()


@pytest.mark.parametrize("uri", [uri for uri in URIS if "?" in uri or "#" in uri or ";" in uri])
def test_the_environment_may_hold_user_and_password_and_no_other_secret(
    uri: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(SystemExit), cli.exit_codes():
        raise AssertionError("the job began")
    said = capsys.readouterr().err
    assert said.startswith("error: environment: MLFLOW_TRACKING_URI: a URI with ")
    assert CANARY not in said
    for fine in (f"http://user:{CANARY}@host:5000/x", f"postgresql://user:{CANARY}@host/db?sslmode=require"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", fine)
        check_environment_uri()


@pytest.mark.parametrize(
    "url",
    [
        *(f"s3://key:{CANARY}@bucket/x", f"s3://bucket/x?token={CANARY}", f"s3://bucket/x#{CANARY}"),
        *(f"s3://bucket/x;sig={CANARY}", f"https://user:{CANARY}@host/x", f"gs://{CANARY}@bucket/x"),
    ],
)
def test_an_output_url_with_a_secret_is_refused_without_repeating_it(url: str) -> None:
    for make in (lambda: OutputConfig(path=url), lambda: OutputConfig(from_spectrum=url), lambda: open_store(url)):
        with pytest.raises(ValueError, match=r"is not valid; valid: a folder, or s3://BUCKET/PREFIX") as refused:
            make()
        assert CANARY not in str(refused.value)
    if url.startswith("s3:") and ";" not in url and "#" not in url:
        with pytest.raises(ValueError, match="lies in object storage") as refused:
            dotted.check_local("data.path", url)
        assert CANARY not in str(refused.value)
    assert CANARY not in shown_url(url)


SECRETS = {
    "MLFLOW_TRACKING_PASSWORD": f"{CANARY}-mlflow",
    "MLFLOW_TRACKING_TOKEN": f"{CANARY}-bearer",
    "AWS_SECRET_ACCESS_KEY": f"{CANARY}/aws+secret",
    "AWS_SESSION_TOKEN": f"{CANARY}-session",
    "HF_TOKEN": f"hf_{CANARY}",
    "HUGGING_FACE_HUB_TOKEN": f"hf_{CANARY}2",
    "RAY_AUTH_TOKEN": f"{CANARY}-ray",
    "OPENAI_API_KEY": f"{CANARY}-other",
}


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/run/secrets/token")
    return SECRETS


def test_what_a_library_says_is_told_without_secrets(
    secrets: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    said = " ".join(secrets.values())
    said += (
        f" https://user:{CANARY}@host/x?sig={CANARY}&a=1 postgresql://h/db?password={CANARY} c4n4ry-Pa55%2Faws%2Bsecret"
    )
    with pytest.raises(SystemExit), cli.exit_codes():
        raise ValueError(f"HTTPSConnectionPool: Max retries exceeded with url: {said}")
    told = capsys.readouterr().err
    assert CANARY not in told
    assert "https://***@host/x?sig=***&a=1 postgresql://h/db?password=***" in told
    assert redact("false, /run/secrets/token, extras clarid@1, k=3, a?b=c") == (
        "false, /run/secrets/token, extras clarid@1, k=3, a?b=c"
    )


def test_print_config_tells_no_secret(secrets: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    name = secrets["AWS_SECRET_ACCESS_KEY"]
    config = dotted.override(ExtractConfig(), {"data.image_column": name, "spectrum.layer": f"a://u:{CANARY}@b"})
    cli.print_config(EXTRACT["digits"](), config)
    assert CANARY not in capsys.readouterr().out


def test_an_unreachable_server_is_told_of_without_secrets(
    secrets: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the outbox, its warnings and its record of servers, with a password in the environment's URI."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:{CANARY}-uri@127.0.0.1:9/mlflow")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        run = start_run(TrackingConfig(), "name", tmp_path, job="extract", fingerprint="f")
        run.params({"a": f"http://user:{CANARY}@h", "b": secrets["HF_TOKEN"]})
        run.tags({"error": f"{CANARY}-mlflow is wrong"})
        run.dataset("d", "0", f"s3://k:{CANARY}@bucket/x", "training")
        run.close()
    assert any("has not taken" in str(each.message) for each in told)
    assert not [each for each in told if CANARY in str(each.message)]
    assert CANARY not in (run.browse or "")
    no_canary_below(tmp_path)


def no_canary_below(folder: Path) -> None:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    assert [path for path in files if CANARY.encode() in path.read_bytes()] == []


@pytest.mark.nightly
def test_a_job_tells_no_secret_in_output_logs_or_process_lists(secrets: dict[str, str], tmp_path: Path) -> None:
    """A real job with every secret in its environment: its lines, its files, and its processes while they run."""
    output = tmp_path / "out"
    command = [
        sys.executable,
        str(ROOT / "jobs" / "extract.py"),
        "--preset",
        "digits_smoke",
        "--output.path",
        str(output),
    ]
    uri = f"http://user:{CANARY}-uri@127.0.0.1:9/"
    plain = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment = {**plain, **secrets, "MLFLOW_TRACKING_URI": uri, "PYTHONPATH": str(ROOT), "AWS_ACCESS_KEY_ID": CANARY}
    del environment["RAY_AUTH_TOKEN"]  # else Ray has it for its own
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path, umask=0o022
    )
    seen: set[str] = set()
    while process.poll() is None:
        time.sleep(0.05)
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                seen.add(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
            except OSError:
                continue
        for path in Path("/tmp").glob("clarep.*/r/session_*/logs/*"):
            try:
                assert CANARY not in path.read_text(errors="replace"), path
            except OSError:
                continue
    said, _ = process.communicate()
    assert process.returncode == 0, said
    assert any("raylet" in line for line in seen)
    assert [line for line in seen if CANARY in line] == []
    assert CANARY not in said
    no_canary_below(output)
    assert json.loads((output / "run.json").read_bytes())["config"]["tracking.uri"] is None
    modes = {path.relative_to(output): oct(path.stat().st_mode & 0o777) for path in output.rglob("*") if path.is_file()}
    assert {path: mode for path, mode in modes.items() if mode != "0o644"} == {}, "not the modes of the user's umask"
