"""What a job starts listens to this machine alone and answers nobody without the token."""

import json
import os
import re
import socket
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from clarep_ray.cluster import guards

ROOT = Path(__file__).parents[2]
PUBLIC = {"/", "/favicon.ico", "/api/authentication_mode", "/api/authenticate", "/static/{filename}"}
HEALTH = {"/api/healthz", "/api/gcs_healthz", "/api/local_raylet_healthz", "/-/healthz"}
"""What Ray answers to anybody: the page that asks for the token, and whether it is well."""
HOSTILE = (
    {"Host": "10.evil.example"},
    {"Host": "192.168.attacker.com:8265"},
    {"Host": "localhost.evil.example"},
    {"Host": "[::ffff:1.2.3.4]"},
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://127.0.0.1.evil.example", "Referer": "http://evil.example/"},
    {"Host": "10.evil.example", "Origin": "http://10.evil.example", "Sec-Fetch-Site": "cross-site"},
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def head() -> Iterator[dict[str, Any]]:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    for attempt in (1, 2):
        port = free_port()
        command = [sys.executable, "-m", "tests.hostile.head", str(port)]
        child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=plain, umask=0o022
        )
        assert child.stdout is not None
        lines = iter(child.stdout.readline, "")
        found = next((line for line in lines if line.startswith("{")), None)  # Ray's own lines come before
        if found is not None or attempt == 2:
            break
        child.wait()
    assert found is not None, "Ray did not start"
    yield json.loads(found) | {"url": f"http://127.0.0.1:{port}", "driver": child.pid}
    assert child.stdin is not None
    child.stdin.close()
    child.wait(60)
    assert not Path(json.loads(found)["token_path"]).parent.exists(), "the session's folder outlives its process"


def answer(url: str, method: str = "GET", headers: dict[str, str] | None = None) -> int:
    request = urllib.request.Request(url, method=method, headers=headers or {}, data=b"{}" if method != "GET" else None)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code


def routes(head: dict[str, Any]) -> set[tuple[str, str]]:
    """Return (method, path) of everything the running dashboard has registered, as it says itself."""
    text = (Path(head["logs"]) / "dashboard.log").read_text()
    found = set(re.findall(r"<ResourceRoute \[(\w+)\] <(?:Plain|Dynamic)Resource\s+(\S+)>", text))
    found |= {("GET", f"{prefix}/{{filename}}") for prefix in re.findall(r"<StaticResource\s+(\S+) ", text)}
    return {(method if method != "*" else "POST", path) for method, path in found}


def test_no_route_answers_without_the_token(head: dict[str, Any]) -> None:
    found = routes(head)
    assert len(found) > 50
    paths = {path for _, path in found}
    assert {"/api/jobs/", "/nodes"} <= paths
    concrete = {path: re.sub(r"\{[^}]*\}", "x", path) for path in paths if path not in PUBLIC | HEALTH}
    answers = {
        (method, path): answer(head["url"] + tail, method)
        for path, tail in concrete.items()
        for method in ("GET", "POST", "PUT", "DELETE", "PATCH")
    }
    assert {key: code for key, code in answers.items() if code not in (401, 403)} == {}
    wrong = {"Authorization": "Bearer " + "0" * 64}
    assert {answer(head["url"] + tail, "GET", wrong) for tail in concrete.values()} <= {401, 403}


def test_hostile_hosts_and_origins_are_refused(head: dict[str, Any]) -> None:
    for headers in HOSTILE:
        browser = headers | {"User-Agent": "Mozilla/5.0", "Content-Type": "application/json"}
        assert answer(f"{head['url']}/api/jobs/", "POST", browser) in (401, 403, 405), headers
        assert answer(f"{head['url']}/nodes?view=summary", "GET", browser) in (401, 403), headers


def test_a_browser_may_not_write_even_with_the_token(head: dict[str, Any]) -> None:
    token = {"Authorization": f"Bearer {Path(head['token_path']).read_text()}"}
    assert answer(f"{head['url']}/api/version", "GET", token) == 200
    for headers in HOSTILE[4:]:
        browser = headers | token | {"User-Agent": "Mozilla/5.0", "Content-Type": "application/json"}
        assert answer(f"{head['url']}/api/jobs/", "POST", browser) in (403, 405), headers


def test_the_token_is_this_users_alone(head: dict[str, Any]) -> None:
    path = Path(head["token_path"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    token = path.read_text()
    assert len(token) == 64
    logged = [file for file in Path(head["logs"]).rglob("*") if file.is_file() and token in file.read_text("latin1")]
    assert not logged
    lines = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in _family(head["driver"], *head["pids"])]
    assert len(lines) > 3
    assert not [line for line in lines if token.encode() in line]


def test_the_session_is_this_users_alone(head: dict[str, Any]) -> None:
    """Ray gives its own folders 0777, so what counts is the folder around them."""
    session = Path(head["logs"]).parent
    private = session.parents[1]
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    assert Path(head["token_path"]).parent == private
    assert list(session.glob("sockets/*"))
    held = {entry for pid in _family(head["driver"], *head["pids"]) for entry in _open_files(pid)}
    inside = {entry for entry in held if Path(entry).is_relative_to(private)}
    assert inside
    others = {entry for entry in held - inside if "/session_" in entry or Path(entry).is_relative_to("/tmp/ray")}
    assert not others


def test_everything_listens_to_this_machine_alone(head: dict[str, Any]) -> None:
    listening = dict(_listening(_family(head["driver"], *head["pids"])))
    assert len(listening) >= 6
    assert {name: address for name, address in listening.items() if not address.startswith(LOOPBACK)} == {}


LOOPBACK = ("0100007F:", "0000000000000000FFFF00000100007F:", "00000000000000000000000001000000:")
"""127.0.0.1, the same in IPv6, and ::1, as /proc/net writes them."""


def _family(*pids: int) -> set[int]:
    """Return some processes and all that they have started."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(folder.name))
    found, waiting = set[int](), list(pids)
    while waiting:
        pid = waiting.pop()
        if pid not in found:
            found.add(pid)
            waiting += children.get(pid, [])
    return found


def _open_files(pid: int) -> Iterator[str]:
    for entry in Path(f"/proc/{pid}/fd").glob("*"):
        with suppress(OSError):
            yield str(entry.readlink())


def _listening(pids: set[int]) -> Iterator[tuple[str, str]]:
    """Yield (socket, local address) of every TCP socket on which one of the processes listens."""
    held: set[str] = set()
    for pid in pids:
        held |= {entry.removeprefix("socket:[").removesuffix("]") for entry in _open_files(pid)}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in held:
                yield f"{table} {fields[9]}", fields[1]


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o666])
def test_a_token_that_others_may_read_is_refused(mode: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "auth_token"
    path.write_text("0" * 64)
    path.chmod(0o600)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(path))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    guards.check_authentication()
    path.chmod(mode)
    with pytest.raises(ValueError, match=rf"auth_token' has mode {mode:04o}; valid: 0600"):
        guards.check_authentication()
    path.unlink()
    with pytest.raises(ValueError, match="auth_token' cannot be read: No such file"):
        guards.check_authentication()


@pytest.mark.parametrize("mode", [None, "disabled", "Token", ""])
def test_a_cluster_that_asks_for_no_token_is_neither_started_nor_joined(
    mode: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    if mode is not None:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
    with pytest.raises(ValueError, match=r"environment: RAY_AUTH_MODE is .*; valid: token"):
        guards.check_authentication()
