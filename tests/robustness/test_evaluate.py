"""One batch's columns, and the paper's presets: what an actor calls."""

from pathlib import Path

import numpy as np
import pytest
import torch

from clarep_ray.config import BenchmarksConfig, DigitsConfig
from clarep_ray.models.classifiers import NormalisedClassifier, load_classifier
from clarep_ray.presets import EVALUATE
from clarep_ray.robustness.attacks import Running, build_attack
from clarep_ray.robustness.benchmarks import Row, open_benchmark
from clarep_ray.robustness.benchmarks.digits import SpuriousDigitsVariants
from clarep_ray.robustness.evaluate import attack_columns, chosen_rows, clean_columns, require_attackable


def digits(count: int = 24) -> SpuriousDigitsVariants:
    return SpuriousDigitsVariants(BenchmarksConfig(digits=DigitsConfig(count=count)))


def test_the_shipped_classifier_reads_pictures_in_the_unit_range() -> None:
    model, benchmark = load_classifier("digits"), digits()
    rows = benchmark.rows("test")
    images = np.stack([benchmark.read(row, model.view) for row in rows])
    columns = clean_columns(model, benchmark, rows, images)
    assert columns["correct"].mean() > 0.9
    assert (columns["prediction"] == model.network.predict(images)).all()
    assert columns["key"][3] == "test-000003"
    assert not model.training
    with pytest.raises(ValueError, match=r"classifier.weights: 'x' has no config.json; valid: digits"):
        load_classifier("x")


def test_a_timm_folder_brings_its_own_normalisation(tmp_path: Path) -> None:
    import timm
    from timm.models import save_for_hf

    network = timm.create_model("resnet18", num_classes=10)
    save_for_hf(network, tmp_path, safe_serialization=True)
    model = load_classifier(str(tmp_path))
    assert isinstance(model, NormalisedClassifier)
    assert model.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    images = torch.rand(2, 3, 64, 64)
    assert torch.allclose(model(images), network.eval()((images - model.mean) / model.std), atol=1e-5)


@pytest.mark.parametrize("name", [name for name in EVALUATE if name.endswith("_smoke")])
def test_presets_run_on_the_embedded_data(name: str) -> None:
    config = EVALUATE[name]().config
    model, benchmark = (
        load_classifier(config.classifier.weights),
        open_benchmark(config.benchmarks.names[0], config.benchmarks),
    )
    rows = benchmark.rows("test")
    images = np.stack([benchmark.read(row, model.view) for row in rows])
    clean = clean_columns(model, benchmark, rows, images)
    for attack in config.attacks.names:
        running = Running(seed=config.attacks.seeds[0], micro_batch=config.engine.micro_batch, padded=True)
        columns = attack_columns(model, build_attack(attack, config.attacks, running), benchmark, rows, images)
        assert (columns["attacked"] == clean["correct"]).all()
        assert (columns["robust"] <= clean["correct"]).all()
        assert (columns["num_gradients"][~columns["attacked"]] == 0).all()
        if attack not in ("cw", "ensemble4"):
            assert columns["linf_255"].max() <= config.attacks.eps_255 + 1e-3


def test_the_papers_settings() -> None:
    found = {
        name: (c.eps_255, c.pgd.num_steps, c.cw.c, c.cw.num_steps, c.apgd.num_steps, c.apgd.rho)
        for name in ("attacks_cifar10", "attacks_imagenet", "attacks_imagenet100")
        for c in [EVALUATE[name]().config.attacks]
    }
    assert found == {
        "attacks_cifar10": (2.0, 5, 0.2, 5, 5, 0.75),
        "attacks_imagenet": (0.33, 5, 0.1, 5, 5, 0.75),
        "attacks_imagenet100": (0.5, 5, 0.1, 10, 5, 0.75),
    }
    preset = EVALUATE["attacks_imagenet"]()
    assert preset.origins["attacks.eps_255"] == "paper"
    assert preset.origins["attacks.pgd.step_relative"] == "inferred"


def test_only_a_benchmark_of_the_models_own_classes_is_attacked() -> None:
    benchmark = digits(2)
    require_attackable(benchmark, benchmark.rows("test"))
    several = [Row(key="a", labels=(1, 2), source="test")]
    with pytest.raises(ValueError, match="spurious_digits: cannot be attacked"):
        require_attackable(benchmark, several)


def test_chosen_rows_do_not_depend_on_their_neighbours() -> None:
    rows = [Row(key=f"k{i}", labels=(0,), source="x") for i in range(50)]
    chosen = chosen_rows(rows, 20, seed=1)
    assert len(chosen) == 20
    assert chosen == sorted(chosen, key=lambda row: int(row.key[1:]))
    kept = {row.key for row in chosen}
    assert kept & {row.key for row in chosen_rows(rows[:25], 20, seed=1)} >= {k for k in kept if int(k[1:]) < 25}
    assert chosen_rows(rows, None, 0) == rows
