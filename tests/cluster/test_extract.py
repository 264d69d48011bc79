"""The engine against a plain loop: same bytes, every row accounted for, whatever is killed."""

import io
import json
import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

import mlflow
import numpy as np
import pytest
from PIL import Image

from clarep_ray.analysis.outputs import ExtractionOutput
from clarep_ray.cluster.extract import run_extraction
from clarep_ray.cluster.publish import extract_and_publish
from clarep_ray.data.clarep_index import read_index, read_root
from clarep_ray.data.verify import verify
from clarep_ray.dotted import override
from clarep_ray.errors import ResumeRefused
from tests.cluster.reference import (
    attempts,
    committed_hashes,
    committed_keys,
    plain_loop,
    small_config,
    starts,
)
from tests.data import trees

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture(scope="module")
def finished(weights: Path, images: Path, tmp_path_factory: pytest.TempPathFactory):
    """An undisturbed run of 28 images in 7 units, with side-car and extras."""
    output = tmp_path_factory.mktemp("finished") / "out"
    extras = ("original", "reconstruction", "guidance", "random@1", "unconditional@1", "centred@1", "other_image@1")
    config = small_config(
        weights,
        images,
        output,
        output__keep_spectrum=True,
        output__extras=extras,
        engine__num_actors=2,
        health__enabled=True,
    )
    return config, run_extraction(config, lambda _: None)


def test_the_models_health_is_part_of_the_summary(finished) -> None:
    config, summary = finished
    assert summary["health"]["verdict"] == "untrained"
    assert json.loads((Path(config.output.path) / "health.json").read_text()) == summary["health"]


def test_shards_equal_a_plain_loop_byte_by_byte(finished, tmp_path: Path) -> None:
    config, summary = finished
    assert summary["num_ok"] == summary["num_inputs"] == 28
    assert committed_hashes(Path(config.output.path)) == plain_loop(config, tmp_path)


def test_every_hash_and_count_is_right_and_each_unit_was_started_once(finished) -> None:
    config, _ = finished
    folder = Path(config.output.path)
    assert verify(folder) == []
    assert attempts(folder) == [f"{unit:06d}.1" for unit in range(7)]
    index = read_index(folder)
    assert index.num_rows == 28
    assert index["ordinal"].to_pylist() == list(range(28))
    assert len(set(index["key"].to_pylist())) == 28


def test_timm_reads_the_shards(finished) -> None:
    from timm.data import create_dataset

    config, _ = finished
    folder = config.output.path
    dataset = create_dataset("wds/clareps", root=folder, split="train", is_training=False, batch_size=4)
    pairs = list(dataset)
    assert len(pairs) == 28
    assert sorted(label for _, label in pairs) == sorted(ExtractionOutput(Path(folder)).labels.tolist())
    assert pairs[0][0].size == (8, 8)


def test_webdataset_reads_the_shards(finished) -> None:
    import webdataset

    config, _ = finished
    folder = Path(config.output.path)
    shards = sorted(str(path) for path in (folder / "shards").iterdir())
    samples = list(webdataset.WebDataset(shards, shardshuffle=False).decode("rgb8"))
    expected = ExtractionOutput(folder).samples
    assert [sample["__key__"] for sample in samples] == [sample.key for sample in expected]
    np.testing.assert_array_equal(samples[5]["feature.npy"], expected[5].feature())
    assert samples[5]["png"].shape == (8, 8, 3)
    assert samples[5]["json"]["num_removed"] == expected[5].record["num_removed"]


def test_records_say_what_vouches_for_them(finished) -> None:
    config, _ = finished
    for sample in ExtractionOutput(Path(config.output.path)).samples:
        record = sample.record
        assert len(record["singular_values"]) == len(record["residuals"]) == 4
        assert record["singular_values"] == sorted(record["singular_values"], reverse=True)
        assert record["max_residual"] <= config.spectrum.stops_at
        assert 1 <= record["num_removed"] <= 4
        assert 0 <= record["round_trip_error"] < 10
        assert record["noise_std"] > 0
        assert record["noise_outside"] in (True, False)
        assert record["elbow_method"] in ("kneed", "chord_fallback", "chord")
        assert record["fingerprint"] == read_root(Path(config.output.path))["fingerprint"]


def test_the_same_command_again_recomputes_nothing(finished) -> None:
    config, summary = finished
    again = run_extraction(override(config, {"engine.num_actors": 1}), lambda _: None)
    assert again["root_sha256"] == summary["root_sha256"]
    assert again["units_resumed"] == 7
    assert attempts(Path(config.output.path)) == [f"{unit:06d}.1" for unit in range(7)]


@pytest.mark.usefixtures("without_ray")
def test_spectra_decode_again_without_a_new_svd(finished, tmp_path: Path) -> None:
    config, _ = finished
    source = config.output.path
    changes = {"output.path": str(tmp_path / "same"), "output.from_spectrum": source, "output.keep_spectrum": False}
    same = override(config, changes)
    run_extraction(same, lambda _: None)
    full, resumed = ExtractionOutput(Path(source)), ExtractionOutput(tmp_path / "same")
    np.testing.assert_array_equal(resumed.pictures(), full.pictures())
    np.testing.assert_array_equal(resumed.features(), full.features())
    np.testing.assert_array_equal(resumed.pictures("reconstruction"), full.pictures("reconstruction"))
    narrow = {"spectrum.num_directions": 3, "elbow.rule": "fixed", "elbow.num_removed": 2, "output.extras": ()}
    run_extraction(override(same, narrow | {"output.path": str(tmp_path / "narrow")}), lambda _: None)
    records = [sample.record for sample in ExtractionOutput(tmp_path / "narrow").samples]
    assert {record["num_removed"] for record in records} == {2}
    assert {len(record["singular_values"]) for record in records} == {3}
    with pytest.raises(ValueError, match=r"inversion\.project_t was 600\.0 there and is 400\.0 here"):
        run_extraction(override(same, {"output.path": str(tmp_path / "bad"), "inversion.project_t": 400.0}))


@pytest.mark.parametrize(
    "change", [{"decoding.guidance_scale": 2.0}, {"engine.micro_batch": 2}, {"data.limit": 20}, {"seed": 1}]
)
def test_a_changed_run_is_refused_with_the_changed_fields(finished, change: dict) -> None:
    config, _ = finished
    with pytest.raises(ResumeRefused, match=next(iter(change))):
        run_extraction(override(config, change), lambda _: None)
    assert ResumeRefused.code == 7


def odd_folder(root: Path) -> Path:
    """Write the six odd files of a real crawl beside two good ones."""
    trees.image_folder(root, ("0", "1"), per_class=1)
    jpeg = trees.picture_bytes(3, "JPEG", size=64)
    (root / "0" / "truncated.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    (root / "0" / "text.png").write_text("I am not a picture")
    picture = Image.open(io.BytesIO(trees.picture_bytes(4)), formats=("PNG",))
    picture.convert("CMYK").save(root / "0" / "cmyk.jpg", "JPEG")
    ramp = np.linspace(0, 65535, 576).reshape(24, 24).astype(np.uint16)
    Image.fromarray(ramp).save(root / "1" / "deep.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(root / "1" / "rotated.png", exif=exif)
    (root / "walrus").mkdir()
    (root / "walrus" / "a.png").write_bytes(trees.picture_bytes(5))
    return root


def test_odd_files_are_rejected_with_reasons_or_converted(weights: Path, tmp_path: Path) -> None:
    config = small_config(weights, odd_folder(tmp_path / "in"), tmp_path / "out", output__extras=("original",))
    summary = run_extraction(config, lambda _: None)
    assert summary["rejects"] == {"not_an_image": 1, "truncated": 1, "unknown_class": 1}
    assert summary["num_ok"] == 5
    assert summary["reject_rate"] > config.output.max_reject_rate
    assert verify(tmp_path / "out") == []
    rows = {row["id"]: row for row in read_index(tmp_path / "out").to_pylist()}
    assert rows["0/truncated.jpg"]["reason"] == "truncated"
    assert rows["walrus/a.png"]["reason"] == "unknown_class"
    assert rows["0/cmyk.jpg"]["status"] == rows["1/deep.png"]["status"] == rows["1/rotated.png"]["status"] == "ok"


@pytest.mark.parametrize("kind", ["webdataset", pytest.param("parquet", marks=pytest.mark.nightly)])
def test_containers_go_through_the_engine(weights: Path, tmp_path: Path, kind: str, armed: Path) -> None:
    """On the way, the file system fails once: a fault of the machine is retried, never a reject."""
    (armed / "flaky").touch()
    root = getattr(trees, kind)(tmp_path / "in", labels=(0, 3, 12, 1, 2))
    config = small_config(weights, root, tmp_path / "out", data__source=kind)
    summary = run_extraction(config, lambda _: None)
    assert not (armed / "flaky").exists()
    assert (summary["num_ok"], summary["rejects"]) == (4, {"unknown_class": 1})
    assert committed_hashes(tmp_path / "out") == plain_loop(config, tmp_path)


def test_killed_actors_lose_and_double_nothing(weights: Path, images: Path, tmp_path: Path, armed: Path) -> None:
    """kill -9 of the actor at work: on the first of seven units, in the middle and on the last."""
    (armed / "slow").write_text("0.7")
    config = small_config(weights, images, tmp_path / "out", engine__max_attempts=9, engine__num_actors=2)
    killed: list[int] = []

    def killer() -> None:
        for number, started in enumerate((1, 4, 7)):
            while len(killed) == number:
                time.sleep(0.02)
                pid = worker_at_work(tmp_path / "out", started)
                if pid is not None and pid not in killed:
                    with suppress(ProcessLookupError):  # it may just have ended by itself
                        os.kill(pid, signal.SIGKILL)
                        killed.append(pid)

    thread = threading.Thread(target=killer, daemon=True)
    thread.start()
    summary = run_extraction(config, lambda _: None)
    thread.join(timeout=1)
    assert len(killed) == 3
    for start in starts(tmp_path / "out"):
        committed = tmp_path / "out" / "units" / f"{start.stem}.json"
        assert start.stat().st_mtime_ns <= committed.stat().st_mtime_ns, "a committed unit was computed again"
    assert summary["num_ok"] == 28
    assert len(committed_keys(tmp_path / "out")) == len(set(committed_keys(tmp_path / "out"))) == 28
    assert committed_hashes(tmp_path / "out") == plain_loop(config, tmp_path)
    assert verify(tmp_path / "out") == []


def worker_at_work(output: Path, started: int) -> int | None:
    """Return the process that began on a unit less than half a second ago, once so many units were begun."""
    begun = sorted(starts(output), key=lambda path: path.stat().st_mtime)
    if len({path.stem for path in begun}) < started or time.time() - begun[-1].stat().st_mtime > 0.5:
        return None
    return json.loads(begun[-1].read_bytes())["pid"]


def test_analysis_of_a_large_output_reads_an_even_spread(finished) -> None:
    config, _ = finished
    full = ExtractionOutput(Path(config.output.path))
    some = ExtractionOutput(Path(config.output.path), max_samples=4)
    assert [sample.key for sample in some.samples] == [full.samples[i].key for i in (0, 9, 18, 27)]
    assert some.index.num_rows == 28


def summary_input(folder: Path) -> str:
    return json.loads((folder / "MANIFEST.json").read_text())["input_sha256"]


def test_publishing_draws_logs_and_tells_the_user(finished, tmp_path: Path) -> None:
    config, _ = finished
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    lines: list[str] = []
    shown = override(config, {"tracking.enabled": True, "tracking.uri": uri})
    summary = extract_and_publish(shown, "digits_smoke", lines.append)
    folder = Path(config.output.path)
    assert summary["units_resumed"] == 7
    assert "28 Canonical Samples from 28 images; rejected: none" in lines[-1]
    assert str(folder) in lines[-1]
    pictures = {"contact_sheet.png", "evr_curves.png", "k_histogram.png"}
    assert all(Image.open(folder / name).size > (400, 300) for name in pictures)
    client = mlflow.MlflowClient(uri)
    (run,) = client.search_runs(["1"])
    assert {item.path for item in client.list_artifacts(run.info.run_id)} == {"config.json", "images", "summary.json"}
    stems = {Path(item.path).name.partition("+")[0] for item in client.list_artifacts(run.info.run_id, "images")}
    assert stems == {f"pictures~{Path(name).stem}" for name in pictures}
    assert run.data.metrics["nmi/random_1"] == pytest.approx(summary["metrics"]["nmi/random@1"])
    assert run.data.tags["fingerprint"] == summary["fingerprint"]
    assert run.inputs.dataset_inputs[0].dataset.digest == summary_input(folder)[:16]
    extract_and_publish(shown, "digits_smoke", lines.append)
    (again,) = client.search_runs(["1"])
    assert again.info.end_time == run.info.end_time


@pytest.mark.nightly
def test_a_batch_that_is_left_open_is_chosen_where_the_actors_run_and_recorded(
    weights: Path, images: Path, tmp_path: Path
) -> None:
    config = small_config(weights, images, tmp_path / "out", engine__micro_batch=None)
    said: list[str] = []
    first = run_extraction(config, said.append)
    chosen = [line for line in said if line.startswith("micro-batch")]
    assert len(chosen) == 1
    assert chosen[0].startswith("micro-batch 4: "), "this machine holds a whole unit"
    given = override(config, {"engine.micro_batch": 4})
    assert committed_hashes(tmp_path / "out") == plain_loop(given, tmp_path)
    said.clear()
    for same in (given, config):
        again = run_extraction(same, said.append)
        assert (again["fingerprint"], again["units_resumed"]) == (first["fingerprint"], 7)
    assert not any(line.startswith("micro-batch") for line in said), "nothing is measured again"
