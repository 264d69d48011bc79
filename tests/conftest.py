"""One thread for everything (results depend on it), no tracking to the user's MLflow, and an S3 server on demand."""

import os
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.s3 import S3Server

os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def s3_of_module() -> Iterator["S3Server"]:
    from tests.s3 import serving

    with serving() as server:
        yield server


@pytest.fixture
def s3(s3_of_module: "S3Server", monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> "S3Server":
    """A server without faults, and the environment by which this process finds it."""
    from tests.s3 import environment

    s3_of_module.reset()
    for name, value in environment(s3_of_module).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return s3_of_module


@pytest.fixture
def bucket(s3: "S3Server") -> str:
    """URL of a new bucket."""
    name = f"bucket-{uuid.uuid4().hex[:12]}"
    with urllib.request.urlopen(urllib.request.Request(f"{s3.url}/{name}", method="PUT")) as answer:
        assert answer.status == 200
    s3.reset()
    return f"s3://{name}"
