"""deploy/mlflow/serve.sh: what it refuses, and what it hands to MLflow; the unit file of systemd."""

import configparser
import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

MLFLOW = Path(__file__).parents[2] / "deploy" / "mlflow"
GOOD = {
    "MLFLOW_BACKEND_STORE_URI": "postgresql://mlflow:p%40ss@db/mlflow",
    "MLFLOW_AUTH_DATABASE_URI": "postgresql://mlflow:p%40ss@db/mlflow_auth",
    "MLFLOW_ARTIFACTS_DESTINATION": "/var/lib/clarep-mlflow/artifacts",
    "MLFLOW_SERVER_ALLOWED_HOSTS": "mlflow.internal:443,localhost:5000",
    "MLFLOW_AUTH_ADMIN_PASSWORD": "5f0c1d7e9a2b4c6d8e0f1a2b",
    "MLFLOW_FLASK_SERVER_SECRET_KEY": "a1b2c3d4e5f60718293a4b5c",
}
FAKE = '#!/bin/bash\necho "$@" > "$SEEN/arguments"\ncp "$MLFLOW_AUTH_CONFIG_PATH" "$SEEN/auth.ini"\nenv > "$SEEN/env"\n'


def serve(folder: Path, changes: dict[str, str | None]) -> subprocess.CompletedProcess[str]:
    """Run serve.sh with a stand-in for mlflow that notes what it was given in `folder`."""
    fake = folder / "mlflow"
    fake.write_text(FAKE)
    fake.chmod(0o755)
    settings = {name: value for name, value in {**GOOD, **changes}.items() if value is not None}
    env = {"PATH": f"{folder}:{os.environ['PATH']}", "SEEN": str(folder), "TMPDIR": str(folder), **settings}
    return subprocess.run([MLFLOW / "serve.sh"], env=env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("MLFLOW_AUTH_ADMIN_PASSWORD", None, "one of 0 characters is not valid; valid: 16 or more"),
        ("MLFLOW_AUTH_ADMIN_PASSWORD", "password1234", "one of 12 characters"),
        ("MLFLOW_AUTH_ADMIN_PASSWORD", "Password12345678", "one with 'password' in it"),
        ("MLFLOW_AUTH_ADMIN_PASSWORD", "AdminAdminAdminAdmin", "one with 'admin' in it"),
        ("MLFLOW_FLASK_SERVER_SECRET_KEY", "changeme-changeme", "one with 'changeme' in it"),
        ("MLFLOW_SERVER_ALLOWED_HOSTS", None, "'' is not valid; valid: host names"),
        ("MLFLOW_SERVER_ALLOWED_HOSTS", "*", "'*' is not valid"),
        ("MLFLOW_SERVER_ALLOWED_HOSTS", "10.*,localhost:5000", "without patterns"),
        ("MLFLOW_BACKEND_STORE_URI", "sqlite:///mlflow.db", "valid: postgresql://USER:PASSWORD@HOST/DATABASE"),
        ("MLFLOW_BACKEND_STORE_URI", None, "valid: postgresql://"),
        ("MLFLOW_AUTH_DATABASE_URI", GOOD["MLFLOW_BACKEND_STORE_URI"], "valid: a database of its own"),
        ("MLFLOW_ARTIFACTS_DESTINATION", "artifacts", "'artifacts' is not valid; valid: an absolute folder"),
    ],
)
def test_it_refuses_what_is_missing_or_weak(tmp_path: Path, name: str, value: str | None, message: str) -> None:
    done = serve(tmp_path, {name: value})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {name}: ")
    assert message in done.stderr
    assert not (tmp_path / "arguments").exists()
    if value:
        assert value not in done.stderr or name in ("MLFLOW_SERVER_ALLOWED_HOSTS", "MLFLOW_ARTIFACTS_DESTINATION")


def test_no_secret_is_in_a_command_line_or_a_file_others_read(tmp_path: Path) -> None:
    done = serve(tmp_path, {})
    assert done.returncode == 0, done.stderr
    arguments = (tmp_path / "arguments").read_text()
    assert "--app-name basic-auth" in arguments
    assert "--host 127.0.0.1" in arguments
    assert not any(value in arguments for name, value in GOOD.items() if name.endswith(("URI", "PASSWORD", "KEY")))
    settings = configparser.ConfigParser()
    settings.read(tmp_path / "auth.ini")
    assert settings["mlflow"]["default_permission"] == "NO_PERMISSIONS"
    assert settings["mlflow"]["database_uri"] == GOOD["MLFLOW_AUTH_DATABASE_URI"]  # its % survives the file's format
    assert "admin_password" not in settings["mlflow"]
    (made,) = tmp_path.glob("tmp.*/auth.ini")
    assert stat.S_IMODE(made.stat().st_mode) == 0o600
    environment = (tmp_path / "env").read_text().splitlines()
    assert "MLFLOW_ALLOW_PICKLE_DESERIALIZATION=false" in environment
    assert "MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false" in environment


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_the_unit_is_understood_and_shut_in(tmp_path: Path) -> None:
    unit = tmp_path / "mlflow.service"
    unit.write_text((MLFLOW / "mlflow.service").read_text().replace("/opt/clarep-mlflow/serve.sh", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    rated = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--threshold=20", unit],
        capture_output=True,
        text=True,
        check=False,
    )
    assert rated.returncode == 0, rated.stdout[-200:]
