"""An object store of 80 MB, and less than that to spill to: back-pressure or an error, never part of a unit."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from clarep_ray.data.store import OutputStore
from clarep_ray.data.verify import verify
from tests.cluster.conftest import weights
from tests.data import trees
from tests.faults.on_small_store import SPILL, STORE_BYTES

__all__ = ["weights"]
UNSHARE = ["unshare", "--map-root-user", "--mount"]
FEATURE_BYTES = 4


@pytest.mark.nightly
@pytest.mark.timeout(600)
@pytest.mark.parametrize("unit_bytes", [20_000_000, 100_000_000])
def test_units_larger_than_the_object_store_are_held_back_or_fail_whole(
    unit_bytes: int, weights: Path, tmp_path: Path
) -> None:
    """Five units of two pictures; the second size alone is more than the store holds."""
    (tmp_path / "spill").mkdir()
    if subprocess.run([*UNSHARE, "mount", "-t", "tmpfs", "none", str(tmp_path / "spill")], check=False).returncode:
        pytest.skip("this machine lets no user mount a tmpfs (unshare --map-root-user --mount)")
    trees.image_folder(tmp_path / "images", ("0", "1"), per_class=5)
    (tmp_path / "weights").symlink_to(weights)
    width = unit_bytes // FEATURE_BYTES // 2
    command = [*UNSHARE, sys.executable, "-m", "tests.faults.on_small_store", str(tmp_path), str(width)]
    began = time.monotonic()
    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=400, cwd=Path(__file__).parents[2], check=False
    )
    print(f"{unit_bytes} bytes a unit, spill {SPILL}: exit {ended.returncode} in {time.monotonic() - began:.0f} s")
    print(ended.stdout[-500:], ended.stderr[-1500:])
    committed = OutputStore(tmp_path / "out").units()
    if unit_bytes < STORE_BYTES:
        assert ended.returncode == 0
        assert committed == list(range(5))
        assert verify(tmp_path / "out") == []
    else:
        assert ended.returncode == 5
        assert "error: Ray's object store is full, and so is the disk it spills to: Local disk is full" in ended.stderr
        assert [damage.unit for damage in verify(tmp_path / "out")] == [None], "part of a unit; the run is unfinished"
