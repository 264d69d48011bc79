"""An evaluation end to end: what it writes, that it continues to the byte, what it refuses; trust comes first."""

import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient
from PIL import Image

from clarep_ray import cli
from clarep_ray.cluster import evaluate_units
from clarep_ray.cluster.evaluate import open_session, verdict_units
from clarep_ray.cluster.evaluate_report import run_evaluation
from clarep_ray.config import EvaluateConfig
from clarep_ray.data.verdicts import NAMES, VERDICT
from clarep_ray.dotted import override
from clarep_ray.errors import ResumeRefused, Untrusted
from clarep_ray.presets import EVALUATE
from clarep_ray.robustness.benchmarks import open_benchmark
from clarep_ray.robustness.benchmarks.corruptions import CORRUPTIONS
from clarep_ray.robustness.trust import Finding
from tests.broken_models import Overflowing, broken_timm

TWO_SPLITS: dict[str, Any] = {
    "benchmarks__digits__count": 20,
    "benchmarks__digits_splits": ("test", "conflict"),
    "attacks__seeds": (0, 1),
    "attacks__names": ("pgd", "cw", "apgd_dlr", "apgd_ce", "square"),
    "attacks__square__num_queries": 10,
    "attacks__square__num_samples": 6,
    "trust__num_samples": 8,
    "trust__num_steps": 2,
    "trust__num_queries": 5,
    "engine__unit_size": 8,
    "engine__micro_batch": 8,
}


def smoke(output: Path, **changes: Any) -> EvaluateConfig:
    more = {name.replace("__", "."): value for name, value in changes.items()}
    return override(EVALUATE["digits_smoke"]().config, {"output": str(output), "tracking.enabled": False} | more)


def quiet(config: EvaluateConfig) -> dict[str, Any]:
    return run_evaluation(config, "digits_smoke", lambda _: None)


@pytest.fixture(scope="module")
def timm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random model for ten classes, as the hub has it."""
    import timm
    import torch
    from timm.models import save_for_hf

    folder = tmp_path_factory.mktemp("weights") / "small_resnet"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        own = {"input_size": (3, 16, 16)}
        network = timm.create_model("test_resnet", num_classes=10, pretrained_cfg_overlay=own)
        save_for_hf(network, folder, safe_serialization=True)
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, timm_folder: Path) -> tuple[Path, dict[str, Any]]:
    from tests.cluster.conftest import without_ray

    folder = tmp_path_factory.mktemp("evaluation") / "out"
    with pytest.MonkeyPatch.context() as patch:
        without_ray.__wrapped__(patch)
        return folder, quiet(two_models(folder, timm_folder))


def two_models(folder: Path, timm_folder: Path, **changes: Any) -> EvaluateConfig:
    return smoke(folder, **{**TWO_SPLITS, "classifier__compared": str(timm_folder), **changes})


def test_there_is_a_row_per_picture_attack_and_seed(finished: tuple[Path, dict[str, Any]]) -> None:
    table = pq.read_table(finished[0] / "verdicts.parquet")
    assert table.schema.names == [*NAMES.names, *VERDICT.names]
    rows = table.to_pandas()
    assert len(rows) == 2 * 2 * (20 + 2 * (4 * 20 + 6))
    assert not rows.duplicated(["role", "benchmark", "slice", "attack", "seed", "key"]).any()
    assert rows[rows.attack == "clean"].seed.isna().all()
    assert set(rows[rows.attack == "square"].seed) == {0, 1}
    assert rows.reject.isna().all()
    clean = rows[rows.attack == "clean"].set_index(["role", "key"]).right
    attacked = rows[rows.attack != "clean"]
    assert (attacked.attacked.to_numpy() == clean[list(zip(attacked.role, attacked.key, strict=True))].to_numpy()).all()
    assert not (attacked.right & ~attacked.attacked.astype(bool)).any()


def test_figures_are_those_of_the_verdicts(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, record = finished
    rows = pq.read_table(folder / "verdicts.parquet").to_pandas()
    mine = rows[(rows.model == "digits") & (rows.slice == "conflict") & (rows.attack == "pgd")]
    figures = record["figures"]["digits"]
    expected = [float(mine[mine.seed == seed].right.mean()) for seed in (0, 1)]
    assert figures["spurious_digits/conflict/pgd"] == pytest.approx(expected)
    parts = [figures[f"spurious_digits/{part}/pgd"] for part in ("test", "conflict")]
    assert figures["spurious_digits/pgd"] == pytest.approx(np.mean(parts, axis=0))
    assert figures["spurious_digits/clean"] == figures["spurious_digits/top1"]
    worst, weak = (np.array(figures[f"spurious_digits/test/{name}"]) for name in ("ensemble4", "cw"))
    assert (worst <= weak).all()
    for row in record["slices"]:
        assert row["low"] <= row["accuracy"] <= row["high"]
        assert row["accuracy"] <= row["clean"]
        assert row["count"] == (6 if row["attack"] == "square" else 20)
        assert row["non_finite"] == 0
    few = set(rows[(rows.slice == "test") & (rows.attack == "square")].key)
    clean = rows[(rows.model == "digits") & (rows.slice == "test") & (rows.attack == "clean") & rows.key.isin(few)]
    assert record["clean_of_the_same_images"]["digits"]["spurious_digits/test/square"] == clean.right.mean()
    assert record["images"]["digits"]["spurious_digits/test/square"] == len(few) == 6
    assert record["images"]["digits"]["spurious_digits/square"] == 12
    assert json.loads((folder / "results.json").read_text()) == record


def test_two_models_are_compared_picture_by_picture(finished: tuple[Path, dict[str, Any]]) -> None:
    _, record = finished
    assert record["models"] == {"evaluated": "digits", "compared": "small_resnet"}
    clean = next(row for row in record["paired"] if (row["slice"], row["attack"]) == ("test", "clean"))
    accuracies = [record["figures"][model]["spurious_digits/test"][0] for model in ("digits", "small_resnet")]
    assert clean["difference"] == pytest.approx(accuracies[0] - accuracies[1])
    assert clean["p_value"] < 0.01
    assert {row["label"] for row in record["classes"]} <= set(range(10))
    assert sum(row["count"] for row in record["classes"] if row["attack"] == "clean") == 2 * 2 * 20


def test_tables_have_the_papers_shapes(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = finished
    text = (folder / "report.md").read_text()
    assert "| table_1_digits | Clean | PGD | CW | APGD-DLR | APGD-CE | Ensemble of four |" in text
    assert "| table_2_digits | Original | BG-Same | BG-Rand | Only-FG | Conflict |" in text
    assert "| table_10_digits | Clean | Square |" in text
    assert "McNemar p" in text
    lines = text.partition("| spurious_digits |")[2].splitlines()
    assert lines[0] == " clean | pgd | cw | apgd_dlr | apgd_ce | clean for square | square | ensemble4 |"
    counts = [cell.rpartition("(")[2].rstrip(") |") for cell in lines[2].split(" | ")[1:]]
    assert counts == ["40"] * 5 + ["12", "12", "40"]
    assert "table_1_imagenet" not in text
    rows = list(csv.DictReader((folder / "table_1_digits.csv").read_text().splitlines()))
    assert {row["model"] for row in rows} == {"digits", "small_resnet"}
    assert [row["seed"] for row in rows if (row["model"], row["column"]) == ("digits", "PGD")] == ["0", "1"]
    assert (folder / "attacks_spurious_digits.png").stat().st_size > 5000
    assert {"slices.csv", "paired.csv", "classes.csv", "run.json"} <= {path.name for path in folder.iterdir()}


def test_trust_checks_are_stored_with_transfer_between_the_two(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, record = finished
    stored = json.loads((folder / "trust.json").read_text())
    assert stored == record["trust"]
    assert "transfer_0_not_stronger" in {finding["name"] for finding in stored["digits"]}
    assert "| black_box_not_stronger |" in (folder / "report.md").read_text()


@pytest.mark.usefixtures("without_ray")
def test_it_continues_with_the_units_that_are_missing(finished: tuple[Path, dict[str, Any]], timm_folder: Path) -> None:
    folder, _ = finished
    names = ("results.json", "verdicts.parquet", "report.md", "trust.json", "slices.csv")
    before = {name: (folder / name).read_bytes() for name in names}
    parts = sorted((folder / "parts").iterdir())
    stamps = {path: path.stat().st_mtime_ns for path in parts}
    contents = {path: path.read_bytes() for path in parts}
    lost = [*parts[::9], *(path for path in parts if path.suffix == ".json")]
    for path in set(lost):
        path.unlink()
    quiet(two_models(folder, timm_folder))
    assert sorted((folder / "parts").iterdir()) == parts
    assert {path for path in parts if path.stat().st_mtime_ns != stamps[path]} == set(lost)
    assert {path: path.read_bytes() for path in parts} == contents
    assert {name: (folder / name).read_bytes() for name in names} == before


def test_another_setting_or_checkpoint_is_refused(finished: tuple[Path, dict[str, Any]], timm_folder: Path) -> None:
    with pytest.raises(ResumeRefused, match=r"output: .*attacks\.eps_255: 8\.0 -> 4\.0"):
        open_session(two_models(finished[0], timm_folder, attacks__eps_255=4.0))
    with pytest.raises(ResumeRefused, match=r"compared_sha256: '\w+' -> None"):
        open_session(two_models(finished[0], timm_folder, classifier__compared=None))


@pytest.mark.usefixtures("without_ray")
def test_how_the_work_is_cut_changes_no_verdict(finished: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """The same micro-batches, other units; and the ensemble run as one is what its four members leave."""
    names = ("pgd", "ensemble4")
    again = quiet(smoke(tmp_path / "out", **{**TWO_SPLITS, "engine__unit_size": 20, "attacks__names": names}))
    first, second = finished[1]["figures"]["digits"], again["figures"]["digits"]
    assert {key: second[key] for key in second} == {key: first[key] for key in second}
    rows = [pq.read_table(folder / "verdicts.parquet").to_pandas() for folder in (finished[0], tmp_path / "out")]
    one, other = (
        table[(table.role == "evaluated") & (table.attack == "pgd")].sort_values(["slice", "seed", "key"])
        for table in rows
    )
    assert (one.right.to_numpy() == other.right.to_numpy()).all()
    assert np.allclose(one.l2, other.l2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"benchmarks__names": ("imagenet_r",)}, "names: .*imagenet_r.* is not valid"),
        ({"benchmarks__names": ("cifar10",)}, r"benchmarks\.cifar10: None is not valid; valid: a path"),
        ({"benchmarks__names": ("cifar10",), "benchmarks__cifar10": "/no"}, r"benchmarks\.cifar10: '/no' is not valid"),
        ({"classifier__weights": "/nowhere"}, r"'/nowhere' has no config\.json; valid: digits, or a folder"),
        ({"classifier__compared": "digits"}, r"classifier\.compared: 'digits' is the classifier itself"),
        ({"attacks__names": ("fgsm",)}, r"names: .*fgsm.* is not valid"),
        ({"attacks__names": ("pgd", "pgd")}, r"attacks\.names: .* is not valid; valid: each of them once"),
        ({"attacks__benchmarks": ("imagenet",)}, r"attacks\.benchmarks: 'imagenet' is not valid; valid: one of bench"),
        ({"attacks__square__num_samples": 0}, r"attacks\.square\.num_samples: 0 is not valid"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_starts(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        open_session(smoke(tmp_path / "out", **changes))
    assert not (tmp_path / "out").exists()


def test_torchattacks_is_needed_and_recorded_where_it_attacks_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = {"attacks__names": ("pgd",), "attacks__implementation": "torchattacks"}
    assert "version.torchattacks" in open_session(smoke(tmp_path / "published", **published)).fields
    monkeypatch.setitem(sys.modules, "torchattacks", None)
    with pytest.raises(ValueError, match="torchattacks is not installed; install it: pip install --no-deps"):
        open_session(smoke(tmp_path / "out", **published))
    assert not (tmp_path / "out").exists()
    assert "version.torchattacks" not in open_session(smoke(tmp_path / "ours")).fields


def test_a_model_must_fit_its_benchmark_and_attack(tmp_path: Path, timm_folder: Path) -> None:
    def refused(message: str, **changes: Any) -> None:
        folder = {"benchmarks__names": ("image_folder",), "benchmarks__image_folder": str(tmp_path / "pictures")}
        small = {"benchmarks__image_size": 16, "benchmarks__resize": 16}
        with pytest.raises(ValueError, match=message):
            open_session(smoke(tmp_path / "out", **{**folder, **small, **changes}))
        assert not (tmp_path / "out").exists()

    pictures(tmp_path / "pictures", classes=2)
    refused(r"image_folder has the classes 'c0', 'c1' \(2\), classifier.weights 'digits' has '0', .*none is in both")
    two = save_timm(tmp_path / "two", 2)
    refused("attacks.names: apgd_dlr needs 3 classes or more; image_folder has 2", classifier__weights=str(two))
    (two / "config.json").write_text("{")
    refused(r"has no readable config\.json", classifier__weights=str(two))


@pytest.mark.usefixtures("without_ray")
def test_a_student_is_evaluated_like_any_other(tmp_path: Path) -> None:
    """Two folders called `last` are told apart by what they lie in; what MLflow is told does not depend on it."""
    from clarep_ray.models.students import Architecture, make_student, save_student

    names, grey = tuple("0123456789"), (0.5, 0.5, 0.5)
    architecture = Architecture(name="small_cnn", class_names=names, image_size=16, mean=grey, std=grey)
    for seed, name in enumerate(("vanilla", "cadistill")):
        (tmp_path / name).mkdir()
        save_student(make_student(architecture, seed), tmp_path / name / "last")
    weights = {"weights": str(tmp_path / "cadistill" / "last"), "compared": str(tmp_path / "vanilla" / "last")}
    changes = {f"classifier__{name}": path for name, path in weights.items()}
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    told = {"tracking__enabled": True, "tracking__uri": uri}
    record = quiet(smoke(tmp_path / "out", **changes, **told, attacks__names=("pgd",), trust__enabled=False))
    assert list(record["figures"]) == ["cadistill/last", "vanilla/last"]
    assert len(record["paired"]) == 2
    (run,) = MlflowClient(uri).search_runs(["1"])
    keys = ("test", "test/pgd/8", "pgd/8", "clean", "test/pgd/clean")
    assert {f"{prefix}spurious_digits/{key}" for prefix in ("", "compared/") for key in keys} <= set(run.data.metrics)
    assert run.data.metrics["speed/pictures"] == 2 * 2 * 32
    assert run.data.metrics["images/spurious_digits/test/pgd"] == 32
    assert run.data.metrics["compared/non_finite"] == 0


@pytest.mark.usefixtures("without_ray")
def test_a_classifier_that_gives_no_numbers_ends_it_before_anything_is_spent(tmp_path: Path) -> None:
    weights = str(broken_timm(tmp_path / "broken"))
    for changes in ({"classifier__weights": weights}, {"classifier__compared": weights}):
        with pytest.raises(ValueError, match=r"broken' answers none of 16 images of spurious_digits: all have a logit"):
            quiet(smoke(tmp_path / "out", **changes))
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("without_ray")
def test_images_without_an_answer_are_wrong_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shipped classifier overflows for the brightest images: never right, never robust, counted in every place."""
    changes: dict[str, Any] = {"attacks__names": ("pgd", "square"), "attacks__square__num_queries": 5}
    changes |= {"trust__num_samples": 20, "trust__num_steps": 2, "trust__num_queries": 2}
    config = smoke(tmp_path / "out", **changes, benchmarks__digits__count=20)
    benchmark = open_benchmark("spurious_digits", config.benchmarks)
    load = evaluate_units.load_classifier
    view = load("digits").view
    limit = float(np.median([benchmark.read(row, view).mean() for row in benchmark.rows("test")])) / 255

    def overflowing(weights: str, device: str) -> Any:
        made: Any = Overflowing(load(weights, device), limit).eval()
        made.view = view
        return made

    monkeypatch.setattr(evaluate_units, "load_classifier", overflowing)
    said: list[str] = []
    record = run_evaluation(config, "digits_smoke", said.append)
    rows = pq.read_table(tmp_path / "out" / "verdicts.parquet").to_pandas()
    clean = rows[rows.attack == "clean"]
    bad = int(clean.non_finite.sum())
    assert 0 < bad < 20
    assert not clean[clean.non_finite].right.any()
    assert set(clean[clean.non_finite].prediction) == {-2}
    assert not rows[rows.key.isin(clean[clean.non_finite].key)].right.any()
    assert record["non_finite"]["digits"]["spurious_digits/test/clean/0"] == bad
    line = f"digits: {bad} of 20 images without an attack give logits that are not finite"
    assert line in (tmp_path / "out" / "report.md").read_text()
    assert any(line in text for text in said)
    finding = next(f for f in record["trust"]["digits"] if f["name"] == "finite_logits")
    assert finding["numbers"]["share_finite"] == pytest.approx(1 - bad / 20)


@pytest.mark.usefixtures("without_ray")
def test_a_slice_of_which_no_image_can_be_read_has_no_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from clarep_ray.data.records import RejectedImage, RejectReason
    from clarep_ray.robustness.benchmarks.digits import SpuriousDigitsVariants

    read = SpuriousDigitsVariants.open

    def damaged(self: SpuriousDigitsVariants, row: Any) -> Any:
        if row.source == "conflict":
            raise RejectedImage(RejectReason.TRUNCATED)
        return read(self, row)

    monkeypatch.setattr(SpuriousDigitsVariants, "open", damaged)
    few = {"benchmarks__digits__count": 6, "benchmarks__digits_splits": ("test", "conflict"), "trust__enabled": False}
    quiet(smoke(tmp_path / "out", **few, attacks__names=("pgd",), engine__unit_size=6))

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    record = json.loads((tmp_path / "out" / "results.json").read_text(), parse_constant=refuse)
    empty = next(row for row in record["slices"] if (row["slice"], row["attack"]) == ("conflict", "pgd"))
    assert (empty["count"], empty["accuracy"], empty["clean"]) == (0, None, None)
    assert record["figures"]["digits"]["spurious_digits/conflict"] == [None]
    assert record["figures"]["digits"]["spurious_digits/clean"] == [None]  # a mean over its slices is none
    assert "| digits: conflict | - | - |" in (tmp_path / "out" / "report.md").read_text()


def test_answers_that_are_not_the_logits_are_not_attacked(tmp_path: Path) -> None:
    from clarep_ray.robustness.benchmarks.labels import BACKGROUND_CLASSES

    for variant in ("original", "mixed_same", "mixed_rand", "only_fg"):
        pictures(tmp_path / "bg" / variant / "val", classes=9, names=BACKGROUND_CLASSES)
    changes = {"benchmarks__names": ("backgrounds",), "benchmarks__backgrounds": str(tmp_path / "bg")}
    with pytest.raises(ValueError, match="backgrounds: cannot be attacked, since its answers are not the model's"):
        open_session(smoke(tmp_path / "out", **changes, benchmarks__image_size=16, benchmarks__resize=16))
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("without_ray")
def test_a_damaged_picture_is_in_no_figure(tmp_path: Path) -> None:
    pictures(tmp_path / "pictures", classes=10, per_class=2, names=tuple("0123456789"))
    damaged = tmp_path / "pictures" / "3" / "1.png"
    damaged.write_bytes(damaged.read_bytes()[:60])
    changes = {"benchmarks__names": ("image_folder",), "benchmarks__image_folder": str(tmp_path / "pictures")}
    changes |= {"benchmarks__image_size": 16, "benchmarks__resize": 16, "attacks__names": ("pgd",)}
    record = quiet(smoke(tmp_path / "out", **changes, trust__enabled=False))
    assert sum(record["rejects"].values()) == 1
    assert {row["count"] for row in record["slices"]} == {19}
    rows = pq.read_table(tmp_path / "out" / "verdicts.parquet").to_pandas()
    assert rows[rows.key == "3/1.png"].right.isna().all()
    text = (tmp_path / "out" / "report.md").read_text()
    assert "could not be read" in text
    assert record["labels"]["digits"]["image_folder"].startswith("10 of 10 classes matched by number")
    assert "labels of digits on image_folder: 10 of 10 classes matched by number" in text
    assert record["classes"][0]["class"] == "0"
    assert "No trust check was run" in text


@pytest.mark.usefixtures("without_ray")
def test_corruptions_have_bars_and_their_mean(tmp_path: Path, timm_folder: Path) -> None:
    folder = tmp_path / "CIFAR-10-C"
    folder.mkdir()
    np.save(folder / "labels.npy", np.tile(np.array([3, 7], np.uint8), 5))
    rng = np.random.default_rng(0)
    for corruption in CORRUPTIONS:
        np.save(folder / f"{corruption}.npy", rng.integers(0, 256, (10, 32, 32, 3), dtype=np.uint8))
    changes = {"benchmarks__names": ("cifar10_c",), "benchmarks__cifar10_c": str(folder), "benchmarks__partial": True}
    changes |= {"classifier__weights": str(timm_folder), "attacks__names": ()}
    record = quiet(smoke(tmp_path / "out", **changes))
    assert (tmp_path / "out" / "corruptions_cifar10_c.png").stat().st_size > 5000
    assert record["trust"] == {}
    assert record["classes"] == []
    figures = record["figures"]["small_resnet"]
    assert figures["cifar10_c/top1"] == pytest.approx(
        np.mean([figures[f"cifar10_c/severity_{s}"] for s in range(1, 6)])
    )
    assert "| small_resnet | - | - | - | - | - |" in (tmp_path / "out" / "report.md").read_text()


@pytest.mark.usefixtures("without_ray")
def test_masked_gradients_stop_it_where_that_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    masked = Finding("margin_gradients", False, "refuse", {"share_zero": 1.0}, "no gradient")
    monkeypatch.setattr(evaluate_units, "trust_findings", lambda *_: [masked])
    config = smoke(tmp_path / "out", trust__refuse=True)
    with pytest.raises(Untrusted, match="margin_gradients: no gradient") as caught:
        quiet(config)
    assert cli.known_fault(caught.value) == (str(caught.value), 12)
    assert {path.suffix for path in (tmp_path / "out" / "parts").iterdir()} == {".json"}
    assert json.loads((tmp_path / "out" / "trust.json").read_text())["digits"][0]["passed"] is False
    said: list[str] = []
    run_evaluation(smoke(tmp_path / "out", trust__refuse=False), "the same run goes on", said.append)
    assert any("warning: digits: margin_gradients" in line for line in said)


def test_only_what_is_named_is_attacked() -> None:
    config = EVALUATE["attacks_imagenet"]().config
    assert config.attacked == ("imagenet",)
    assert override(config, {"attacks.names": ()}).attacked == ()
    assert override(config, {"attacks.benchmarks": ("imagenet_c",)}).attacked == ("imagenet_c",)


def test_on_ray(ray_session: None, finished: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """The engine gives what the plain loop gives, to the byte of every unit."""
    changes = {**TWO_SPLITS, "attacks__names": ("pgd",), "attacks__seeds": (0,), "trust__enabled": False}
    session = open_session(smoke(tmp_path / "out", **changes))
    record = quiet(session.config)
    for unit in verdict_units(session):
        name = f"parts/{unit.name}.verdicts"
        assert (tmp_path / "out" / name).read_bytes() == (finished[0] / name).read_bytes()
    assert (
        record["figures"]["digits"]["spurious_digits/test/pgd"][0]
        in (finished[1]["figures"]["digits"]["spurious_digits/test/pgd"])
    )


def pictures(folder: Path, classes: int, per_class: int = 1, names: tuple[str, ...] = ()) -> None:
    rng = np.random.default_rng(0)
    for number in range(classes):
        below = folder / (names[number] if names else f"c{number}")
        below.mkdir(parents=True)
        for i in range(per_class):
            Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(below / f"{i}.png")


def save_timm(folder: Path, num_classes: int) -> Path:
    import timm
    from timm.models import save_for_hf

    save_for_hf(timm.create_model("test_resnet", num_classes=num_classes), folder, safe_serialization=True)
    return folder
