"""Run with an object store that is too small and little space to spill to: python -m tests.faults.on_small_store
FOLDER WIDTH. Prints the root hash, or the error and the units that were committed before it."""

import subprocess
import sys
from pathlib import Path

from clarep_ray import cli
from clarep_ray.cluster import runtime
from clarep_ray.cluster.extract import open_extraction, run_context, stream
from clarep_ray.data.clarep_index import finish
from tests.cluster.reference import small_config
from tests.faults.cheap_stage import CheapStage

STORE_BYTES, SPILL = 80_000_000, "30m"


def main(folder: Path, width: int) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SPILL}", "none", str(folder / "spill")], check=True)
    runtime.prepare_environment()
    import ray

    options = {"object_store_memory": STORE_BYTES, "object_spilling_directory": str(folder / "spill")}
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error", **options)
    config = small_config(folder / "weights", folder / "images", folder / "out", engine__unit_size=2)
    with cli.exit_codes(), open_extraction(config, lambda _: None) as extraction:
        plan, store, manifest = extraction.plan, extraction.store, extraction.manifest
        runtime.connect()
        workers = {"num_actors": 1, "gpus_per_actor": 0.0, "cpus_per_actor": 0.3}
        context = run_context(plan, store, manifest)
        todo = [unit for unit in range(manifest.num_units) if unit not in store.units()]
        print("units", len(list(stream(context, todo, workers, CheapStage, (0, None, width)))), flush=True)
        print("root", finish(store, manifest, "train", plan.identity)["root_sha256"], flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
