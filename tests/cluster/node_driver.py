"""The driver of an extraction on a simulated cluster: its workers have GPUs by name alone, and note where they ran."""

import json
import os
import time
from pathlib import Path

NOTES = "CLAREP_TEST_NOTES"


def note_and_use_cpu() -> None:
    """Run at the start of every worker: models go to the CPU, and every unit is noted with its node and GPUs."""
    folder = Path(os.environ[NOTES])

    from clarep_ray.cluster import stages
    from clarep_ray.models import extractor

    plain_init, plain_extract = extractor.UnitExtractor.__init__, stages.extract_unit

    def init(self, config, device="cpu"):
        plain_init(self, config, "cpu")
        self.asked_for = device

    def extract_unit(model, blob):
        import ray

        where = ray.get_runtime_context()
        note = {
            "node": where.get_node_id(),
            "gpus": where.get_accelerator_ids()["GPU"],
            "device": model.asked_for,
            "pid": os.getpid(),
            "key": blob.records[0]["key"],
        }
        (folder / f"{time.time_ns()}-{os.getpid()}.json").write_text(json.dumps(note))
        time.sleep(float(os.environ.get("CLAREP_TEST_UNIT_S", "0.5")))
        return plain_extract(model, blob)

    extractor.UnitExtractor.__init__ = init
    stages.extract_unit = extract_unit


def main() -> None:
    from clarep_ray.cluster import runtime

    runtime.prepare_environment()
    import ray

    names = (NOTES, "CLAREP_TEST_UNIT_S")
    worker_env = {name: os.environ[name] for name in names if name in os.environ}
    ray.init(
        log_to_driver=False,
        logging_level="warning",
        runtime_env={"worker_process_setup_hook": note_and_use_cpu, "env_vars": worker_env},
    )
    from clarep_ray import dotted
    from clarep_ray.cluster.extract import run_extraction
    from clarep_ray.config import ExtractConfig

    config = dotted.from_flat(ExtractConfig, json.loads(Path(os.environ["CLAREP_TEST_CONFIG"]).read_text()))
    print(json.dumps(run_extraction(config, lambda line: print(line, flush=True))), flush=True)
