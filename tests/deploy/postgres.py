"""A real PostgreSQL for a test: its own data, its own port, gone afterwards."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

PASSWORD = "9b1c7f20d4e84a6f"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def program(name: str) -> Path:
    """Return a program of PostgreSQL, also from where Debian keeps them; skips the test where there is none."""
    for path in [shutil.which(name), *sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True)]:
        if path:
            return Path(path)
    pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")


@contextmanager
def running_postgres() -> Generator[int]:
    """Yield the port of a server on the loopback with the databases mlflow and mlflow_auth of the user mlflow."""
    initdb, postgres, createdb = program("initdb"), program("postgres"), program("createdb")
    as_user: list[str] = []
    with tempfile.TemporaryDirectory(prefix="pg") as folder:
        if os.getuid() == 0:  # which PostgreSQL refuses
            user = pwd.getpwnam("nobody")
            as_user = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
            os.chown(folder, user.pw_uid, user.pw_gid)
        (secret := Path(folder) / "password").write_text(PASSWORD)
        secret.chmod(0o644)
        data, port = f"{folder}/data", free_port()
        subprocess.run(
            [*as_user, initdb, "-D", data, "-U", "mlflow", "--auth=scram-sha-256", f"--pwfile={secret}", "-N"],
            check=True,
            capture_output=True,
            cwd=folder,
        )
        options = ["-p", str(port), "-k", folder, "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
        with (Path(folder) / "log").open("w") as log:
            server = subprocess.Popen([*as_user, postgres, "-D", data, *options], stdout=log, stderr=log, cwd=folder)
        try:
            for name in ("mlflow", "mlflow_auth"):
                until(lambda name=name: made(createdb, port, name), 60, Path(folder) / "log")
            yield port
        finally:
            server.terminate()
            server.wait(30)


def made(createdb: Path, port: int, name: str) -> bool:
    command = [createdb, "-h", "127.0.0.1", "-p", str(port), "-U", "mlflow", "--maintenance-db=postgres", name]
    done = subprocess.run(command, env=dict(os.environ, PGPASSWORD=PASSWORD), capture_output=True, check=False)
    return done.returncode == 0


def until(ready, seconds: float, log: Path) -> None:
    """Wait until something is so; AssertionError with the end of a log where it never is."""
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, log.read_text()[-3000:]
        time.sleep(0.3)
