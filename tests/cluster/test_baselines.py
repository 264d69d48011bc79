"""What the baselines distil from comes out of the same engine: its values, cost, figures, resume and refusals."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clarep_ray.analysis.outputs import ExtractionOutput
from clarep_ray.clarid import pipeline
from clarep_ray.cluster.cost import estimate_cost
from clarep_ray.cluster.extract import run_extraction
from clarep_ray.cluster.plan import make_plan
from clarep_ray.cluster.publish import extract_and_publish
from clarep_ray.cluster.repair import repair
from clarep_ray.config import ExtractConfig
from clarep_ray.data.clarep_index import read_root
from clarep_ray.data.clarep_store import draw_partners, open_clareps
from clarep_ray.data.shards import Sample
from clarep_ray.data.verify import verify
from clarep_ray.dotted import override
from clarep_ray.models import digit_classifier
from clarep_ray.presets import EXTRACT
from tests.cluster.reference import flip_byte

SMOKE = ("dmdistill_features_smoke", "cfg_samples_smoke", "fresh_samples_smoke")


def config_of(preset: str, output: Path, **changes: Any) -> ExtractConfig:
    fixed = {"output.path": str(output), "tracking.enabled": False, "health.enabled": False}
    return override(EXTRACT[preset]().config, fixed | {name.replace("__", "."): v for name, v in changes.items()})


def run(config: ExtractConfig) -> dict[str, Sample]:
    assert run_extraction(config, lambda _: None)["rejects"] == {}
    return {sample.key: sample for sample in ExtractionOutput(Path(config.output.path)).samples}


@pytest.fixture
def no_spectrum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "leading_triplets", lambda *_, **__: pytest.fail("an SVD was taken"))


@pytest.fixture(scope="module")
def canonical(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Sample]:
    """The embedded pictures through CLARID, with their originals and guidance alone beside it."""
    with pytest.MonkeyPatch.context() as patched:
        from clarep_ray.cluster import extract, runtime
        from tests.cluster.conftest import in_process

        patched.setattr(runtime, "connect", lambda: {"CPU": 1.0})
        patched.setattr(extract, "stream", in_process)
        return run(config_of("digits_smoke", tmp_path_factory.mktemp("canonical")))


@pytest.mark.usefixtures("without_ray", "no_spectrum")
def test_features_are_those_of_the_originals_and_nothing_else_is_done(
    canonical: dict[str, Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(pipeline, "invert", lambda *_: pytest.fail("an inversion was made"))
        patched.setattr(pipeline, "decode", lambda *_: pytest.fail("a decoding was made"))
        bare = run(config_of("dmdistill_features_smoke", tmp_path / "bare", output__extras=()))
        full = run(config_of("dmdistill_features_smoke", tmp_path / "full"))
    for key, sample in bare.items():
        assert sorted(sample.members) == ["cls", "feature.npy", "json", "null_feature.npy"]
        assert sample.members["feature.npy"] == canonical[key].members["original.feature.npy"]
        assert sample.members["null_feature.npy"] == canonical[key].members["original.null_feature.npy"]
        assert full[key].members["original.png"] == canonical[key].members["original.png"]
    record = next(iter(bare.values())).record
    assert (record["what"], record["feature_layer"], record["feature_t"]) == ("features", "transformer_blocks.2", 60.0)
    assert not {"num_removed", "round_trip_error", "projection", "guidance_scale"} & record.keys()


@pytest.mark.usefixtures("without_ray", "no_spectrum")
@pytest.mark.parametrize(("scale", "twin"), [(3.0, "guidance"), (1.0, "reconstruction")])
def test_guidance_takes_clarids_place_without_an_svd(
    scale: float, twin: str, canonical: dict[str, Sample], tmp_path: Path
) -> None:
    made = run(config_of("cfg_samples_smoke", tmp_path, decoding__guidance_scale=scale))
    for key, sample in made.items():
        for suffix in ("png", "feature.npy", "null_feature.npy"):
            assert sample.members[suffix] == canonical[key].members[f"{twin}.{suffix}"]
        assert sample.record["round_trip_error"] == canonical[key].record["round_trip_error"]
        assert "num_removed" not in sample.record


@pytest.mark.usefixtures("without_ray")
def test_a_kept_spectrum_is_taken_where_nothing_is_projected(tmp_path: Path) -> None:
    made = run(config_of("cfg_samples_smoke", tmp_path, output__keep_spectrum=True, data__digits__count=4))
    assert all("num_removed" in sample.record for sample in made.values())
    assert list((tmp_path / "spectra").iterdir())


@pytest.mark.usefixtures("without_ray", "no_spectrum")
def test_fresh_samples_are_of_their_class_and_follow_key_and_seed(tmp_path: Path) -> None:
    one = run(config_of("fresh_samples_smoke", tmp_path / "one", data__classes=()))
    assert list(one)[:3] == ["0-000000", "0-000001", "1-000000"]
    labels = np.array([int(sample.members["cls"]) for sample in one.values()])
    assert np.bincount(labels).tolist() == [2] * 10
    pictures = ExtractionOutput(tmp_path / "one").pictures()
    assert (digit_classifier.load("digit").predict(pictures) == labels).mean() >= 0.9
    assert len({sample.members["png"] for sample in one.values()}) == 20

    more = run(config_of("fresh_samples_smoke", tmp_path / "more", data__classes=(), data__per_class=3))
    assert len(more) == 30
    assert one["3-000001"].members["png"] == more["3-000001"].members["png"]
    other = run(config_of("fresh_samples_smoke", tmp_path / "other", seed=1))
    assert other["3-000001"].members["png"] != one["3-000001"].members["png"]


@pytest.mark.usefixtures("without_ray")
def test_a_damaged_unit_of_fresh_samples_is_drawn_again_as_it_was(tmp_path: Path) -> None:
    config = config_of("fresh_samples_smoke", tmp_path, engine__unit_size=2)
    root = run_extraction(config, lambda _: None)["root_sha256"]
    flip_byte(sorted((tmp_path / "shards").iterdir())[1], 700)
    assert repair(tmp_path, verify(tmp_path)) == [1]
    assert verify(tmp_path) == []
    assert read_root(tmp_path)["root_sha256"] == root


@pytest.mark.usefixtures("without_ray")
def test_a_model_that_cannot_be_guided_draws_fresh_samples(tmp_path: Path) -> None:
    changes = {"model__weights": "tiny", "data__per_class": 1, "inversion__num_steps": 10, "engine__micro_batch": 4}
    made = run(config_of("fresh_samples", tmp_path, **changes))
    assert sorted(next(iter(made.values())).members) == ["cls", "feature.npy", "json", "png"]
    with pytest.raises(ValueError, match="valid: guidance 1"):
        make_plan(config_of("fresh_samples", tmp_path, **changes, decoding__guidance_scale=2.0))


@pytest.mark.usefixtures("without_ray")
@pytest.mark.parametrize("preset", SMOKE)
def test_the_job_publishes_what_there_is_and_skips_what_needs_a_spectrum(preset: str, tmp_path: Path) -> None:
    told: list[str] = []
    config = config_of(preset, tmp_path / "out")
    summary = extract_and_publish(config, preset, told.append)
    what = "unprojected" if config.output.what == "canonical" else config.output.what
    assert not {"median_num_removed", "max_residual"} & summary["metrics"].keys()
    assert ("mean_round_trip_error" in summary["metrics"]) == (what == "unprojected")
    assert what in told[-1]
    assert f"nmi/{what}" in summary["metrics"] or what == "samples"
    assert [path.name for path in (tmp_path / "out").glob("*.png")] == ["contact_sheet.png"]
    assert "evr_curves" not in told[-1]
    assert verify(tmp_path / "out") == []


@pytest.mark.usefixtures("without_ray")
def test_mlflow_and_timm_take_features_with_their_pictures(tmp_path: Path) -> None:
    from timm.data import create_dataset

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    config = config_of("dmdistill_features_smoke", tmp_path / "out", tracking__enabled=True, tracking__uri=uri)
    told: list[str] = []
    extract_and_publish(config, "dmdistill_features_smoke", told.append)
    assert uri in told[-1]
    dataset = create_dataset(
        "wds/features",
        root=config.output.path,
        split="train",
        is_training=False,
        batch_size=4,
        input_key="original.png;jpg",
    )
    assert [picture.size for picture, _ in dataset] == [(16, 16)] * 12


@pytest.mark.usefixtures("without_ray")
@pytest.mark.parametrize("preset", [*SMOKE, "digits_smoke"])
def test_cost_counts_what_is_done(preset: str, tmp_path: Path) -> None:
    config = config_of(preset, tmp_path / "out", inversion__num_steps=5, inversion__project_t=600.0)
    cost = estimate_cost(make_plan(config))
    counts = {name: number for name, number in cost.evaluations_per_sample.items() if not name.startswith("extra")}
    expected = {
        "dmdistill_features_smoke": {"features": 2},
        "cfg_samples_smoke": {"inversion": 4, "round trip": 4, "decoding": 8, "features": 2},
        "fresh_samples_smoke": {"sampling": 10, "features": 2},
        "digits_smoke": {"inversion": 4, "round trip": 4, "singular vectors": 45, "decoding": 8, "features": 2},
    }
    assert counts == expected[preset]
    assert cost.products_per_sample == (18 if preset == "digits_smoke" else 0)
    count = len(run(config))
    stored = sum(path.stat().st_size for path in (tmp_path / "out" / "shards").iterdir()) / count
    assert 0.75 * cost.bytes_per_sample < stored < 1.35 * cost.bytes_per_sample + 4096


@pytest.mark.usefixtures("without_ray")
def test_evaluations_are_as_many_as_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from clarep_ray.models.digits_dit import DigitsDit

    rows: list[int] = []
    plain = DigitsDit.eps
    monkeypatch.setattr(DigitsDit, "eps", lambda self, x_t, t, cond: rows.append(len(x_t)) or plain(self, x_t, t, cond))
    for preset, count in (("cfg_samples_smoke", 28), ("fresh_samples_smoke", 20), ("dmdistill_features_smoke", 0)):
        rows.clear()
        assert sum(rows) == 0
        made = run(config_of(preset, tmp_path / preset))
        assert sum(rows) == count * len(made)


@pytest.mark.parametrize(
    ("preset", "changes", "message"),
    [
        ("digits_smoke", {"data.source": "noise", "data.per_class": 2}, r"data\.source: 'noise' is not valid"),
        ("fresh_samples_smoke", {"data.source": "spurious_digits"}, "noise where output.what is samples, and only"),
        ("fresh_samples_smoke", {"data.per_class": None}, r"data\.per_class: None is not valid; valid: 1 and more"),
        ("fresh_samples_smoke", {"output.extras": ("original",)}, "valid: none where output.what is samples"),
        (
            "dmdistill_features_smoke",
            {"output.extras": ("guidance",)},
            "valid: input, original where output.what is features",
        ),
        ("dmdistill_features_smoke", {"output.keep_spectrum": True}, r"output\.keep_spectrum: True is not valid"),
        ("dmdistill_features_smoke", {"output.from_spectrum": "/x"}, r"output\.from_spectrum: '/x' is not valid"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(preset: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        override(EXTRACT[preset]().config, changes)


@pytest.mark.usefixtures("without_ray")
def test_a_training_opens_each_of_them(tmp_path: Path) -> None:
    outputs = {preset: tmp_path / preset for preset in (*SMOKE, "digits_smoke")}
    for preset, folder in outputs.items():
        run(config_of(preset, folder))
    features = open_clareps(str(outputs["dmdistill_features_smoke"]))
    originals = open_clareps(str(outputs["digits_smoke"]), pictures="original", class_names=features.class_names)
    rows = draw_partners(originals, features.labels, features.source_keys, "same_image", np.random.default_rng())
    np.testing.assert_array_equal(originals.features(rows), features.features(np.arange(len(features))))
    pictured = open_clareps(str(outputs["dmdistill_features_smoke"]), pictures="original")
    np.testing.assert_array_equal(pictured.images([2]), originals.images(rows[[2]]))
    guided = open_clareps(str(outputs["cfg_samples_smoke"]))
    twins = open_clareps(str(outputs["digits_smoke"]), pictures="guidance")
    np.testing.assert_array_equal(guided.images([5]), twins.images([5]))
    fresh = open_clareps(str(outputs["fresh_samples_smoke"]))
    assert (fresh.class_names, fresh.labels.tolist()) == (("3", "7"), [0, 0, 1, 1])
    with pytest.raises(ValueError, match="first: 'random_background-000000'"):
        draw_partners(fresh, [0], ["random_background-000000"], "same_image", np.random.default_rng())


@pytest.mark.usefixtures("without_ray")
def test_a_sample_that_fails_is_rejected_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from clarep_ray.models.digits_dit import DigitsDit

    plain = DigitsDit.eps

    def eps(self: DigitsDit, x_t: torch.Tensor, t: float, cond: Any) -> torch.Tensor:
        values = plain(self, x_t, t, cond)
        values[1] = float("nan")
        return values

    monkeypatch.setattr(DigitsDit, "eps", eps)
    summary = run_extraction(config_of("fresh_samples_smoke", tmp_path), lambda _: None)
    assert (summary["num_ok"], summary["rejects"]) == (3, {"nonfinite_decoding": 1})
