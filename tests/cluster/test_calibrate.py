"""A calibration end to end: what it writes, that it continues, what it refuses, and that an extraction takes it."""

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from clarep_ray import cli
from clarep_ray.analysis.calibration_findings import Findings
from clarep_ray.cluster import runtime
from clarep_ray.cluster.calibrate import open_session
from clarep_ray.cluster.calibrate_report import run_calibration
from clarep_ray.cluster.calibrate_scores import score_columns
from clarep_ray.cluster.plan import check_calibration
from clarep_ray.config import CalibrateConfig, ModelConfig
from clarep_ray.dotted import override
from clarep_ray.errors import ResumeRefused
from clarep_ray.presets import CALIBRATE, EXTRACT
from tests.broken_models import broken_timm
from tests.data import trees

SETTINGS = {
    "inversion.num_steps",
    "inversion.project_t",
    "inversion.spacing",
    "inversion.solver",
    "spectrum.layer",
    "spectrum.num_directions",
    "features.layer",
    "features.feature_t",
}

CLASS_UNET: dict[str, Any] = {
    "model__name": "class_unet",
    "model__weights": "tiny",
    "spectrum__layer": "mid_block",
    "features__layer": "up_blocks.0",
    "feature_map__layers": (),
}


def smoke(output: Path, preset: str = "digits_smoke", **changes: Any) -> CalibrateConfig:
    more = {name.replace("__", "."): value for name, value in changes.items()}
    return override(CALIBRATE[preset]().config, {"output": str(output), "tracking.enabled": False} | more)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Findings]:
    from tests.cluster.conftest import without_ray

    folder = tmp_path_factory.mktemp("calibration") / "out"
    with pytest.MonkeyPatch.context() as patch:
        without_ray.__wrapped__(patch)
        return folder, run_calibration(smoke(folder), "digits_smoke", lambda _: None)


def test_it_writes_settings_curves_and_pictures(finished: tuple[Path, Findings]) -> None:
    folder, findings = finished
    record = json.loads((folder / "calibration.json").read_text())
    assert set(record["settings"]) == SETTINGS
    assert record["settings"] == findings.settings
    names = {path.name for path in folder.iterdir() if path.is_file()}
    assert {"saturation.csv", "feature_map.csv", "projection.csv", "calibration.md", "run.json"} <= names
    assert {f"{name}.png" for name in ("saturation", "feature_map", "window", "interaction")} <= names
    rows = list(csv.DictReader((folder / "projection.csv").read_text().splitlines()))
    assert {row["variant"] for row in rows} == {"original", "M=4", "M=6", "M=8", "k=1", "k=3"}
    assert all(0 <= float(row["nmi_null_mean"]) <= 1 for row in rows)
    assert len(list(csv.DictReader((folder / "feature_map.csv").read_text().splitlines()))) == 2 * 2 * 2 * 2
    assert "± " in (folder / "calibration.md").read_text()


def test_the_chosen_cell_is_the_best_of_its_map(finished: tuple[Path, Findings]) -> None:
    _, findings = finished
    scores = {cell[:2]: nmi for cell, nmi in findings.feature_map.items() if cell[2] == "null"}
    if "features.layer" in findings.chosen:
        assert scores[findings.feature_cell].mean == max(nmi.mean for nmi in scores.values())
    assert scores[findings.feature_cell].above_chance(num_tried=len(scores)) == ("features.layer" in findings.chosen)


@pytest.mark.usefixtures("without_ray")
def test_it_continues_with_the_pieces_that_are_missing(
    finished: tuple[Path, Findings], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = finished
    before = (folder / "calibration.json").read_bytes()
    parts = sorted((folder / "parts").iterdir())
    stamps = {path: path.stat().st_mtime_ns for path in parts}
    for path in parts[::4]:
        path.unlink()
    run_calibration(smoke(folder), "digits_smoke", lambda _: None)
    assert sorted((folder / "parts").iterdir()) == parts
    redone = {path for path in parts if path.stat().st_mtime_ns != stamps[path]}
    assert redone == set(parts[::4])
    assert (folder / "calibration.json").read_bytes() == before


def test_another_setting_is_refused(finished: tuple[Path, Findings]) -> None:
    with pytest.raises(ResumeRefused, match=r"saturation\.level: 0\.95 -> 0\.9"):
        open_session(smoke(finished[0], saturation__level=0.9))


def test_an_extraction_takes_the_settings_of_its_model_alone(finished: tuple[Path, Findings]) -> None:
    path = str(finished[0] / "calibration.json")
    preset = cli.start_of(EXTRACT, "digits_smoke", path)
    assert preset.config.inversion.project_t == finished[1].settings["inversion.project_t"]
    assert preset.origins["inversion.project_t"] == "calibrated"
    check_calibration(path, preset.config)
    with pytest.raises(ValueError, match="was made with another model: weights_sha256"):
        check_calibration(path, override(preset.config, {"model.weights": "rho90"}))
    with pytest.raises(ValueError, match="was made with another model: name 'digits_dit', here 'dit'"):
        check_calibration(path, override(preset.config, {"model.name": "dit", "model.weights": "tiny"}))


def test_a_calibration_sets_nothing_else(tmp_path: Path) -> None:
    record = {"version": 1, "settings": {"output.path": "/tmp/zz"}, "model": {}, "fingerprint": "", "notes": []}
    (tmp_path / "calibration.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"it sets 'output\.path'; valid: inversion\.num_steps"):
        cli.start_of(EXTRACT, "digits", str(tmp_path / "calibration.json"))


@pytest.mark.nightly
@pytest.mark.usefixtures("without_ray")
def test_pictures_that_cannot_be_read_at_the_front_cost_their_sheets_alone(tmp_path: Path) -> None:
    root = trees.image_folder(tmp_path / "images", ("0", "1", "2", "3"), per_class=5)
    for path in sorted((root / "0").iterdir())[:4]:  # the whole first micro-batch
        path.write_text("no picture")
    changes: dict[str, Any] = {"parts": ("features", "window"), "data__source": "image_folder", "data__path": str(root)}
    findings = run_calibration(smoke(tmp_path / "out", **changes), "digits_smoke", lambda _: None)
    assert findings.num_images == 20
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"calibration.json", "window.png"} <= names
    assert "window_pictures.png" not in names
    assert json.loads((tmp_path / "out" / "calibration.json").read_text())["settings"] == findings.settings


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 0, "settings": {}}', '{"version": 1, "settings": 3}'])
def test_a_file_that_is_no_calibration_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "calibration.json").write_text(text)
    with pytest.raises(ValueError, match=r"--calibration: .* is no calibration\.json of jobs/calibrate\.py"):
        cli.start_of(EXTRACT, "digits", str(tmp_path / "calibration.json"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            CLASS_UNET,
            "parts: class_unet has no unconditional branch, which `saturation` needs; valid: --parts features",
        ),
        ({"classifiers": ("/nowhere",)}, r"classifiers: '/nowhere' has no config\.json; valid: digits, or a folder"),
        ({"classifiers": ()}, r"classifiers: \(\) is not valid; valid: one or more where parts has saturation"),
        ({"interaction__times": (610.0,)}, r"interaction\.times: time 610 is not on the sampling grid"),
        ({"interaction__layers": ("attic",)}, r"interaction\.layers: 'attic' is not a layer of the model"),
        ({"feature_map__layers": ("attic",)}, r"feature_map\.layers: 'attic' is not a layer of the model"),
        ({"features__layer": "attic"}, r"features\.layer: 'attic' is not a layer of the model"),
        ({"feature_map__times": (-1.0,)}, r"feature_map\.times: -1 is no noisy time"),
        ({"window__windows": (800,)}, r"window\.windows: 800 exceeds the latent size"),
        ({"feature_map__times": (0.5,)}, r"0\.5 is no timestep"),
        ({"saturation__times": (1.0, 2.0, 3.0)}, "time 1 is not on the sampling grid"),
        ({"window__windows": (4, 900)}, "900 exceeds the latent size 768"),
        ({"data__classes": ("3",)}, "1 known class; a calibration needs 2 or more"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_starts(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        open_session(smoke(tmp_path / "out", **changes))
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("without_ray")
def test_a_model_without_judges_or_null_condition_keeps_what_cannot_be_found(tmp_path: Path) -> None:
    changes = CLASS_UNET | {"parts": ("features", "window"), "classifiers": ()}
    changes |= {"feature_map__layers": ("mid_block",), "data__digits__count": 12}
    findings = run_calibration(smoke(tmp_path / "out", **changes), "cifar10_unet", lambda _: None)
    assert findings.saturation is None
    assert findings.settings["inversion.project_t"] == 600.0
    assert {cell[2] for cell in findings.feature_map} == {"label"}
    text = (tmp_path / "out" / "calibration.md").read_text()
    assert "for want of an unconditional branch" in text
    record = json.loads((tmp_path / "out" / "calibration.json").read_text())
    for notes in (" ".join(record["notes"]), text):
        assert "it can explain the NMI by itself" in notes
    assert "judges" not in record["curves"]
    assert {row["accuracy"] for row in record["curves"]["projection"]} == {None}
    assert "nan" not in text


def test_judges_are_scored_on_the_originals(finished: tuple[Path, Findings]) -> None:
    folder, findings = finished
    (judge,) = json.loads((folder / "calibration.json").read_text())["curves"]["judges"]
    assert (judge["name"], judge["images"], judge["non_finite"]) == ("digits", findings.num_images, 0)
    assert judge["accuracy"] > 0.9
    assert judge["fit"]
    assert "the judges read the class of the originals themselves" in (folder / "calibration.md").read_text()


@pytest.mark.usefixtures("without_ray")
def test_a_judge_that_reads_no_originals_is_said_to_be_the_problem(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"parts": ("saturation",), "data__digits__count": 20}
    judge = broken_timm(tmp_path / "$100k_$", rows=[])  # untrained, in a folder whose name looks like a formula
    changes |= {"classifiers": (str(judge),), "saturation__images_per_class": 1}
    run_calibration(smoke(tmp_path / "out", **changes), "digits_smoke", lambda _: None)
    notes = json.loads((tmp_path / "out" / "calibration.json").read_text())["notes"]
    assert any(note.startswith("the judge $100k_$ reads ") and "it is the problem" in note for note in notes)
    rise = next(note for note in notes if "two-stage samples does not rise" in note)
    assert "the judges do not read the originals either" in rise
    assert "the model's samples do not show their class" not in rise


@pytest.mark.usefixtures("without_ray")
def test_a_judge_that_gives_no_numbers_ends_it_before_anything_is_sampled(tmp_path: Path) -> None:
    judge = str(broken_timm(tmp_path / "broken", value=float("inf")))
    changes: dict[str, Any] = {"classifiers": (judge,), "data__digits__count": 20}
    with pytest.raises(ValueError, match="classifiers: 'broken' answers none of 16 originals"):
        run_calibration(smoke(tmp_path / "out", **changes), "digits_smoke", lambda _: None)
    assert {path.name.split(".")[0] for path in (tmp_path / "out" / "parts").iterdir()} == {"judged"}


def test_a_judge_with_nan_in_its_weights_is_refused_at_once(tmp_path: Path) -> None:
    judge = str(broken_timm(tmp_path / "broken"))
    with pytest.raises(ValueError, match=r"classifiers: '.*broken' has NaN in fc\.bias of model\.safetensors"):
        open_session(smoke(tmp_path / "out", classifiers=(judge,)))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", sorted(CALIBRATE))
def test_presets_calibrate_the_extraction_of_their_name(name: str) -> None:
    preset, extract = CALIBRATE[name](), EXTRACT[name]()
    assert preset.config.model == extract.config.model
    assert preset.config.decoding.guidance_scale == 1.0
    assert isinstance(preset.config.model, ModelConfig)


@pytest.mark.nightly
def test_on_ray(ray_session: None, tmp_path: Path) -> None:
    """The engine gives what the plain loop gives: two-stage samples and the feature map of the smoke preset."""
    config = smoke(tmp_path / "out", parts=("saturation", "features"), data__digits__count=8)
    findings = run_calibration(config, "digits_smoke", lambda _: None)
    assert findings.saturation is not None
    assert len(findings.feature_map) == 8
    assert findings.time_verdict() == ""


def test_scores_join_the_cluster_before_ray_is_imported(
    finished: tuple[Path, Findings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray reads its environment when it is imported: where every piece was done before, scoring comes first."""

    def joined() -> None:
        raise InterruptedError

    monkeypatch.setattr(runtime, "connect", joined)
    monkeypatch.setitem(sys.modules, "ray", None)  # importing it now is an ImportError
    with pytest.raises(InterruptedError):
        score_columns(open_session(smoke(finished[0])), [("features", "x")])
