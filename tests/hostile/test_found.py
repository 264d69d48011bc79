"""Settings that an output's files name narrow, and never widen: every field of every config, with hostile values."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from clarep_ray import cli, dotted
from clarep_ray.cluster import plan, repair
from clarep_ray.cluster.sweep_space import check_space
from clarep_ray.config import (
    CalibrateConfig,
    DistillConfig,
    EvaluateConfig,
    ExtractConfig,
    Given,
    SearchConfig,
    TrainCdmConfig,
)
from clarep_ray.config.found import KINDS, LARGEST, SHIPPED, Kind, check_found, found, kinds, may_be_found
from clarep_ray.config.given import GivenData, GivenEngine, GivenModel
from clarep_ray.data.calibration_file import SETTINGS, read_calibration
from clarep_ray.data.store import OutputStore
from clarep_ray.models.digits_dit import weights_folder
from clarep_ray.presets import CADISTILL_SWEEPS, CLARID_SWEEPS, DISTILL, EXTRACT

CONFIGS = (ExtractConfig, CalibrateConfig, DistillConfig, EvaluateConfig, TrainCdmConfig, SearchConfig)
FIELDS = [(config, name) for config in CONFIGS for name in kinds(config)]
HOSTILE: tuple[Any, ...] = (
    "/etc/passwd",
    "../../victim",
    "s3://bucket/x",
    "http://evil.example/",
    "hf-hub:evil/model",
    "evil.module:run",
    "AWS_SECRET_ACCESS_KEY",
    "@/etc/passwd",
    10**12,
    -1,
    1e300,
    True,
    False,
    None,
    [],
    ["/etc/passwd", "../x"],
    ["@/etc/passwd"],
    {"a": 1},
    "x" * 100_000,
)
"""What a stranger's file could say of any field; not all of it is of the field's type."""
WIDENING = (Kind.PLACE, Kind.PERMISSION, Kind.NETWORK, Kind.MACHINES)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.__name__)
def test_every_field_has_a_kind_and_no_kind_is_left_over(config: type) -> None:
    assert [name for name, kind in kinds(config).items() if kind is None] == []
    for owner, of_kind in KINDS.items():
        named = [name for names in of_kind.values() for name in names.split()]
        assert len(named) == len(set(named)), owner
        assert set(named) <= {item.name for item in dataclasses.fields(owner)}, owner
    assert set(LARGEST) == {name for name, kind in kinds(ExtractConfig).items() if kind == Kind.SIZE}


def test_a_new_field_is_refused_until_somebody_has_said_what_it_can_do() -> None:
    @dataclasses.dataclass(frozen=True)
    class WithAnother(SearchConfig):
        trust_code: bool = False

    assert kinds(WithAnother)["trust_code"] is None
    with pytest.raises(ValueError, match=r"^run\.json: it may not set trust_code; valid: "):
        found(WithAnother, {"trust_code": False}, {}, "run.json")


def test_whatever_leads_out_has_a_kind_that_says_so() -> None:
    """Not by the same table: by what fields are called, and by what a run's fingerprint leaves out."""
    words = ("path", "weights", "output", "uri", "labels_file", "classifiers", "allow_download", "take_over")
    for config in CONFIGS:
        defaults, execution = dotted.flatten(config()), dotted.execution_fields(config)
        for name, kind in kinds(config).items():
            leaf = name.rpartition(".")[2]
            assert kind in WIDENING or leaf not in words, name
            if name in execution and leaf != "weights_sha256":
                assert kind in WIDENING, name
            value = defaults[name]
            if isinstance(value, str) and ("/" in value or "\\" in value):
                assert kind in WIDENING, name


def flat_or_line(config: type, name: str, value: Any) -> dict[str, Any] | str:
    try:
        return dotted.flatten(found(config, {name: value}, {}, "OUT/run.json"))
    except ValueError as error:
        return str(error)


@pytest.mark.parametrize(("config", "name"), FIELDS, ids=lambda value: value if isinstance(value, str) else "")
def test_a_hostile_value_of_any_field_widens_nothing(config: type, name: str) -> None:
    """Every field other than the one that is science keeps what the command line says, or there is one short line."""
    kind = kinds(config)[name]
    start = dotted.flatten(config())
    for value in HOSTILE:
        made = flat_or_line(config, name, value)
        if isinstance(made, str):
            assert "\n" not in made
            assert len(made) < 800
            continue
        changed = {field for field in start if made[field] != start[field]}
        assert changed <= {name}
        if kind in WIDENING:
            assert made[name] in (start[name], None, ()), "a file widened what its reader allowed"
        else:
            assert not isinstance(made[name], str) or not made[name].startswith("@")
            assert name not in LARGEST or made[name] is None or made[name] <= LARGEST[name]


@pytest.mark.parametrize(("config", "name"), FIELDS, ids=lambda value: value if isinstance(value, str) else "")
def test_what_the_command_line_says_stands_whatever_the_file_says(config: type, name: str) -> None:
    given = {name: dotted.flatten(config())[name]}
    for value in HOSTILE:
        assert found(config, {name: value}, given, "OUT/run.json") == config()


@pytest.mark.parametrize(("config", "name"), FIELDS, ids=lambda value: value if isinstance(value, str) else "")
def test_a_search_space_may_name_what_changes_results_and_nothing_else(config: type, name: str) -> None:
    if may_be_found(config, name):
        return
    with pytest.raises(ValueError, match=rf"^space: '{name}' is not swept; valid: what changes a result"):
        check_space(({name: (dotted.flatten(config())[name],)},), config(), SearchConfig())


@pytest.mark.parametrize("value", ["@/etc/passwd", 10**12, "1", [1], None])
def test_a_search_space_and_a_calibration_keep_to_types_and_sizes(value: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^space: "):
        check_space(({"spectrum.num_directions": (value,)},), ExtractConfig(), SearchConfig())
    with pytest.raises(ValueError, match=r"^space: data\.classes names a file, @/etc/passwd; valid: what stands in it"):
        check_space(({"data.classes": (("cat", "@/etc/passwd"),)},), ExtractConfig(), SearchConfig())
    path = tmp_path / "calibration.json"
    model = {"name": "digits_dit", "weights_sha256": "0" * 64}
    record = {"version": 1, "model": model, "fingerprint": "", "notes": [], "curves": {}}
    path.write_text(json.dumps(record | {"settings": {"spectrum.num_directions": value}}))
    with pytest.raises(ValueError, match=r"^--calibration: .* is no calibration\.json of jobs/calibrate\.py: "):
        read_calibration(str(path))


def test_the_named_sweeps_and_calibrations_keep_to_the_rule() -> None:
    for sweeps, config in ((CLARID_SWEEPS, ExtractConfig), (CADISTILL_SWEEPS, DistillConfig)):
        assert all(may_be_found(config, name) for make in sweeps.values() for block in make().space for name in block)
    assert all(may_be_found(ExtractConfig, name) for name in SETTINGS)


@pytest.mark.parametrize("name", EXTRACT)
def test_own_runs_are_taken_as_they_are(name: str) -> None:
    """What an extraction writes of itself comes back, with the places, machines and permissions said again."""
    config = EXTRACT[name]().config
    flat = json.loads(dotted.to_json(config))
    kept = {field: value for field, value in dotted.flatten(config).items() if not may_be_found(ExtractConfig, field)}
    assert found(ExtractConfig, flat, kept, "run.json") == config


def test_shipped_values_are_those_that_are_shipped() -> None:
    for name in SHIPPED["model.weights"][1:]:
        assert (weights_folder(name) / "config.json").is_file()
    given = {"output.path": "out"}
    for name, make in EXTRACT.items():
        flat = dotted.flatten(make().config)
        inside = flat["data.path"] is None and flat["model.weights"] in SHIPPED["model.weights"]
        if inside and flat["output.from_spectrum"] is None:
            found(ExtractConfig, flat, given, name)
        else:
            with pytest.raises(ValueError, match="names files outside this output; where they are yours, add: --"):
                found(ExtractConfig, flat, given, name)
    assert DISTILL


def test_other_weights_of_a_shipped_name_are_a_place() -> None:
    """`rho90` is a folder of the current one for every family but the one that ships it."""
    stored = {"model.name": "edm", "model.weights": "rho90"}
    with pytest.raises(ValueError, match=r"add: --model\.weights rho90$"):
        found(ExtractConfig, stored, {}, "run.json")


def record(output: Path, **changes: Any) -> OutputStore:
    store = OutputStore(output)
    store.prepare()
    flat = dotted.flatten(ExtractConfig()) | {name.replace("__", "."): value for name, value in changes.items()}
    store.write_run({"engine.micro_batch": 12}, flat)
    return store


def test_repair_says_what_to_type_and_then_takes_it(tmp_path: Path) -> None:
    evil = {"data__path": "/data/my photos", "data__source": "image_folder", "model__weights": "evil/model"}
    more = {"model__allow_download": True, "tracking__uri": "http://evil.example", "engine__num_actors": 10**6}
    store = record(tmp_path / "out", **evil, **more, engine__allow_poison=True, output__path="/elsewhere")
    with pytest.raises(ValueError, match="names files outside this output") as error:
        repair.recorded_config(store, Given())
    assert str(error.value).endswith("add: --model.weights evil/model --data.path '/data/my photos'")
    given = Given(model=GivenModel(weights="mine"), data=GivenData(path="/data/mine"), engine=GivenEngine(num_actors=2))
    config = repair.recorded_config(store, given)
    assert (config.model.weights, config.data.path, config.output.path) == ("mine", "/data/mine", str(store.root))
    assert (config.model.allow_download, config.engine.allow_poison, config.tracking.uri) == (False, False, None)
    assert config.engine.num_actors == 2


@pytest.mark.parametrize("stored", [10**9, 25, "12", -1, True, 1.5, [12]])
def test_a_recorded_network_batch_is_no_larger_than_a_unit(stored: Any, tmp_path: Path) -> None:
    store = record(tmp_path / "out")
    store.write_run({"engine.micro_batch": stored}, {})
    changes = {"engine.micro_batch": None, "output.path": str(store.root)}
    config = dotted.override(ExtractConfig(), changes)
    with pytest.raises(ValueError, match=r"engine\.micro_batch"):
        plan._with_batch(config, lambda _: 7)
    store.write_run({"engine.micro_batch": 24}, {})
    assert plan._with_batch(config, lambda _: 7).engine.micro_batch == 24


def test_a_value_that_is_refused_is_named_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, cli.exit_codes():
        check_found(ExtractConfig, "\x1b[2Jevil\n" * 1000, 1, "OUT/run.json")
    assert ended.value.code == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert "\x1b" not in line
    assert len(line) < 900
