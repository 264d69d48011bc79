"""One process reads all hostile files of a test run, and ends with it."""

from collections.abc import Iterator

import pytest

from tests.hostile import judge


@pytest.fixture(scope="session", autouse=True)
def judge_ends() -> Iterator[None]:
    yield
    judge.stop()
