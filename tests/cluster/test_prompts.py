"""Several prompts per class: every image once with each, the first exactly as without the others."""

import json
from pathlib import Path
from typing import Any

import pytest

from clarep_ray.cluster.extract import run_extraction
from clarep_ray.cluster.plan import make_plan
from clarep_ray.config import ExtractConfig
from clarep_ray.data.clarep_index import read_index
from clarep_ray.data.shards import Sample, read_shard
from clarep_ray.data.store import OutputStore
from clarep_ray.data.verify import verify
from clarep_ray.dotted import override
from clarep_ray.presets import EXTRACT
from tests.data import trees
from tests.models.test_diffusers_folders import write_stable_diffusion

CLASSES = ("cat", "dog")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, four pictures of two classes, and prompt files of one and of two prompts each."""
    root = tmp_path_factory.mktemp("prompts")
    write_stable_diffusion(root / "sd")
    trees.image_folder(root / "in", CLASSES, per_class=2)
    for name, prompts in (("one", lambda c: f"a {c}"), ("two", lambda c: [f"a {c}", f"oil on canvas of {c}"])):
        (root / f"{name}.json").write_text(json.dumps({c: prompts(c) for c in CLASSES}))
    return root


def config_of(folder: Path, name: str, output: Path, **changes: Any) -> ExtractConfig:
    paths = {
        "model.weights": str(folder / "sd"),
        "model.prompts": str(folder / f"{name}.json"),
        "data.source": "image_folder",
        "data.path": str(folder / "in"),
        "output.path": str(output),
        "tracking.enabled": False,
        "spectrum.num_directions": 3,
    }
    renamed = {key.replace("__", "."): value for key, value in changes.items()}
    return override(EXTRACT["sd21_smoke"]().config, paths | renamed)


def samples_of(folder: Path) -> dict[str, Sample]:
    names = [unit["files"]["shards"]["name"] for unit in OutputStore(folder).committed_units().values()]
    return {sample.record["id"]: sample for name in names for sample in read_shard(folder / name)}


@pytest.mark.usefixtures("without_ray")
def test_every_image_is_extracted_once_with_each_prompt(folder: Path, tmp_path: Path) -> None:
    one = run_extraction(config_of(folder, "one", tmp_path / "one"), lambda _: None)
    two = run_extraction(config_of(folder, "two", tmp_path / "two"), lambda _: None)
    assert (one["num_ok"], two["num_ok"]) == (4, 8)
    single, double = samples_of(tmp_path / "one"), samples_of(tmp_path / "two")
    assert list(double) == [*single, *(f"{identity}#1" for identity in single)]
    for identity, sample in single.items():
        first, second = double[identity], double[f"{identity}#1"]
        assert first.key == sample.key != second.key
        assert {n: b for n, b in first.members.items() if n != "json"} == {
            n: b for n, b in sample.members.items() if n != "json"
        }
        assert second.members["png"] != first.members["png"]
        assert second.members["cls"] == first.members["cls"]
        label = CLASSES[int(first.members["cls"])]
        assert (first.record["prompt"], first.record["prompt_text"]) == (0, f"a {label}")
        assert (second.record["prompt"], second.record["prompt_text"]) == (1, f"oil on canvas of {label}")
    assert read_index(tmp_path / "two")["prompt"].to_pylist() == [0] * 4 + [1] * 4
    assert verify(tmp_path / "two") == []


def test_one_prompt_changes_no_id_and_no_key(folder: Path, tmp_path: Path) -> None:
    plan = make_plan(config_of(folder, "one", tmp_path))
    assert (plan.rows[0].id, plan.rows[0].prompt) == ("cat/img_0.png", 0)
    assert all(row.image_key == row.key for row in plan.rows)
    double = make_plan(config_of(folder, "two", tmp_path)).rows
    assert [row.image_key for row in double] == [row.key for row in plan.rows] * 2
    assert [row.sha256 for row in double] == [row.sha256 for row in plan.rows] * 2


def test_other_image_is_refused_where_it_could_be_the_same_one(folder: Path, tmp_path: Path) -> None:
    extras = {"output__extras": ("other_image@1",)}
    assert make_plan(config_of(folder, "two", tmp_path, **extras)).num_units == 2
    with pytest.raises(ValueError, match=r"engine\.unit_size: 5 with 2 prompts .* valid: at most 4"):
        make_plan(config_of(folder, "two", tmp_path, engine__unit_size=5, **extras))
