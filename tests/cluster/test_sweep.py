"""Sweeps without the engine: one SVD per sample, rows that are kept, what is refused, and what is written."""

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from clarep_ray.clarid import pipeline
from clarep_ray.cluster import extract, runtime
from clarep_ray.cluster import sweep as sweeping
from clarep_ray.cluster.extract import run_extraction
from clarep_ray.cluster.sweep import sweep_cadistill, sweep_clarid
from clarep_ray.cluster.sweep_clarid import ClaridStudy
from clarep_ray.cluster.sweep_rows import Row
from clarep_ray.cluster.sweep_study import Cell, run_cell
from clarep_ray.cluster.sweep_tune import Trials, needs_of_a_trial
from clarep_ray.config import DistillConfig, ExtractConfig, SearchConfig
from clarep_ray.dotted import override
from clarep_ray.errors import ResumeRefused
from clarep_ray.presets import DISTILL, EXTRACT, Sweep
from tests.cluster.conftest import in_process
from tests.cluster.reference import committed_hashes

COLUMNS = ("nmi_null", "class_kept", "mean_num_removed")
WINDOW = Sweep(
    space=(
        {"spectrum.num_directions": (4, 6), "elbow.rule": ("chord",)},
        {"elbow.rule": ("fixed",), "elbow.num_removed": (1, 2)},
    ),
    metric="nmi_null",
    columns=COLUMNS,
)
SEEDS = SearchConfig(seeds=(0, 1))


def small(output: Path, **changes: Any) -> ExtractConfig:
    renamed = {name.replace("__", "."): value for name, value in changes.items()}
    fixed = {"output.path": str(output), "data.digits.count": 12, "tracking.enabled": False, "health.enabled": False}
    return override(EXTRACT["digits_smoke"]().config, {**fixed, "decoding.guidance_scale": 1.0, **renamed})


@pytest.fixture
def engineless(monkeypatch: pytest.MonkeyPatch, without_ray: None) -> list[Cell]:
    """Run trials one after the other in this process; return the cells that were run, as they come."""
    ran: list[Cell] = []

    def loop(trials: Trials, cells: Sequence[Cell], done: Callable[[Row], None]) -> None:
        for point, seed in cells:
            ran.append((point, seed))
            done(run_cell(trials.study, point, seed, trials.metric, lambda *_: None))

    monkeypatch.setattr(sweeping, "tune_cells", loop)
    monkeypatch.setattr(extract, "units_here", lambda context, todo: in_process(context, todo, {}))
    return ran


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect() -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr(runtime, "connect", connect)


def quiet(_: str) -> None:
    pass


def test_one_svd_per_sample_serves_all_trials(
    engineless: list[Cell], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[int] = []
    plain = pipeline.leading_triplets

    def counted(model, x_t, *rest):
        batches.append(len(x_t))
        return plain(model, x_t, *rest)

    monkeypatch.setattr(pipeline, "leading_triplets", counted)
    rows = sweep_clarid(small(tmp_path / "out"), WINDOW, SEEDS, "window", quiet)
    assert len(engineless) == len(rows) == 4 * 2
    assert sum(batches) == 12 * 2
    assert {row.status for row in rows} == {"ok"}
    assert [row.metrics["mean_num_removed"] for row in rows if row.point.get("elbow.num_removed") == 2] == [2.0, 2.0]

    # A trial is what `jobs/extract.py --output.from-spectrum` gives, to the byte.
    row = rows[0]
    (base,) = (tmp_path / "out" / "base").glob("*/seed-0")
    changes = {**row.point, "output.path": str(tmp_path / "plain"), "output.from_spectrum": str(base)}
    run_extraction(override(small(tmp_path / "out"), {**changes, "output.extras": ()}), quiet)
    assert committed_hashes(tmp_path / "plain") == committed_hashes(tmp_path / "out" / "trials" / row.trial / "seed-0")

    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"trials.csv", "sweep.json", "table.md", "plot.png", "run.json"} <= written
    lines = list(csv.DictReader((tmp_path / "out" / "trials.csv").read_text().splitlines()))
    assert [(line["trial"], int(line["seed"])) for line in lines] == [(row.trial, row.seed) for row in rows]
    summary = json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert (summary["name"], summary["metric"], summary["mode"]) == ("window", "nmi_null", "max")
    assert summary["fields"] == ["spectrum.num_directions", "elbow.rule", "elbow.num_removed"]
    assert set(COLUMNS) <= set(summary["metrics"])
    text = (tmp_path / "out" / "table.md").read_text()
    assert "95 % interval" in text
    assert "| minus " in text


def test_it_continues_with_the_rows_that_are_missing(engineless: list[Cell], tmp_path: Path) -> None:
    config = small(tmp_path / "out")
    sweep_clarid(config, WINDOW, SearchConfig(seeds=(0,)), "window", quiet)
    table = (tmp_path / "out" / "trials.csv").read_text()
    paths = sorted((tmp_path / "out" / "rows").iterdir())
    for path in paths[:3]:
        path.unlink()
    engineless.clear()
    sweep_clarid(config, WINDOW, SearchConfig(seeds=(0,)), "window", quiet)
    assert len(engineless) == 3
    assert sorted((tmp_path / "out" / "rows").iterdir()) == paths
    assert without_seconds((tmp_path / "out" / "trials.csv").read_text()) == without_seconds(table)
    engineless.clear()
    rows = sweep_clarid(config, WINDOW, SEEDS, "window", quiet)  # one seed more
    assert len(engineless) == 4
    assert len(rows) == 8
    with pytest.raises(ResumeRefused, match=r"decoding\.guidance_scale: 1\.0 -> 2\.0"):
        sweep_clarid(small(tmp_path / "out", decoding__guidance_scale=2.0), WINDOW, SEEDS, "window", quiet)


def without_seconds(table: str) -> list[dict[str, str]]:
    return [{**line, "wall_s": ""} for line in csv.DictReader(table.splitlines())]


@pytest.mark.nightly
def test_what_changes_the_svd_has_a_base_of_its_own(engineless: list[Cell], tmp_path: Path) -> None:
    space = ({"inversion.project_t": (400.0, 600.0), "decoding.guidance_scale": (1.0, 2.0)},)
    search = SearchConfig(seeds=(0,))
    sweep_clarid(small(tmp_path / "out"), Sweep(space=space, metric="nmi_null", columns=COLUMNS), search, "t", quiet)
    assert len(list((tmp_path / "out" / "base").iterdir())) == 2
    assert len(engineless) == 4
    assert "One seed." in (tmp_path / "out" / "table.md").read_text()


def test_an_extraction_that_was_made_before_can_be_decoded_from(engineless: list[Cell], tmp_path: Path) -> None:
    base = tmp_path / "base"
    run_extraction(small(base, output__keep_spectrum=True), quiet)
    config = small(tmp_path / "out", output__from_spectrum=str(base))
    with pytest.raises(ValueError, match=r"search\.seeds: \(0, 1\) is not valid; valid: 0 alone"):
        sweep_clarid(config, WINDOW, SEEDS, "window", quiet)
    rows = sweep_clarid(config, WINDOW, SearchConfig(seeds=(0,)), "window", quiet)
    assert [row.status for row in rows] == ["ok"] * 4
    assert not (tmp_path / "out" / "base").exists()
    other = Sweep(space=({"spectrum.layer": ("transformer_blocks.1",)},), metric="nmi_null", columns=COLUMNS)
    with pytest.raises(ValueError, match=r"space: 'spectrum\.layer' is not swept"):
        sweep_clarid(config, other, SearchConfig(seeds=(0,)), "layer", quiet)


@pytest.mark.usefixtures("no_ray")
@pytest.mark.parametrize(
    ("values", "search", "message"),
    [
        ({"inversion.project_t": (610.0,)}, {}, "time 610 is not on the sampling grid"),
        ({"spectrum.layer": ("attic",)}, {}, "'attic' is not a layer of the model"),
        ({"elbow.rule": ("fixed",), "elbow.num_removed": (7,)}, {}, r"at most spectrum\.num_directions \(6\) \(at"),
        ({"decoding.guidance_scale": (1.0,)}, {"metric": "clean"}, "search.metric: 'clean' is not valid; valid: nmi_n"),
        ({"decoding.guidance_scale": (1.0,)}, {"asha": True, "seeds": (0,)}, "search.asha: True is not valid"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_starts(
    values: dict[str, Any], search: dict[str, Any], message: str, tmp_path: Path
) -> None:
    sweep = Sweep(space=(values,), metric="nmi_null", columns=COLUMNS)
    with pytest.raises(ValueError, match=message):
        sweep_clarid(small(tmp_path / "out"), sweep, SearchConfig(**search), "x", quiet)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("no_ray")
def test_a_submitted_job_needs_an_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"output\.path: 'out' is relative, and a submitted job"):
        sweep_clarid(small(Path("out")), WINDOW, SEEDS, "window", quiet)
    config = override(DISTILL["smoke"]().config, {"output": "out"})
    with pytest.raises(ValueError, match="output: 'out' is relative, and a submitted job"):
        sweep_cadistill(config, WINDOW, SEEDS, "balance", quiet)


def training(tmp_path: Path, **changes: Any) -> DistillConfig:
    from tests.cadistill.small import write_clareps

    clareps = tmp_path / "clareps"
    if not clareps.exists():
        write_clareps(clareps)
    fixed = {"clareps.path": str(clareps), "output": str(tmp_path / "out"), "tracking.enabled": False}
    smoke = DISTILL["smoke"]().config
    return override(smoke, {**fixed, "method": "cadistill", "data.digits.count": 48, "data.digits.seed": 1, **changes})


def test_students_are_measured_and_not_trained_again(engineless: list[Cell], tmp_path: Path) -> None:
    space = ({"loss.weight_align": (0.0, 0.1), "clareps.pairing": ("random",)}, {"optimizer.learning_rate": (1e30,)})
    sweep = Sweep(space=space, metric="clean", columns=("clean", "PGD 8"))
    rows = sweep_cadistill(training(tmp_path), sweep, SEEDS, "weights", quiet)
    assert [row.status for row in rows] == ["ok"] * 4 + ["failed"] * 2
    assert "the loss is nan" in rows[-1].reason
    assert set(rows[0].metrics) == {
        *("val_accuracy", "clean", "same_background", "random_background", "foreground_only", "PGD 8")
    }
    text = (tmp_path / "out" / "table.md").read_text()
    assert "* learning_rate 1e+30, seed 0: failed, TrainingDiverged: step 2: the loss is nan" in text
    engineless.clear()
    assert sweep_cadistill(training(tmp_path), sweep, SEEDS, "weights", quiet) == rows
    assert not engineless
    with pytest.raises(RuntimeError, match="no trial is good with every seed"):
        sweep_cadistill(training(tmp_path), Sweep(space=space[1:], metric="clean", columns=()), SEEDS, "x", quiet)


@pytest.mark.usefixtures("no_ray")
def test_pictures_that_are_missing_and_trainings_of_several_workers_are_refused(tmp_path: Path) -> None:
    sweep = Sweep(space=({"clareps.pictures": ("original", "random@3")},), metric="clean", columns=("clean",))
    with pytest.raises(ValueError, match="pictures: 'random@3' is not in"):
        sweep_cadistill(training(tmp_path), sweep, SEEDS, "x", quiet)
    with pytest.raises(ValueError, match=r"num_workers: 2 is not valid; valid: 1 \(a trial is one process\)"):
        sweep_cadistill(training(tmp_path, num_workers=2), sweep, SEEDS, "x", quiet)


def test_all_trials_have_one_batch(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"engine\.micro_batch: None is not valid; valid: 1 or more: one number"):
        ClaridStudy(small(tmp_path / "out", engine__micro_batch=None), WINDOW.space)


def test_a_trial_waits_for_machines_only_where_the_cluster_grows(tmp_path: Path) -> None:
    changes = {"engine__num_actors": 1, "engine__gpus_per_actor": 1.0}
    study = ClaridStudy(small(tmp_path / "out", **changes), WINDOW.space)
    with pytest.raises(ValueError, match=r"a trial needs {'CPU': 1, 'GPU': 1.0}, and the cluster has {'CPU': 4}"):
        needs_of_a_trial(study, {"CPU": 4})
    growing = ClaridStudy(small(tmp_path / "out", **changes, engine__autoscaling=True), WINDOW.space)
    assert needs_of_a_trial(growing, {"CPU": 4}) == {"CPU": 1, "GPU": 1.0}
