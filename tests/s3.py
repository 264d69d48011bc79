"""A real S3-speaking server on the loopback, with faults between it and its clients."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

Environ = dict[str, Any]
SECRET = "canary-of-a-secret-key"


class S3Server:
    """Its requests, and what becomes of them: what is set here goes before what the server would answer."""

    def __init__(self) -> None:
        self.app = DomainDispatcherApplication(create_backend_app)
        self.lock = threading.Lock()
        self.url = ""
        self.reset()

    def reset(self) -> None:
        self.requests: list[tuple[str, str]] = []
        self.heeds_conditions = True
        self.lost_answers = 0
        """Of the next conditional PUTs: done, and answered with an error of the server."""
        self.unavailable = 0
        """So many of the next requests are answered with 503."""
        self.forbidden: set[str] = set()
        """Methods that are answered with 403."""

    def __call__(self, environ: Environ, start: Callable[..., Any]) -> Any:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        conditional = "HTTP_IF_NONE_MATCH" in environ
        with self.lock:
            self.requests.append((method, path))
            busy, lost = self.unavailable > 0, conditional and self.lost_answers > 0
            self.unavailable -= busy
            self.lost_answers -= lost and not busy
        if method in self.forbidden:
            return refuse(start, "403 Forbidden", "AccessDenied")
        if busy:
            return refuse(start, "503 Service Unavailable", "SlowDown")
        if not self.heeds_conditions:
            environ.pop("HTTP_IF_NONE_MATCH", None)
        if lost:
            list(self.app(environ, lambda *_: None))
            return refuse(start, "500 Internal Server Error", "InternalError")
        return self.app(environ, start)

    def count(self) -> dict[str, int]:
        """Return {method: number of requests} since the last reset."""
        methods = [method for method, _ in self.requests]
        return {method: methods.count(method) for method in sorted(set(methods))}


def refuse(start: Callable[..., Any], status: str, code: str) -> list[bytes]:
    start(status, [("Content-Type", "application/xml")])
    return [f'<?xml version="1.0"?><Error><Code>{code}</Code><StringToSign>{SECRET}</StringToSign></Error>'.encode()]


@contextmanager
def serving() -> Iterator[S3Server]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = S3Server()
    listening = make_server("127.0.0.1", 0, server, threaded=True)
    server.url = f"http://127.0.0.1:{listening.server_port}"
    thread = threading.Thread(target=listening.serve_forever, daemon=True)
    thread.start()
    yield server
    listening.shutdown()
    thread.join(timeout=20)
    listening.server_close()


def environment(server: S3Server) -> dict[str, str]:
    """Return the variables by which a process finds the server."""
    return {
        "AWS_ACCESS_KEY_ID": "canary-of-a-key",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": server.url,
    }
