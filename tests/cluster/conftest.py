"""One Ray session for the module's tests, and faults injected from test code alone."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

FAULTS = "CLAREP_TEST_FAULTS"


def arm_faults() -> None:
    """Run at the start of every Ray worker: kill the process on a key named in the fault file."""
    folder = Path(os.environ[FAULTS])

    from clarep_ray.cluster import stages

    plain = stages.extract_unit

    def extract_unit(extractor, blob):
        poison, slow = folder / "poison", folder / "slow"
        if poison.is_file() and poison.read_text() in {record["key"] for record in blob.records}:
            os.abort()
        if slow.is_file():
            time.sleep(float(slow.read_text()))
        return plain(extractor, blob)

    stages.extract_unit = extract_unit


@pytest.fixture(scope="session")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder whose files `poison` (a key) and `slow` (seconds) arm faults in the workers."""
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="session")
def ray_session(faults: Path) -> Iterator[None]:
    from clarep_ray.cluster import runtime

    os.environ["PYTHONPATH"] = str(Path(__file__).parents[2])  # workers import this file
    runtime.prepare_environment()
    import ray

    runtime_env = {"worker_process_setup_hook": arm_faults, "env_vars": {FAULTS: str(faults)}}
    for attempt in (1, 2):
        try:
            ray.init(
                "local",
                num_cpus=2,
                include_dashboard=False,
                object_store_memory=500_000_000,
                log_to_driver=False,
                logging_level="error",
                runtime_env=runtime_env,
            )
            break
        except Exception:
            ray.shutdown()
            if attempt == 2:
                raise
    yield
    ray.shutdown()


@pytest.fixture
def armed(faults: Path) -> Iterator[Path]:
    yield faults
    for file in faults.iterdir():
        file.unlink()
