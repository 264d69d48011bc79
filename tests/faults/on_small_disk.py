"""Run on a tmpfs that is too small, then on the same with space: python -m tests.faults.on_small_disk FOLDER"""

import subprocess
import sys
from pathlib import Path

import pytest

from clarep_ray import cli
from clarep_ray.data.verify import verify
from tests.faults.small_run import NUM_UNITS, SmallRun


def main(folder: Path) -> None:
    def mount(options: str) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(folder)], check=True)

    mount("size=48k")
    first, second = SmallRun(), SmallRun()
    with pytest.raises(SystemExit) as ended, cli.exit_codes():
        first(folder / "out")
    assert ended.value.code == 5, ended.value.code
    assert first.reported == [0], first.reported
    mount("remount,size=8m")
    second(folder / "out")
    assert second.computed == list(range(1, NUM_UNITS)), second.computed
    assert verify(folder / "out") == []


if __name__ == "__main__":
    main(Path(sys.argv[1]))
