"""One folder for the runs of a module, and what an undisturbed run leaves there."""

from pathlib import Path

import pytest

from tests.cluster.conftest import armed, faults, ray_session

__all__ = ["armed", "faults", "ray_session"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that is made anew for every run: its path is written in the output."""
    return tmp_path_factory.mktemp("disk") / "base"


@pytest.fixture(scope="module")
def golden(base: Path) -> dict[str, bytes]:
    """Files of an undisturbed run, by name."""
    from tests.faults.small_run import SmallRun, visible  # not at the top: shapes could not be checked any more

    SmallRun()(base / "out")
    return visible(base / "out")


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a small distillation reads."""
    from tests.cadistill.small import write_clareps, write_teacher

    folder = tmp_path_factory.mktemp("distill")
    write_clareps(folder / "clareps")
    write_teacher(folder / "teacher")
    return folder
