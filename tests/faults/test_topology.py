"""One root hash, however many actors there are, however much each holds, in whatever order units come, who dies."""

import itertools
import random
import time
from pathlib import Path

import pyarrow as pa
import pytest

from clarep_ray.cluster.extract import open_extraction, run_context, stream
from clarep_ray.cluster.stages import commit_stage, decode_stage
from clarep_ray.config import ExtractConfig
from clarep_ray.data.clarep_index import finish
from clarep_ray.data.verify import verify
from clarep_ray.dotted import override
from tests.cluster.conftest import images, weights
from tests.cluster.reference import small_config
from tests.faults.cheap_stage import CheapStage

__all__ = ["images", "weights"]
ACTORS, IN_FLIGHT, SEEDS = (1, 2, 3), (1, 2), (0, 1, 2)
NUM_UNITS = 15


def plain_root(config: ExtractConfig) -> str:
    """Return the root hash of one process that does one unit after another."""
    with open_extraction(config, lambda _: None) as extraction:
        plan, store, manifest = extraction.plan, extraction.store, extraction.manifest
        context = run_context(plan, store, manifest)
        stage = CheapStage(context, 0, None)
        for unit in range(manifest.num_units):
            commit_stage(stage(decode_stage(pa.table({"unit": [unit]}), context)), context)
        return finish(store, manifest, "train", plan.identity)["root_sha256"]


def engine_root(config: ExtractConfig, actors: int, seed: int, kills: Path | None) -> str:
    """Return the root hash of a run on Ray whose units come in an order that follows from a seed."""
    with open_extraction(config, lambda _: None) as extraction:
        plan, store, manifest = extraction.plan, extraction.store, extraction.manifest
        units = list(range(manifest.num_units))
        random.Random(seed).shuffle(units)
        workers = {"num_actors": actors, "gpus_per_actor": 0.0, "cpus_per_actor": 0.3}
        arguments = (seed, None if kills is None else str(kills))
        reports = list(stream(run_context(plan, store, manifest), units, workers, CheapStage, arguments))
        assert sorted(report["unit"] for report in reports) == list(range(NUM_UNITS))
        return finish(store, manifest, "train", plan.identity)["root_sha256"]


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_every_topology_order_and_kill_gives_one_root_hash(
    weights: Path, images: Path, tmp_path: Path, ray_session: None
) -> None:
    (images / "0" / "text.png").write_text("not a picture")
    config = small_config(weights, images, tmp_path / "plain", engine__unit_size=2, engine__max_attempts=9)
    expected = plain_root(config)
    began, roots, deaths = time.monotonic(), dict[str, str](), 0
    for actors, in_flight, seed, killed in itertools.product(ACTORS, IN_FLIGHT, SEEDS, (False, True)):
        name = f"{actors} actors, {in_flight} units each, seed {seed}, {'killed' if killed else 'calm'}"
        output, kills = tmp_path / f"out{len(roots)}", tmp_path / f"kills{len(roots)}"
        kills.mkdir()
        changes = {"output.path": str(output), "engine.units_in_flight": in_flight}
        roots[name] = engine_root(override(config, changes), actors, seed, kills if killed else None)
        dead = len(list(kills.iterdir()))
        assert (dead > 0) == killed, name
        deaths += dead
        assert verify(output) == [], name
    print(f"{len(roots)} runs, {deaths} actors killed, {time.monotonic() - began:.0f} s")
    assert len(roots) == 36
    assert set(roots.values()) == {expected}, {name: root for name, root in roots.items() if root != expected}
