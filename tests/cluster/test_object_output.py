"""An extraction into object storage: interrupted, resumed, the root of one in a folder; decoded again, refused."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from clarep_ray.cluster import extract, stages
from clarep_ray.cluster.extract import run_extraction
from clarep_ray.cluster.plan import describe, make_plan
from clarep_ray.cluster.publish import extract_and_publish, run_controls
from clarep_ray.cluster.repair import repair
from clarep_ray.cluster.sweep import sweep_clarid
from clarep_ray.config import SearchConfig
from clarep_ray.data.clarep_index import read_root
from clarep_ray.data.copy_output import copy_output
from clarep_ray.data.object_store import ObjectStore
from clarep_ray.data.verify import verify
from clarep_ray.dotted import override
from clarep_ray.errors import InputChanged, ResumeRefused, StorageFault
from clarep_ray.presets import CLARID_SWEEPS
from tests.cluster.reference import small_config
from tests.s3 import SECRET, S3Server, environment

ROOT = Path(__file__).parents[2]


def quiet(line: str) -> None:
    pass


class Interrupted(RuntimeError):
    pass


@pytest.mark.usefixtures("without_ray")
def test_an_interrupted_run_in_objects_ends_with_the_root_of_one_in_a_folder(
    weights: Path, images: Path, tmp_path: Path, bucket: str, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = small_config(weights, images, tmp_path / "out", data__limit=12)
    tracking = {"tracking.enabled": True, "tracking.uri": "http://127.0.0.1:1"}
    there = override(here, {"output.path": f"{bucket}/runs/out/", **tracking})
    plain = extract.stream

    def interrupted(context: Any, todo: Sequence[int], workers: dict[str, Any]) -> Iterator[dict[str, Any]]:
        yield from islice(plain(context, todo, workers), 2)
        raise Interrupted

    monkeypatch.setattr(extract, "stream", interrupted)
    with pytest.raises(Interrupted):
        run_extraction(there, quiet)
    monkeypatch.setattr(extract, "stream", plain)
    said: list[str] = []
    with pytest.warns(UserWarning, match="has not taken"):
        summary = extract_and_publish(there, "digits_smoke", said.append)
    store = ObjectStore(f"{bucket}/runs/out")
    root = run_extraction(here, quiet)["root_sha256"]
    assert (summary["units_resumed"], summary["root_sha256"]) == (2, root)
    assert (summary["output"], verify(store)) == (store.where, [])
    made = {path.name for path in (tmp_path / "out").iterdir() if path.is_file()}
    pictures = {"evr_curves.png", "k_histogram.png", "contact_sheet.png"}
    assert set(store.names("")) == made | pictures | {"summary.json"}
    assert f"uv run jobs/verify.py {store.where}" in said[-1]
    assert json.loads(store.read("summary.json", 2**20))["units_resumed"] == 2
    with pytest.raises(ResumeRefused, match="seed: 0 -> 1"):
        run_extraction(override(there, {"seed": 1}), quiet)
    no_secret_below(tmp_path, store)


def no_secret_below(folder: Path, store: ObjectStore) -> None:
    for path in (path for path in folder.rglob("*") if path.is_file()):
        assert SECRET.encode() not in path.read_bytes(), path
        assert b"canary-of-a-key" not in path.read_bytes(), path
    for name in store.names(""):
        assert b"canary-of" not in store.read(name, 2**24), name


@pytest.mark.usefixtures("without_ray")
def test_an_output_in_objects_is_repaired_copied_and_decoded_again(
    weights: Path, images: Path, tmp_path: Path, bucket: str, s3: S3Server
) -> None:
    config = small_config(weights, images, f"{bucket}/out", data__limit=8, output__keep_spectrum=True)
    summary, store = run_extraction(config, quiet), ObjectStore(f"{bucket}/out")
    assert "output       s3://" in describe(make_plan(config))
    store.put(f"shards/{store.names('shards')[1]}", b"damaged")
    damages = verify(store)
    assert [damage.unit for damage in damages] == [1]
    assert repair(store, damages) == [1]
    copy = override(config, {"output.path": str(tmp_path / "copy")})
    copy_output(store, tmp_path / "copy", quiet)
    assert run_extraction(copy, quiet)["units_resumed"] == 2
    assert read_root(tmp_path / "copy")["root_sha256"] == summary["root_sha256"]
    roots = [
        run_extraction(override(config, {**DECODED_AGAIN, "output.from_spectrum": source, "output.path": out}), quiet)
        for source, out in ((store.where, f"{bucket}/again"), (copy.output.path, str(tmp_path / "again")))
    ]
    assert roots[0]["root_sha256"] == roots[1]["root_sha256"]


DECODED_AGAIN = {"decoding.guidance_scale": 2.0, "output.keep_spectrum": False}


def test_a_worker_reads_the_frozen_input_once_and_checks_it(
    weights: Path, images: Path, bucket: str, s3: S3Server
) -> None:
    config = small_config(weights, images, f"{bucket}/out", data__limit=8)
    with extract.open_extraction(config, quiet) as extraction:
        context = extract.run_context(extraction.plan, extraction.store, extraction.manifest)
        s3.reset()
        for unit in (0, 1):
            manifest = stages._manifest(context.output, context.run_id, context.input_file_sha256)
            assert manifest.unit_rows(unit) == extraction.manifest.unit_rows(unit)
        assert s3.count() == {"GET": 1}
        assert not manifest.path.exists()
        extraction.store.put("input.parquet", b"another")
        with pytest.raises(InputChanged, match="is not what this run began with"):
            stages._manifest(context.output, "another run", context.input_file_sha256)


def test_what_cannot_be_written_is_said_before_anything_expensive(
    images: Path, bucket: str, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights are not there, and nobody came to look."""
    config = small_config(Path("/nowhere"), images, f"{bucket}/out")
    s3.heeds_conditions = False
    with pytest.raises(ValueError, match="ignores If-None-Match"):
        run_extraction(config, quiet)
    s3.forbidden = {"PUT"}
    with pytest.raises(StorageFault, match="403 Forbidden"):
        run_extraction(config, quiet)
    with pytest.raises(ValueError, match=r"output.path: 's3://.*lies in object storage; valid: a folder, .*--copy-to"):
        run_controls(config, "digits_smoke", quiet)
    with pytest.raises(ValueError, match=r"output.path: 's3://.*lies in object storage"):
        sweep_clarid(config, CLARID_SWEEPS["window"](), SearchConfig(), "window", quiet)


def test_a_submitted_job_may_write_to_objects(weights: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    monkeypatch.setattr("clarep_ray.cluster.plan.unchanged_hashes", lambda store, root: {})
    config = small_config(weights, images, "s3://bucket/out", data__limit=4)
    assert make_plan(config).config.output.path == "s3://bucket/out"
    with pytest.raises(ValueError, match=r"'out' is relative.*or s3://BUCKET/PREFIX"):
        make_plan(override(config, {"output.path": "out"}))


@pytest.mark.nightly
@pytest.mark.timeout(1200)
def test_a_killed_driver_is_continued_in_objects(tmp_path: Path, bucket: str, s3: S3Server) -> None:
    """kill -9 of the command after two units and after five; then it runs to its end, as one in a folder does."""
    variables = {**os.environ, **environment(s3), "XDG_STATE_HOME": str(tmp_path / "state"), "RAY_ADDRESS": ""}
    arguments = ["--preset", "digits_smoke", "--data.digits.count", "40", "--inversion.num-steps", "25"]
    arguments += ["--tracking.no-enabled", "--engine.num-actors", "1", "--output.path"]
    command = [sys.executable, str(ROOT / "jobs" / "extract.py"), *arguments]
    store = ObjectStore(f"{bucket}/out")
    for committed in (2, 5):
        process = subprocess.Popen([*command, store.where], env=variables, start_new_session=True)
        while len(store.names("units")) < committed:
            assert process.poll() is None
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    subprocess.run([*command, store.where], env=variables, check=True)
    subprocess.run([*command, str(tmp_path / "out")], env=variables, check=True)
    assert verify(store) == []
    assert read_root(store)["root_sha256"] == read_root(tmp_path / "out")["root_sha256"]
