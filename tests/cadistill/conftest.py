"""Files that several tests train from, written once."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.cadistill.small import write_clareps, write_teacher  # not before jaxtyping has its hooks in place

    folder = tmp_path_factory.mktemp("distill")
    write_clareps(folder / "clareps")
    write_teacher(folder / "teacher")
    return folder
