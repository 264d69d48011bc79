"""The MLflow server of deploy/mlflow, started for real on a real PostgreSQL: who gets in, and that a run arrives."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import HTTPRedirectHandler, Request, build_opener

import pytest

from clarep_ray import tracking
from clarep_ray.config import TrackingConfig
from tests.deploy import postgres

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(900)]
SERVE = Path(__file__).parents[2] / "deploy" / "mlflow" / "serve.sh"
ADMIN = ("admin", "5f0c1d7e9a2b4c6d8e0f1a2b")
OTHER = ("reader", "77e1c0aa94b3d2f15e6c8a90")
OPEN = {
    "/health": "answers OK",
    "/version": "MLflow's version",
    "/static-files/<path:path>": "the user interface's files",
    "server-info": "how the server is configured, for clients that are not logged in yet",
}
"""What anonymous clients may read, and what it tells them. Nothing else, by no method."""
HOSTILE = (
    *("evil.example", "10.evil.example:5000", "192.168.attacker.com", "169.254.169.254", "localhost.evil.example"),
    *("127.0.0.1.evil.example:5000", "10.0.0.1", "[::1]:5000"),
)
ROUTES = """
import json
from mlflow.server import app
from mlflow.server.auth import create_app
native = create_app(app)
found = [(rule.rule, method) for rule in app.url_map.iter_rules() for method in rule.methods]
def walk(routes):
    for route in routes:
        if getattr(route, "methods", None):
            found.extend((route.path, method) for method in route.methods)
walk(native.routes)
print("ROUTES" + json.dumps(found))
"""


class NoRedirect(HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        return None


@dataclass(frozen=True)
class Server:
    port: int
    artifacts: Path
    env: dict[str, str]

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def status(self, path: str, method: str = "GET", user: tuple[str, str] | None = None, **headers: str) -> int:
        """Return the status of an answer; a body of JSON is sent where the method takes one."""
        body = b"{}" if method in ("POST", "PUT", "PATCH", "DELETE") else None
        request = Request(self.uri + path, body, {"Content-Type": "application/json", **headers}, method=method)
        if user:
            import base64

            request.add_header("Authorization", "Basic " + base64.b64encode(":".join(user).encode()).decode())
        try:
            return build_opener(NoRedirect).open(request, timeout=60).status
        except HTTPError as error:
            return error.code


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Server]:
    folder = tmp_path_factory.mktemp("mlflow")
    with postgres.running_postgres() as database:
        port = postgres.free_port()
        store = f"postgresql://mlflow:{postgres.PASSWORD}@127.0.0.1:{database}"
        env = {
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
            "HOME": str(folder),
            "TMPDIR": str(folder),
            "MLFLOW_BACKEND_STORE_URI": f"{store}/mlflow",
            "MLFLOW_AUTH_DATABASE_URI": f"{store}/mlflow_auth",
            "MLFLOW_ARTIFACTS_DESTINATION": str(folder / "artifacts"),
            "MLFLOW_SERVER_ALLOWED_HOSTS": f"127.0.0.1:{port}",
            "MLFLOW_AUTH_ADMIN_PASSWORD": ADMIN[1],
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "c0ffee5f0c1d7e9a2b4c6d8e",
            "MLFLOW_PORT": str(port),
        }
        log = folder / "log"
        with log.open("w") as file:
            process = subprocess.Popen([SERVE], env=env, stdout=file, stderr=file, cwd=folder, start_new_session=True)
        try:
            found = Server(port, folder / "artifacts", env)
            postgres.until(lambda: process.poll() is not None or answers(found), 300, log)
            assert process.poll() is None, log.read_text()[-3000:]
            yield found
        finally:
            with suppress(ProcessLookupError):  # it ended by itself
                os.killpg(process.pid, signal.SIGTERM)
            process.wait(60)


def answers(server: Server) -> bool:
    try:
        return server.status("/health") == 200
    except OSError:
        return False


@pytest.fixture(scope="module")
def routes(server: Server) -> list[tuple[str, str]]:
    """Return every (path, method) of the Flask and of the FastAPI part, as the server itself builds them."""
    (config,) = Path(server.env["TMPDIR"]).glob("tmp.*/auth.ini")
    env = {**server.env, "MLFLOW_AUTH_CONFIG_PATH": str(config), "_MLFLOW_SGI_NAME": "uvicorn"}
    env |= {"MLFLOW_TRACKING_URI": server.env["MLFLOW_BACKEND_STORE_URI"], "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true"}
    done = subprocess.run([sys.executable, "-c", ROUTES], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("ROUTES")]
    return sorted({(path, method) for path, method in json.loads(line.removeprefix("ROUTES"))})


def is_open(path: str) -> bool:
    return path in OPEN or path.rstrip("/").endswith("/server-info")


def test_no_route_answers_anonymous_clients_but_the_few_that_may(server: Server, routes) -> None:
    assert len(routes) > 400
    let_in = {}
    for path, method in routes:
        if method == "OPTIONS":
            continue  # says what a browser may ask, and nothing else
        status = server.status(re.sub(r"<[^>]*>|\{[^}]*\}", "1", path), method)
        if status not in (401, 403) and not is_open(path):
            let_in[f"{method} {path}"] = status
    assert let_in == {}
    assert len(OPEN) <= 5


@pytest.mark.parametrize("host", HOSTILE)
@pytest.mark.parametrize("user", [None, ADMIN])
def test_hosts_that_are_not_named_are_refused(server: Server, host: str, user: tuple[str, str] | None) -> None:
    path = "/api/2.0/mlflow/experiments/search?max_results=1"
    assert server.status(path, user=ADMIN) == 200
    assert server.status(path, user=user, Host=host) in (400, 403)


def test_pages_of_other_sites_cannot_post(server: Server) -> None:
    path = "/api/2.0/mlflow/experiments/create"
    assert server.status(path, "POST", ADMIN, Origin="http://evil.example") == 403


@pytest.mark.parametrize("user", [("admin", "password1234"), ("admin", ""), ("", ""), ("admin", "admin"), OTHER])
def test_wrong_and_default_passwords_are_refused(server: Server, user: tuple[str, str]) -> None:
    assert server.status("/api/2.0/mlflow/experiments/search?max_results=1", user=user) == 401


@pytest.fixture(scope="module")
def run(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    """Return the id of a run that clarep_ray.tracking has logged, as a job would."""
    from mlflow import MlflowClient

    output = tmp_path_factory.mktemp("output")
    (output / "summary.json").write_text('{"num_ok": 3}')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", server.uri)
        patch.setenv("MLFLOW_TRACKING_USERNAME", ADMIN[0])
        patch.setenv("MLFLOW_TRACKING_PASSWORD", ADMIN[1])
        with tracking.start_run(TrackingConfig(), "extract", output, job="extract", fingerprint="f" * 64) as logged:
            logged.params({"seed": 3})
            logged.metrics({"images_per_s": 2.5}, step=7)
            logged.artifact(output / "summary.json")
        assert tracking.replay(output, TrackingConfig()) == {str(output): None}  # what a busy machine left for later
        client = MlflowClient(server.uri)
        experiment = client.get_experiment_by_name("clarep-ray")
        assert experiment is not None
        assert experiment.artifact_location.startswith("mlflow-artifacts:")
        (found,) = client.search_runs([experiment.experiment_id])
        yield found.info.run_id


def test_a_run_and_its_files_arrive(server: Server, run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", ADMIN[0])
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", ADMIN[1])
    found = MlflowClient(server.uri).get_run(run)
    assert (found.info.status, found.data.params["seed"], found.data.metrics["images_per_s"]) == ("FINISHED", "3", 2.5)
    stored = [path for path in server.artifacts.rglob("summary.json") if run in str(path)]
    assert [path.read_text() for path in stored] == ['{"num_ok": 3}']


def test_another_user_sees_none_of_it(server: Server, run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.server.auth.client import AuthServiceClient

    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", ADMIN[0])
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", ADMIN[1])
    AuthServiceClient(server.uri).create_user(*OTHER)
    assert server.status(f"/api/2.0/mlflow/runs/get?run_id={run}", user=ADMIN) == 200
    assert server.status(f"/api/2.0/mlflow/runs/get?run_id={run}", user=OTHER) == 403


@pytest.mark.parametrize(
    "name", ["../escaped", "%2e%2e/escaped", "..%2fescaped", "%2ftmp%2fescaped", "a/../../escaped"]
)
def test_artefacts_stay_in_their_folder(server: Server, run: str, name: str) -> None:
    status = server.status(f"/api/2.0/mlflow-artifacts/artifacts/{name}", "PUT", ADMIN)
    assert status >= 400
    assert not list(server.artifacts.parent.rglob("escaped"))
    assert not Path("/tmp/escaped").exists()
