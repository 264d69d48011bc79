"""A driver of twelve tiny units without model or Ray: python -m tests.faults.light_driver FOLDER SECONDS [take-over]"""

import hashlib
import sys
import time
from pathlib import Path

from clarep_ray import cli
from clarep_ray.data import owner
from clarep_ray.data.store import OutputStore

NUM_UNITS = 12
HEARTBEAT_S = 0.2


def unit_files(unit: int) -> dict[str, bytes]:
    return {"shards": hashlib.sha256(bytes([unit])).digest() * 100}


def drive(root: Path, seconds: float, take_over: bool) -> None:
    """Commit what is not committed, `seconds` apart, and say each."""
    with owner.owned(root, take_over, lambda line: print(line, flush=True)):
        store = OutputStore(root)
        store.prepare()
        store.write_run({}, {})
        print("started", flush=True)
        done = store.committed_units()
        for unit in range(NUM_UNITS):
            if unit not in done:
                time.sleep(seconds)
                fresh = store.commit(unit, unit_files(unit), {"rows": []})
                print(f"unit {unit} {'fresh' if fresh else 'known'}", flush=True)


if __name__ == "__main__":
    owner.HEARTBEAT_S = HEARTBEAT_S
    with cli.exit_codes():
        drive(Path(sys.argv[1]), float(sys.argv[2]), "take-over" in sys.argv)
