"""One folder for the runs of a module, and what an undisturbed run leaves there."""

from pathlib import Path

import pytest


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
