"""Configs are typed, overridable by dotted path, and their fingerprint sees every field that matters."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from clarep_ray import dotted
from clarep_ray.config import (
    PROJECTION_MODES,
    CalibrateConfig,
    DataConfig,
    DistillConfig,
    ElbowConfig,
    EngineConfig,
    EvaluateConfig,
    ExtractConfig,
    InversionConfig,
    OutputConfig,
    ReportConfig,
    SpectrumConfig,
    TrainCdmConfig,
    parse_extra,
)
from clarep_ray.presets import EVALUATE, EXTRACT, TRAIN_CDM, origin_table

OTHER_VALUES = {
    "model.weights_sha256": "0" * 64,
    "model.name": "x",
    "model.precision": "bfloat16",
    "model.prompts": "/x",
    "decoding.guided_channels": 3,
    "data.source": "image_folder",
    "data.path": "/x",
    "data.digits.split": "conflict",
    "inversion.solver": "heun",
    "inversion.spacing": "log_snr",
    "spectrum.solver": "subspace_iteration",
    "elbow.rule": "chord",
    "elbow.share": 0.5,
    "gate.classifiers": (),
    "gate.min_votes": 0.2,
    "projection.mode": "none",
    "data.classes": ("1",),
    "data.split": "test",
    "data.labels_file": "/x",
    "data.per_class": 3,
    "data.limit": 3,
    "data.fraction": 0.5,
    "data.digits.correlation": 0.5,
    "spectrum.tolerance": 0.5,
    "output.what": "features",
    "output.extras": ("original",),
    "output.from_spectrum": "/x",
    "engine.num_actors": 3,
    "engine.gpus_per_actor": 0.5,
    "engine.unit_deadline_s": 5.0,
    "output.max_reject_rate": 0.5,
    "tracking.uri": "x",
}


def another(name: str, value: object) -> object:
    if name in OTHER_VALUES:
        return OTHER_VALUES[name]
    if isinstance(value, bool):
        return not value
    return value + "x" if isinstance(value, str) else value + 1  # type: ignore[operator]


@pytest.mark.parametrize("name", dotted.flatten(ExtractConfig()))
def test_every_field_changes_the_fingerprint_or_is_declared_execution(name: str) -> None:
    config = ExtractConfig()
    changes = {name: another(name, dotted.flatten(config)[name])}
    if name == "data.source":
        changes["data.path"] = "/x"
    if name == "engine.autoscaling":
        changes |= {"engine.num_actors": 3, "engine.gpus_per_actor": 1.0}
    changed = dotted.override(config, changes)
    same = dotted.fingerprint(dotted.fingerprint_fields(config)) == dotted.fingerprint(
        dotted.fingerprint_fields(changed)
    )
    assert same == (name in dotted.execution_fields(ExtractConfig))


@pytest.mark.parametrize("kind", [ExtractConfig, CalibrateConfig, DistillConfig, EvaluateConfig, TrainCdmConfig])
def test_object_storage_is_refused_where_a_folder_is_needed(kind: type) -> None:
    takes = {"output.path", "output.from_spectrum"} if kind is ExtractConfig else set[str]()
    for name, value in dotted.flatten(kind()).items():
        given = {name: ("s3://bucket/out",) if isinstance(value, tuple) else "s3://bucket/out"}
        if name in takes:
            dotted.override(kind(), given)
        else:
            copied = r".*verify\.py s3://bucket/out --copy-to FOLDER" if name.endswith(FOLDERS) else None
            with pytest.raises(ValueError, match=copied):
                dotted.override(kind(), given)


FOLDERS = ("output", "data.path", "clareps.path", "weights", "labels_file", "features", "imagenet")


@pytest.mark.parametrize("path", ["s3://bucket", "gs://bucket/out", "s3:/bucket/out", "https://bucket/out"])
def test_an_output_is_a_folder_or_a_plain_url(path: str) -> None:
    with pytest.raises(ValueError, match=r"output\.path: .*valid: a folder, or s3://BUCKET/PREFIX"):
        OutputConfig(path=path)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("", "it is empty"),
        ("~", "the shell has not expanded ~"),
        ("~/in", "the shell has not expanded ~"),
        ("@~someone/list", "the shell has not expanded ~"),
        ("caf\udce9", "it is not UTF-8"),
        ("a\0b", "it has a control character"),
        ("a\nb", "it has a control character"),
        ("d/" * 2000, "it has 4000 bytes; valid: at most 3072"),
    ],
)
def test_a_text_that_can_be_no_path_is_refused_in_every_field(text: str, wrong: str) -> None:
    kinds = {"model.weights": text, "data.path": text, "data.classes": ("3", text), "output.from_spectrum": text}
    for field, value in kinds.items():
        with pytest.raises(ValueError, match=f"{field.split('.')[-1]}: .* is not valid: {re.escape(wrong)}") as caught:
            dotted.override(ExtractConfig(), {field: value})
        assert len(str(caught.value)) < 500


@pytest.mark.parametrize("text", ["~x", "a~/b", "./~/in", "caf\xe9/\u732b", "a b", "d/" * 1500])
def test_a_text_that_can_be_a_path_is_taken(text: str) -> None:
    assert dotted.override(ExtractConfig(), {"data.path": text}).data.path == text


def test_a_page_is_made_of_a_folder() -> None:
    """A path has lost a slash of the URL by then."""
    folder: Any = Path("s3://bucket/out")
    with pytest.raises(ValueError, match="folder: 's3://bucket/out' lies in object storage"):
        ReportConfig(folder=folder)


def test_execution_fields_are_the_ones_that_cannot_change_a_byte() -> None:
    assert dotted.execution_fields(ExtractConfig) == {
        "model.weights_sha256",
        "engine.num_actors",
        "engine.gpus_per_actor",
        "engine.autoscaling",
        "engine.units_in_flight",
        "engine.max_attempts",
        "engine.allow_poison",
        "engine.take_over",
        "engine.unit_deadline_s",
        "output.path",
        "output.max_reject_rate",
        "output.from_spectrum",
        "gate.classifiers",
        "health.enabled",
        "health.num_images",
        "health.num_times",
        "health.refuse",
        "data.path",
        "data.labels_file",
        "model.weights",
        "model.allow_download",
        "model.prompts",
        "tracking.enabled",
        "tracking.uri",
        "tracking.experiment",
        "tracking.registered_model",
    }


def test_override_names_unknown_fields_and_keeps_the_rest() -> None:
    config = dotted.override(ExtractConfig(), {"spectrum.num_directions": 20})
    assert config.spectrum.num_directions == 20
    assert config.spectrum.block_size == ExtractConfig().spectrum.block_size
    with pytest.raises(ValueError, match=r"unknown config field 'spectrum.m'; valid: model.name, "):
        dotted.override(ExtractConfig(), {"spectrum.m": 20})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spectrum.num_directions": "many"}, "num_directions: 'many' is not valid; valid: int"),
        ({"spectrum.num_directions": True}, "num_directions: True is not valid; valid: int"),
        ({"spectrum.num_directions": 0}, "spectrum.num_directions: 0 is not valid; valid: 1 or more"),
        ({"projection.mode": "clarity"}, "mode: 'clarity' is not valid; valid: clarid, none, random"),
        ({"data.fraction": 0.0}, "data.fraction: 0.0 is not valid"),
        ({"data.source": "parquet"}, "data.path: None is not valid; valid: a folder"),
        ({"elbow.rule": "fixed", "elbow.num_removed": 99}, "elbow.num_removed: 99 is not valid; valid: at most"),
        (
            {"output.extras": ("reconstruction", "shrink")},
            "output.extras: 'shrink' is not valid; valid: input, original",
        ),
        ({"spectrum.max_products": 3}, "spectrum.max_products: 3 is not valid; valid: spectrum.num_directions"),
        ({"engine.autoscaling": True}, "engine.num_actors: None is not valid; valid: a number where"),
        (
            {"engine.autoscaling": True, "engine.num_actors": 8},
            "engine.gpus_per_actor: None is not valid; valid: a number where",
        ),
        ({"data.limit": 1.5}, "limit: 1.5 is not valid; valid: int or None"),
        ({"engine.micro_batch": 0}, "engine.micro_batch: 0 is not valid; valid: None, or 1 and more"),
    ],
)
def test_bad_values_name_the_field_the_value_and_the_valid_ones(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dotted.override(ExtractConfig(), change)


@pytest.mark.parametrize("kind", [CalibrateConfig, EvaluateConfig])
def test_only_an_extraction_leaves_its_batch_open(kind: type) -> None:
    engine = dotted.override(ExtractConfig(), {"engine.micro_batch": None}).engine
    with pytest.raises(ValueError, match=r"engine\.micro_batch: None is not valid; valid: 1 or more"):
        kind(engine=engine)
    with pytest.raises(ValueError, match="valid: 1 and more, once a plan has chosen it"):
        _ = engine.rows_per_call


def test_whole_numbers_and_floats_are_one_configuration() -> None:
    first = dotted.override(ExtractConfig(), {"inversion.project_t": 800})
    second = dotted.override(ExtractConfig(), {"inversion.project_t": 800.0})
    assert dotted.fingerprint_fields(first) == dotted.fingerprint_fields(second)


@pytest.mark.parametrize(
    "config", [ExtractConfig(), TrainCdmConfig(), *(make().config for make in (EVALUATE | EXTRACT).values())]
)
def test_json_round_trip(config: object) -> None:
    assert dotted.from_flat(type(config), json.loads(dotted.to_json(config))) == config


@pytest.mark.parametrize("kind", [ExtractConfig, CalibrateConfig, DistillConfig, EvaluateConfig, TrainCdmConfig])
def test_a_seed_has_32_bits(kind: type) -> None:
    assert [kind(seed=seed).seed for seed in (0, 2**32 - 1)] == [0, 2**32 - 1]
    for seed in (-1, 2**32):
        with pytest.raises(ValueError, match=f"seed: {seed} is not valid; valid: 0 to 4294967295"):
            kind(seed=seed)


def test_configs_are_frozen() -> None:
    for config in (DataConfig(), InversionConfig(), SpectrumConfig(), ElbowConfig(), EngineConfig(), OutputConfig()):
        with pytest.raises(AttributeError):
            config.anything = 1  # type: ignore[attr-defined]


def test_extras_name_a_mode_and_a_scale() -> None:
    assert parse_extra("original") is None
    for mode in PROJECTION_MODES:
        extra = parse_extra(f"{mode}@1.5")
        assert extra is not None
        assert (extra.mode, extra.guidance_scale) == (mode, 1.5)
    with pytest.raises(ValueError, match="MODE@SCALE"):
        parse_extra("clarid@much")


@pytest.mark.parametrize("presets", [EVALUATE, EXTRACT, TRAIN_CDM])
def test_every_preset_is_complete_documented_and_tagged(presets: dict) -> None:
    for name, make in presets.items():
        preset = make()
        assert make.__doc__, name
        known = dotted.flatten(preset.config)
        assert set(preset.origins) <= set(known)
        changed = dotted.override(preset.config, {"seed": 123})
        origins = {row[0]: row[2] for row in origin_table(preset, changed)}
        assert origins["seed"] == "user"
        assert set(origins.values()) <= {"paper", "inferred", "tuned", "default", "user"}
