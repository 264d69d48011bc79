"""What becomes of an output folder: resumed, refused, verified, repaired, compared. The same stages, without Ray."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from clarep_ray.cluster.extract import run_extraction
from clarep_ray.cluster.publish import run_controls
from clarep_ray.cluster.repair import repair
from clarep_ray.config import PROJECTION_MODES
from clarep_ray.data import clarep_index
from clarep_ray.data.clarep_index import read_index, read_root
from clarep_ray.data.manifest import MANIFEST, InputManifest, names_sha256
from clarep_ray.data.shards import sha256_file
from clarep_ray.data.store import OutputStore
from clarep_ray.data.verify import verify
from clarep_ray.dotted import override
from clarep_ray.errors import DamagedUnit, ResumeRefused
from tests.cluster.reference import attempts, flip_byte, small_config, tiny_weights
from tests.data import trees

pytestmark = pytest.mark.usefixtures("without_ray")


def test_changed_input_or_weights_are_refused(weights: Path, tmp_path: Path) -> None:
    images = trees.image_folder(tmp_path / "in", ("0",), per_class=2)
    config = small_config(weights, images, tmp_path / "out")
    run_extraction(config, lambda _: None)
    (images / "0" / "img_1.png").write_bytes(trees.picture_bytes(50))
    with pytest.raises(ResumeRefused, match="input_sha256"):
        run_extraction(config, lambda _: None)
    (images / "0" / "img_1.png").write_bytes(trees.picture_bytes(1))
    other = tiny_weights(tmp_path / "other")
    data = bytearray((other / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (other / "model.safetensors").write_bytes(bytes(data))
    with pytest.raises(ResumeRefused, match="weights_sha256"):
        run_extraction(override(config, {"model.weights": str(other)}), lambda _: None)


def test_every_manifest_says_what_the_labels_stand_for(weights: Path, images: Path, tmp_path: Path) -> None:
    config = small_config(weights, images, tmp_path / "out", data__limit=8)
    run_extraction(config, lambda _: None)
    run, root = (json.loads((tmp_path / "out" / name).read_text()) for name in ("run.json", "MANIFEST.json"))
    unit = OutputStore(tmp_path / "out").committed_unit(1)
    label_map = names_sha256(str(digit) for digit in range(10))
    assert run["fields"]["label_map_sha256"] == root["label_map_sha256"] == unit["label_map_sha256"] == label_map
    assert root["fingerprint"] == unit["fingerprint"] == run["fingerprint"]
    assert verify(tmp_path / "out") == []


def test_the_index_does_not_hold_all_rows_at_once(
    weights: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config(weights, images, tmp_path / "out", data__limit=8)
    run_extraction(config, lambda _: None)
    whole = read_index(tmp_path / "out")
    monkeypatch.setattr(clarep_index, "INDEX_GROUP", 3)
    assert run_extraction(config, lambda _: None)["num_inputs"] == 8
    assert pq.ParquetFile(tmp_path / "out" / "index.parquet").metadata.num_row_groups == 3
    assert read_index(tmp_path / "out").equals(whole)
    (tmp_path / "out" / "units" / "000001.json").rename(tmp_path / "out" / "units" / "000007.json")
    manifest = InputManifest(tmp_path / "out" / MANIFEST, sha256_file(tmp_path / "out" / MANIFEST))
    with pytest.raises(clarep_index.Unaccounted, match=r"1 of 2 units are not committed, first: \[1\]"):
        clarep_index.finish(OutputStore(tmp_path / "out"), manifest, "train", {})


def test_a_foreign_folder_is_left_alone(weights: Path, images: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="is not empty and holds no run"):
        run_extraction(small_config(weights, images, tmp_path / "out"), lambda _: None)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.tex"]


def test_units_of_nothing_but_rejects_keep_no_side_car(weights: Path, tmp_path: Path) -> None:
    root = trees.image_folder(tmp_path / "in", ("0", "walrus"), per_class=5)
    config = small_config(weights, root, tmp_path / "out", output__keep_spectrum=True)
    summary = run_extraction(config, lambda _: None)
    assert (summary["num_ok"], summary["rejects"], summary["num_units"]) == (5, {"unknown_class": 5}, 3)
    again = override(config, {"output.from_spectrum": config.output.path, "output.path": str(tmp_path / "again")})
    assert run_extraction(again, lambda _: None)["num_ok"] == 5
    side_car = next((tmp_path / "out" / "spectra").iterdir())
    flip_byte(side_car, -3)
    with pytest.raises(DamagedUnit, match=r"has another hash; run: uv run jobs/verify\.py .* --repair"):
        run_extraction(override(again, {"output.path": str(tmp_path / "third")}), lambda _: None)


def test_a_driver_killed_before_the_first_unit_is_continued(weights: Path, images: Path, tmp_path: Path) -> None:
    config = small_config(weights, images, tmp_path / "out", data__limit=4)
    store = OutputStore(tmp_path / "out")
    store.prepare()
    (tmp_path / "out" / "tmp" / ("f" * 32)).write_text("half a run.json")
    assert run_extraction(config, lambda _: None)["num_ok"] == 4


def test_an_unfinished_output_is_verified_and_repaired(weights: Path, images: Path, tmp_path: Path) -> None:
    config = small_config(weights, images, tmp_path / "out", data__limit=12)
    summary = run_extraction(config, lambda _: None)
    (tmp_path / "out" / "MANIFEST.json").unlink()
    (tmp_path / "out" / "units" / "000002.json").unlink()
    unit = tmp_path / "out" / "units" / "000001.json"
    unit.write_text(unit.read_text().replace('"num_products": ', '"num_products": 1'))
    damages = verify(tmp_path / "out")
    assert [damage.unit for damage in damages] == [None, 1]
    assert "not finished" in damages[0].what
    with pytest.raises(DamagedUnit, match="does not match its own hash"):
        run_extraction(config, lambda _: None)
    repair(tmp_path / "out", damages)
    assert verify(tmp_path / "out") == []
    assert read_root(tmp_path / "out")["root_sha256"] == summary["root_sha256"]


def test_repair_takes_nothing_out_that_it_cannot_compute_again(weights: Path, images: Path, tmp_path: Path) -> None:
    own = tmp_path / "weights"
    shutil.copytree(weights, own)
    config = small_config(own, images, tmp_path / "out", data__limit=8)
    run_extraction(config, lambda _: None)
    flip_byte(tmp_path / "out" / "units" / "000001.json", 30)
    flip_byte(own / "model.safetensors", -1)
    files = sorted((tmp_path / "out").rglob("*"))
    with pytest.raises(ResumeRefused, match="weights_sha256"):
        repair(tmp_path / "out", verify(tmp_path / "out"))
    assert sorted((tmp_path / "out").rglob("*")) == files


@pytest.mark.nightly
def test_controls_compare_every_projection_over_three_seeds(weights: Path, images: Path, tmp_path: Path) -> None:
    config = small_config(weights, images, tmp_path / "out", data__limit=8, engine__num_actors=2)
    table = run_controls(config, "digits_smoke", lambda _: None)
    assert set(table.values) == {"original"} | {f"{mode}@{w}" for mode in PROJECTION_MODES for w in (1, 3)}
    assert all(len(cells["nmi"]) == 3 for cells in table.values.values())
    assert (tmp_path / "out" / "controls.png").is_file()
    text = (tmp_path / "out" / "controls.md").read_text()
    assert sum(line.startswith("|") for line in text.splitlines()) == 2 + 19
    assert "norm_ratio: ||x_t projected by Eq. 2|| / ||x_t||" in text
    assert len(table.values["shrink@3"]["norm_ratio"]) == 3
    assert table.values["random@3"]["norm_ratio"] == []


def test_repair_recomputes_only_what_is_damaged(weights: Path, images: Path, tmp_path: Path) -> None:
    config = small_config(weights, images, tmp_path / "out")
    summary = run_extraction(config, lambda _: None)
    flip_byte(sorted((tmp_path / "out" / "shards").iterdir())[2], 700)
    (tmp_path / "out" / "units" / "000005.json").write_text("{}")
    damages = verify(tmp_path / "out")
    assert sorted({damage.unit for damage in damages if damage.unit is not None}) == [2, 5]
    before = attempts(tmp_path / "out")
    assert repair(tmp_path / "out", damages) == [2, 5]
    assert verify(tmp_path / "out") == []
    assert read_root(tmp_path / "out")["root_sha256"] == summary["root_sha256"]
    assert sorted(set(attempts(tmp_path / "out"))) == before
    assert len(attempts(tmp_path / "out")) == len(before) + 2
