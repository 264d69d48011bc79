"""DistillConfig and its presets: what enters the fingerprint, where values come from, that smoke siblings run."""

import dataclasses
import json
from pathlib import Path

import pytest

from clarep_ray import dotted
from clarep_ray.config import METHODS_WITH_CLAREPS, TEACHERS, ClarepsConfig, DistillConfig, LossConfig
from clarep_ray.presets import DISTILL, origin_table


def test_execution_fields_are_the_ones_that_change_no_bit_of_a_student() -> None:
    assert {name for name in dotted.execution_fields(DistillConfig) if not name.startswith("tracking.")} == {
        "checkpoint_every",
        "clareps.path",
        "data.labels_file",
        "data.path",
        "health.enabled",
        "health.num_images",
        "health.num_times",
        "health.refuse",
        "loader_threads",
        "num_workers",
        "output",
        "take_over",
        "teacher.diffusion.allow_download",
        "teacher.diffusion.prompts",
        "teacher.diffusion.weights",
        "teacher.diffusion.weights_sha256",
        "teacher.features",
        "teacher.network",
        "use_gpu",
        "val.labels_file",
        "val.path",
    }


@pytest.mark.parametrize("name", sorted(DISTILL))
def test_presets_are_documented_complete_and_say_where_values_come_from(name: str) -> None:
    preset = DISTILL[name]()
    assert DISTILL[name].__doc__
    plain = dotted.flatten(DistillConfig())
    changed = {field for field, value in dotted.flatten(preset.config).items() if value != plain[field]}
    assert changed <= preset.origins.keys()
    assert {origin for _, _, origin in origin_table(preset, preset.config)} <= {"paper", "inferred", "tuned", "default"}
    assert dotted.from_flat(DistillConfig, json.loads(dotted.to_json(preset.config))) == preset.config
    lost = [name for name in preset.origins if name.startswith("loss.weight") and preset.origins[name] == "paper"]
    assert not lost, "the paper's text lost every weight"


def test_table_4_is_what_the_presets_say() -> None:
    rows = {name: DISTILL[name]().config for name in ("cifar10", "imagenet100", "imagenet")}
    assert [row.schedule.epochs for row in rows.values()] == [200, 100, 100]
    assert [row.schedule.batch_size for row in rows.values()] == [128, 256, 512]
    assert [row.optimizer.weight_decay for row in rows.values()] == [5e-4, 1e-4, 1e-4]
    assert {row.optimizer.learning_rate for row in rows.values()} == {0.1}
    assert [row.schedule.decay for row in rows.values()] == ["step", "cosine", "cosine"]
    assert rows["cifar10"].schedule.milestones == (100, 150)


@pytest.mark.parametrize("name", sorted(name for name in DISTILL if "smoke" in name))
def test_smoke_presets_train(name: str, tmp_path: Path) -> None:
    from clarep_ray.cadistill.run import train_alone
    from tests.cadistill.small import write_clareps

    changes: dict = {"clareps.path": write_clareps(tmp_path / "clareps"), "output": str(tmp_path / "out")}
    changes |= {"data.digits.count": 32, "val.digits.count": 20, "checkpoint_every": 100}
    result = train_alone(dotted.override(DISTILL[name]().config, changes))
    assert result["epochs"] == 2
    assert 0 <= result["last"]["val_accuracy"] <= result["best"]["val_accuracy"] <= 1


def test_every_method_is_registered_and_every_term_has_a_weight() -> None:
    from clarep_ray.cadistill.methods import METHODS

    assert {name for name, method in METHODS.items() if method.clareps} == set(METHODS_WITH_CLAREPS)
    assert set(TEACHERS) <= set(METHODS)
    weights = {field.name for field in dataclasses.fields(LossConfig) if field.name.startswith("weight_")}
    assert {"weight_ce", "weight_align", "weight_separate", "weight_cka"} <= weights


def test_a_teacher_that_is_read_at_many_sizes_of_a_batch_is_not_compiled() -> None:
    with pytest.raises(ValueError, match=r"teacher\.diffusion\.compile: True is not valid; valid: False"):
        dotted.override(DistillConfig(clareps=ClarepsConfig(path="x")), {"teacher.diffusion.compile": True})
