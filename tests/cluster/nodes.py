"""A cluster of several Ray nodes on this machine: real `ray start` processes with GPUs that exist by name alone."""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RAY = str(Path(sys.executable).with_name("ray"))
STARTED_WITHIN_S = 90.0


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on, in a range from which Ray takes none for itself."""
    found: list[int] = []
    for port in range(26000 + os.getpid() % 500 * 10, 32000):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise AssertionError("no free ports")


@dataclass
class SimulatedCluster:
    """Nodes by name, each a process group of its own that can be killed as a machine dies."""

    environment: dict[str, str]
    folder: Path
    ports: list[int]
    nodes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.ports[0]}"

    @property
    def dashboard(self) -> str:
        return f"http://127.0.0.1:{self.ports[1]}"

    def head(self, *arguments: str, **environment: str) -> None:
        ports = ["--port", str(self.ports[0]), "--dashboard-port", str(self.ports[1])]
        self._start("head", ["--head", *ports, "--temp-dir", str(self.folder), *arguments], environment)

    def node(self, name: str, cpus: float = 1, gpus: int = 1) -> None:
        resources = ["--num-cpus", str(cpus), "--num-gpus", str(gpus)]
        self._start(name, ["--address", self.address, *resources], {})

    def _start(self, name: str, arguments: list[str], environment: Mapping[str, str]) -> None:
        common = ["--block", "--disable-usage-stats", "--object-store-memory", "200000000"]
        with (self.folder.parent / f"{name}.log").open("wb") as log:
            self.nodes[name] = subprocess.Popen(
                [RAY, "start", *common, "--node-ip-address", "127.0.0.1", *arguments],
                env={**self.environment, **environment},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        ended = time.monotonic() + STARTED_WITHIN_S
        while b"Ray runtime started" not in (self.folder.parent / f"{name}.log").read_bytes():
            assert self.nodes[name].poll() is None, (self.folder.parent / f"{name}.log").read_text()
            assert time.monotonic() < ended, f"{name} did not start"
            time.sleep(0.1)

    def kill(self, name: str) -> None:
        """End all processes of a node at once, without a word to the others."""
        process = self.nodes.pop(name)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def run(self, code: str, **environment: str) -> subprocess.Popen[str]:
        """Start a driver on the cluster."""
        return subprocess.Popen(
            [sys.executable, "-c", code],
            env={**self.environment, "RAY_ADDRESS": self.address, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def ask(self, expression: str) -> Any:
        """Return what an expression about `ray` is on the cluster, through JSON."""
        code = f"import json, ray; ray.init(log_to_driver=False); print('\\n' + json.dumps({expression}))"
        process = self.run(code)
        text, _ = process.communicate(timeout=120)
        assert process.returncode == 0, text
        return json.loads(text.strip().splitlines()[-1])


@contextmanager
def simulated_cluster() -> Iterator[SimulatedCluster]:
    """Yield a cluster without nodes, with a token of its own; all its processes end with it."""
    root = Path(tempfile.mkdtemp(prefix="cl-"))  # short: sockets lie below it
    token = root / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    (root / "ray").mkdir()
    plain = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment = plain | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",  # several nodes may listen on the loopback
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "RAY_worker_niceness": "0",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    cluster = SimulatedCluster(environment, root / "ray", free_ports(2))
    try:
        yield cluster
    finally:
        for name in reversed(list(cluster.nodes)):
            cluster.kill(name)
        shutil.rmtree(root, ignore_errors=True)
