"""Start or join a Ray cluster with authentication on and without surprises."""

from __future__ import annotations

import logging
import os
import re
import socket
import stat
import sys
import time
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from clarep_ray import stopping
from clarep_ray.cluster import control_plane, guards
from clarep_ray.cluster.deadline import remove_empty_traces
from clarep_ray.cluster.private_folder import SESSIONS, TOKEN, private_folder
from clarep_ray.cluster.workers import check_workers
from clarep_ray.errors import ClusterLost

TRANSIENT = (r"\[Errno (4|5|11|110|116)\]", "object storage at s3://")
"""Faults that may pass: interrupted, I/O error, no resource now, timeout, stale handle, a store's outage.

Memory that is short is not among them: the stages try again themselves (`cluster/memory.py`)."""
MAX_RETRIES = 3
LOCAL: dict[str, Any] = {
    "address": "local",  # never a cluster that happens to run on this machine
    "include_dashboard": False,
    "dashboard_host": "127.0.0.1",
    "object_store_memory": 2_000_000_000,
}
"""How a cluster is started here."""
JOIN_WITHIN_S = 20.0


def connect(num_cpus: int | None = None, num_gpus: int | None = None) -> dict[str, Any]:
    """Join the cluster of RAY_ADDRESS (set inside a submitted job), or start one here; return its resources.

    A cluster started here listens on the loopback only, asks for a token that only this user can read, and keeps its
    files where only this user can enter. Where the cluster's control plane is lost, this process ends
    (`cluster/control_plane.py`). Raises ValueError for an environment that would open it, or where the cluster to be
    joined asks for no token.
    """
    prepare_environment()
    guards.check_authentication()
    import ray

    if not ray.is_initialized():
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "warning"}
        if not joins_cluster():
            remove_empty_traces()
            options |= {"num_cpus": num_cpus, "num_gpus": num_gpus, **LOCAL}
            options["_temp_dir"] = str(private_folder() / SESSIONS)  # Ray makes it, 0777: what it lies in is 0700
        else:
            _await_cluster(os.environ["RAY_ADDRESS"])
        try:
            with control_plane.watched():
                ray.init(**options)
        except ValueError:
            raise
        except Exception as error:  # of many kinds, bare ones too, whatever did not come up in time or was lost
            raise ClusterLost(_not_started(error)) from error
        stopping.hold()
    return dict(ray.cluster_resources())


def _await_cluster(address: str) -> None:
    """Raise ClusterLost where nobody listens at HOST:PORT for a while; Ray itself would go on trying for minutes."""
    host, _, port = address.rpartition(":")
    until = time.monotonic() + JOIN_WITHIN_S
    while re.fullmatch(r"[^/@]+:\d+", address):
        try:
            return socket.create_connection((host.strip("[]"), int(port)), timeout=3).close()
        except (OSError, OverflowError) as error:
            if time.monotonic() > until:
                raise ClusterLost(f"the cluster at {address} cannot be joined: {error}") from None
        time.sleep(1)
    return None


def _not_started(error: Exception) -> str:
    where = f"the cluster at {os.environ['RAY_ADDRESS']} cannot be joined" if joins_cluster() else "Ray does not start"
    said = str(error).strip().partition("\n")[0][:300]
    return f"{where}: {type(error).__name__}: {said}; nothing was begun, the same command continues"


def joins_cluster() -> bool:
    """Say whether `connect` will join a running cluster instead of starting one."""
    return bool(os.environ.get("RAY_ADDRESS"))


def resources_here() -> dict[str, float] | None:
    """Return what a cluster that `connect` starts here will have; None where this process joins one, or has joined it.

    For checks before anything is started: of a cluster that is joined nothing is known until then.
    """
    ray = sys.modules.get("ray")
    if joins_cluster() or (ray is not None and ray.is_initialized()):
        return None
    import torch

    return {"CPU": float(os.cpu_count() or 1), "GPU": float(torch.cuda.device_count())}


def prepare_environment() -> None:
    """Set what Ray reads from the environment; Ray caches it when it is imported.

    Does nothing where `ray` is imported already. Raises ValueError as `guards.check_start` does.
    """
    guards.check_start()
    if "ray" in sys.modules:
        return
    defaults = {
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # workers use this environment as it is
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_BACKEND_LOG_LEVEL": "fatal",  # its warnings about restarts speak of settings that are not ours
        "RAY_worker_niceness": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "OMP_NUM_THREADS": "1",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    if not joins_cluster():
        # Else Ray takes the machine's outer address for its own, and most of its ports listen on all of them.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        if not os.environ.get("RAY_AUTH_TOKEN") and not os.environ.get("RAY_AUTH_TOKEN_PATH"):
            os.environ["RAY_AUTH_TOKEN_PATH"] = str(_private_token())


def _private_token() -> Path:
    """Return a new token file, readable by this user alone and gone with this process."""
    import secrets

    path = private_folder() / TOKEN
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, stat.S_IRUSR | stat.S_IWUSR)
    with os.fdopen(handle, "w") as file:
        file.write(secrets.token_hex(32))
    return path


def train(
    loop: Callable[[dict[str, Any]], None],
    arguments: dict[str, Any],
    *,
    job: str,
    output: Path,
    num_workers: int,
    use_gpu: bool,
) -> None:
    """Run a training loop on Ray Train's workers, one CPU and at most one GPU each; dead workers are replaced.

    Ray's own checkpoints are not used: each run has a fresh name, and the loop finds its checkpoints by fingerprint.
    Raises TrainingDiverged where the loop does; Ray would begin it again from its checkpoint, to the same end.
    """
    from clarep_ray.data.durable import make_folder
    from clarep_ray.data.inside import read_text_inside, refuse_links
    from clarep_ray.data.untrusted import MAX_TEXT_BYTES
    from clarep_ray.errors import TrainingDiverged

    resources = connect()
    if not joins_cluster():  # else it may grow
        check_workers(num_workers, use_gpu, resources)
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    class Trainer(TorchTrainer):
        def _register_sigint_handler(self, controller: Any) -> None:
            """Leave Ctrl-C to `stopping`: Ray would go on until its controller answers, and end with a traceback."""

    make_folder(output)
    diverged = output / f".tmp-diverged-{uuid.uuid4().hex}"
    Trainer(
        partial(_unless_diverged, loop, diverged),
        train_loop_config=arguments,
        scaling_config=ScalingConfig(num_workers=num_workers, use_gpu=use_gpu, resources_per_worker={"CPU": 1}),
        run_config=RunConfig(
            name=f"{job}-{uuid.uuid4().hex[:8]}",
            storage_path=str(refuse_links(output, "ray")),
            failure_config=FailureConfig(max_failures=3),
        ),
    ).fit()
    if diverged.is_file():
        said = read_text_inside(output, diverged.name, MAX_TEXT_BYTES)
        diverged.unlink()
        raise TrainingDiverged(said)


def _unless_diverged(loop: Callable[[dict[str, Any]], None], diverged: Path, arguments: dict[str, Any]) -> None:
    """Run on every worker: the loop, and where it diverges, which it does on all of them, leave a file that says so."""
    from clarep_ray.data.inside import write_inside
    from clarep_ray.errors import TrainingDiverged

    try:
        loop(arguments)
    except TrainingDiverged as error:
        write_inside(diverged.parent, diverged.name, str(error).encode())


def quiet_ray_data() -> None:
    """Set Ray Data for long jobs: our progress lines instead of its own, three retries of the machine's own faults."""
    import ray

    for name in ("ray.data", "ray.data._internal.execution.streaming_executor", "ray.data._internal.progress"):
        logging.getLogger(name).setLevel(logging.ERROR)
    options = ray.data.DataContext.get_current()
    options.enable_progress_bars = False
    options.print_on_execution_start = False
    options.execution_no_progress_timeout_s = -1
    options.retried_map_errors = list(TRANSIENT)
    options.max_map_retries = MAX_RETRIES


def shutdown() -> None:
    """Leave the cluster, ending it where it was started here."""
    import ray

    ray.shutdown()
