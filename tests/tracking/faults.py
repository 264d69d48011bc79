"""MLflow's own server application in this process, behind a door that fails as servers do."""

import base64
import os
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest
from werkzeug.serving import make_server

Fault = Literal["500", "500 after", "401", "hang", "late"]
"""`500 after`: done, but answered with 500. `late`: the client gives up after two seconds, then it is done."""
STATUS = {"500": "500 Internal Server Error", "500 after": "500 Internal Server Error", "401": "401 Unauthorized"}
LATE_S = 2.5


class FaultyServer:
    """`fault` says, for each request by its path, what goes wrong; None lets it through."""

    def __init__(self, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import mlflow.server
        from mlflow.server import handlers

        monkeypatch.setenv("_MLFLOW_SERVER_FILE_STORE", f"sqlite:///{store}")
        monkeypatch.setenv("_MLFLOW_SERVER_SERVE_ARTIFACTS", "true")
        monkeypatch.setenv("_MLFLOW_SERVER_ARTIFACT_ROOT", "mlflow-artifacts:/")
        monkeypatch.setenv("_MLFLOW_SERVER_ARTIFACT_DESTINATION", str(store.parent / "artifacts"))
        for name in ("_tracking_store", "_model_registry_store", "_artifact_repo"):
            monkeypatch.setattr(handlers, name, None)
        # The application makes its store the whole process's; monkeypatch puts back what there was.
        monkeypatch.setattr("mlflow.tracking._tracking_service.utils._tracking_uri", None)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
        self._app: Any = mlflow.server.app
        self.fault: Callable[[str], Fault | None] = lambda path: None
        self.credentials: set[tuple[str, str]] = set()
        """User and password of all requests that brought them."""
        self._over = threading.Event()
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True)
        self.uri = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def heal(self) -> None:
        """Let every request through, and clients wait for it on a busy machine."""
        self.fault = lambda path: None
        os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = "30"  # the fixture puts it back

    def stop(self) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, environ: WSGIEnvironment, respond: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if scheme_and_token := environ.get("HTTP_AUTHORIZATION"):
            user, _, password = base64.b64decode(scheme_and_token.removeprefix("Basic ")).decode().partition(":")
            self.credentials.add((user, password))
        fault = self.fault(path)
        if fault == "hang":
            self._over.wait(20)
        if fault == "late":
            time.sleep(LATE_S)
        if fault in ("hang", "500", "401"):
            return self._refuse(environ, respond, STATUS.get(fault, STATUS["500"]))
        if fault == "500 after":
            list(self._app(environ, lambda *_: None))
            return self._refuse(environ, respond, STATUS[fault])
        return self._app(environ, respond)

    @staticmethod
    def _refuse(environ: WSGIEnvironment, respond: StartResponse, status: str) -> Iterable[bytes]:
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        respond(status, [("Content-Type", "application/json")])
        return [b'{"error_code": "INTERNAL_ERROR", "message": "a fault"}']
