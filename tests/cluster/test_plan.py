"""What a plan refuses before anything expensive starts, and what it counts."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from clarep_ray import models
from clarep_ray.cluster.cost import estimate_cost
from clarep_ray.cluster.plan import make_plan, scan_images
from clarep_ray.cluster.settings import check_settings
from clarep_ray.cluster.workers import actors_per_device, worker_counts
from clarep_ray.config import ExtractConfig
from clarep_ray.data import selection
from clarep_ray.data.sources import open_source
from clarep_ray.data.store import OutputStore
from clarep_ray.dotted import override
from clarep_ray.presets import EXTRACT
from tests.data import trees


def digits(**changes: Any):
    return override(EXTRACT["digits_smoke"]().config, {name.replace("__", "."): v for name, v in changes.items()})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inversion__project_t": 610.0}, r"time 610 is not on the sampling grid; nearest: \[600\.0, 700\.0\]"),
        ({"inversion__num_steps": 2000}, r"num_steps: 2000 is outside 1\.\.1000"),
        ({"features__feature_t": 60.5}, r"features\.feature_t: t: 60\.5 is no timestep; valid: integers from -1"),
        ({"features__feature_t": -1.0}, r"features\.feature_t: -1 is no noisy time, .*; valid: more than -1 \(clean\)"),
        ({"spectrum__layer": "block.9"}, r"'block\.9' is not a layer of the model; valid: transformer_blocks\.0"),
        ({"features__layer": "norm_out"}, r"features\.layer: 'norm_out' is not a layer"),
        ({"spectrum__num_directions": 769, "spectrum__max_products": 800}, "769 exceeds the latent size 768"),
        ({"model__name": "dalle"}, r"model\.name: 'dalle' is unknown; valid: class_unet, digits_dit, dit,"),
        ({"data__classes": ("12",)}, r"data\.classes: '12' is not in the input; valid: 0, 1"),
        ({"data__source": "image_folder", "data__path": "/nowhere"}, "'/nowhere' is not a folder"),
        ({"output__extras": ("other_image@1",), "engine__micro_batch": 1}, "1 leaves no other image"),
        ({"output__from_spectrum": "/nowhere"}, "no extraction was finished there"),
        (
            {"data__path": "/images"},
            r"data\.path: '/images' has no effect; valid: None, or where data\.source is one of",
        ),
        (
            {"data__labels_file": "/a.csv"},
            r"data\.labels_file: '/a\.csv' has no effect; .* data\.source is flat_folder",
        ),
        ({"data__label_column": "y"}, r"data\.label_column: 'y' has no effect; .* data\.source is parquet"),
        ({"elbow__num_removed": 5}, r"elbow\.num_removed: 5 has no effect; valid: 1, or where elbow\.rule is fixed"),
        ({"gate__max_artefact": 0.5}, r"gate\.max_artefact: 0\.5 has no effect; valid: 1\.0, or where gate\.enabled"),
        (
            {"spectrum__solver": "subspace_iteration", "spectrum__block_size": 8},
            r"spectrum\.block_size: 8 has no effect; valid: 4, or where spectrum\.solver is block_lanczos",
        ),
        ({"decoding__guided_channels": 3, "decoding__guidance_scale": 1.0, "output__extras": ()}, "3 has no effect"),
        ({"model__prompts": "/p.json"}, r"model\.prompts: '/p\.json' has no effect on digits_dit; valid: None"),
        ({"model__prompt_template": "a {}"}, r"model\.prompt_template: 'a \{\}' has no effect on digits_dit"),
    ],
)
def test_wrong_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_plan(digits(**changes))


@pytest.mark.parametrize(("preset", "clean", "noisy"), [("digits", -1, 0), ("uvit_256", 0, 1), ("edm", 0, 1e-3)])
def test_the_clean_time_is_no_feature_time(preset: str, clean: float, noisy: float) -> None:
    config = EXTRACT[f"{preset}_smoke"]().config
    model = models.build(config.model)
    check_settings(model, override(config, {"features.feature_t": float(noisy)}))
    with pytest.raises(ValueError, match=rf"features\.feature_t: {clean} is no noisy time"):
        check_settings(model, override(config, {"features.feature_t": float(clean)}))


def test_a_submitted_job_refuses_a_relative_output(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(ValueError, match=r"'outputs/digits_smoke' is relative"):
        make_plan(digits())
    assert make_plan(digits(output__path="/shared/out")).num_units == 3


def test_units_and_cost() -> None:
    plan = make_plan(digits(data__digits__count=50, engine__unit_size=24))
    assert (len(plan.rows), plan.num_units) == (50, 3)
    cost = estimate_cost(plan)
    assert cost.evaluations_per_sample["inversion"] == 7  # clean -> 0, 100, ..., 600 on a grid of ten
    assert cost.evaluations_per_sample["decoding"] == 14  # guided: two evaluations a step
    assert cost.evaluations_per_sample["extra reconstruction"] == 2
    assert cost.seconds_per_evaluation > 0


def test_heun_costs_twice_but_for_the_step_at_the_clean_end() -> None:
    cost = estimate_cost(make_plan(digits(inversion__solver="heun"))).evaluations_per_sample
    assert (cost["inversion"], cost["round trip"], cost["decoding"]) == (13, 13, 26)
    assert cost["extra guidance"] == 2 + 26


def test_scan_finds_bad_pictures(tmp_path: Path) -> None:
    root = trees.image_folder(tmp_path, ("0", "1"), per_class=3)
    (root / "0" / "img_1.png").write_text("no picture")
    plan = make_plan(digits(data__source="image_folder", data__path=str(root)))
    assert scan_images(plan, open_source(plan.config.data, None)) == {"ok": 5, "not_an_image": 1}


def test_fingerprint_holds_code_weights_input_and_versions() -> None:
    fields = make_plan(digits()).fields
    for name in ("code_sha256", "weights_sha256", "input_sha256", "version.torch", "engine.micro_batch", "seed"):
        assert fields[name] is not None
    assert "output.path" not in fields


def test_classes_of_a_file_are_fingerprinted_by_what_they_are(tmp_path: Path) -> None:
    for name, text in (("a.txt", "3\n7\n"), ("b.txt", "# the same\n3\n7\n"), ("c.txt", "3\n6\n")):
        (tmp_path / name).write_text(text)
    first, same, other = (make_plan(digits(data__classes=(f"@{tmp_path / name}.txt",))) for name in "abc")
    assert first.config.data.classes == ("3", "7")
    assert first.fingerprint == same.fingerprint != other.fingerprint
    assert first.fields["classes_sha256"] != other.fields["classes_sha256"]
    assert make_plan(digits()).fields["classes_sha256"] is None
    with pytest.raises(ValueError, match="'imagenet100' is not valid"):
        make_plan(digits(data__classes=("imagenet100",)))


def test_a_subset_keeps_its_name_in_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(selection.CLASS_SUBSETS, "two", (3, 7))
    plan, listed = (make_plan(digits(data__classes=classes)) for classes in (("two",), ("3", "7")))
    assert plan.config.data.classes == ("two",), "its numbers would be taken for names"
    assert {row.label for row in plan.rows} == {3, 7}
    assert plan.fields["classes_sha256"] == listed.fields["classes_sha256"]


def test_what_labels_stand_for_is_part_of_a_run() -> None:
    expected = hashlib.sha256("".join(f"{digit}\n" for digit in range(10)).encode()).hexdigest()
    assert make_plan(digits()).fields["label_map_sha256"] == expected


@pytest.mark.parametrize("gpus", [0.0, 1.0])
def test_a_cluster_that_grows_is_asked_for_more_gpus_than_it_has(gpus: float) -> None:
    more = {"engine__num_actors": 8, "engine__gpus_per_actor": 1.0}
    with pytest.raises(ValueError, match=rf"engine\.num_actors: 8 actors of 1 GPUs exceed the cluster's {gpus:g}; .*"):
        worker_counts(digits(**more), {"GPU": gpus, "CPU": 4.0}, 100)
    asked = worker_counts(digits(**more, engine__autoscaling=True), {"GPU": gpus, "CPU": 4.0}, 100)
    assert (asked["num_actors"], asked["gpus_per_actor"]) == (8, 1.0)


def record(folder: Path, fields: dict[str, Any]) -> None:
    store = OutputStore(folder)
    store.prepare()
    store.write_run(fields, {})


def never(config: ExtractConfig) -> int:
    raise AssertionError("the batch is known")


def test_a_batch_that_the_machine_chooses_is_a_number_of_the_run(tmp_path: Path) -> None:
    given = digits(engine__micro_batch=3, output__path=str(tmp_path / "out"))
    left = digits(engine__micro_batch=None, output__path=str(tmp_path / "out"))
    chosen = make_plan(left, lambda config: 3)
    assert chosen.config.engine.micro_batch == 3
    assert chosen.fingerprint == make_plan(given, never).fingerprint
    record(tmp_path / "out", chosen.fields)
    assert make_plan(left, never).fields == chosen.fields, "a run that continues takes what was recorded"


def test_a_chosen_batch_is_checked_like_a_given_one(tmp_path: Path) -> None:
    left = digits(engine__micro_batch=None, output__extras=("other_image@1",), output__path=str(tmp_path / "out"))
    with pytest.raises(ValueError, match=r"engine\.micro_batch: 1 leaves no other image"):
        make_plan(left, lambda config: 1)
    record(tmp_path / "out", {"engine.micro_batch": "many"})
    with pytest.raises(ValueError, match="micro_batch: 'many' is not valid; valid: int or None"):
        make_plan(left, never)


def test_actors_share_the_memory_of_their_gpu_or_machine() -> None:
    assert [actors_per_device(8, share, 2) for share in (1.0, 0.5, 0.25, 2.0)] == [1, 2, 4, 1]
    assert [actors_per_device(actors, 0.0, 2) for actors in (1, 2, 3, 8)] == [1, 1, 2, 4]
