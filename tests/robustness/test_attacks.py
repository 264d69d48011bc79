"""Attacks leave everything as it was, depend on nothing but the picture, and spend what they say."""

import dataclasses
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from clarep_ray.config import ApgdConfig, AttackBenchmarkConfig, AttacksConfig, CwConfig, PgdConfig, SquareConfig
from clarep_ray.robustness import attack_benchmark
from clarep_ray.robustness.apgd import checkpoints
from clarep_ray.robustness.attack import Attack, AttackResult, check_inputs
from clarep_ray.robustness.attacks import ATTACKS, Running, build_attack
from clarep_ray.robustness.cw import Cw, to_pictures, to_variables
from clarep_ray.robustness.ensemble import Ensemble, worst_case
from clarep_ray.robustness.fab import onto_plane
from clarep_ray.robustness.losses import dlr, likely_wrong, margin, targeted_dlr
from clarep_ray.robustness.pgd import Pgd
from clarep_ray.robustness.square import square_side
from tests.robustness.conftest import Trained

CONFIG = AttacksConfig(
    eps_255=24.0,
    pgd=PgdConfig(num_steps=5, step_relative=0.4),
    apgd=ApgdConfig(num_steps=8, num_targets=3),
    square=SquareConfig(num_queries=60),
    cw=CwConfig(num_steps=30, c=0.3, learning_rate=0.05),
)
OURS = [name for name in ATTACKS if name != "autoattack"]
PUBLISHED = ["pgd", "cw", "apgd_ce", "apgd_dlr", "square"]
AS_PUBLISHED = dataclasses.replace(CONFIG, implementation="torchattacks")


def attacked(trained: Trained, attack: Attack, rows: slice = slice(0, 60)) -> AttackResult:
    return attack(trained.model, trained.images[rows], trained.labels[rows], trained.keys[rows])


@pytest.mark.parametrize(("name", "config"), [(n, CONFIG) for n in OURS] + [(n, AS_PUBLISHED) for n in PUBLISHED])
def test_verdicts_are_true_and_nothing_else_is_touched(trained: Trained, name: str, config: AttacksConfig) -> None:
    trained.model.train()
    trained.model.body[2].eval()
    modes = [module.training for module in trained.model.modules()]
    images, state, weights = trained.images.clone(), torch.get_rng_state(), trained.model.state_dict()
    weights = {key: value.clone() for key, value in weights.items()}
    result = attacked(trained, build_attack(name, config))
    assert [module.training for module in trained.model.modules()] == modes
    trained.model.eval()
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(trained.images, images)
    assert all(torch.equal(value, weights[key]) for key, value in trained.model.state_dict().items())
    wrong = trained.model(result.adversarial).argmax(1) != trained.labels[:60]
    assert torch.equal(wrong, result.success)
    assert result.adversarial.min() >= 0
    assert result.adversarial.max() <= 1
    assert result.success.sum() > 5
    if name != "cw":
        assert (result.adversarial - images[:60]).abs().max() <= 24 / 255 + 1e-6


@pytest.mark.parametrize("name", OURS)
def test_a_picture_is_attacked_the_same_in_any_company(trained: Trained, name: str) -> None:
    together = attacked(trained, build_attack(name, CONFIG))
    torch.manual_seed(99)  # nobody reads the global state
    order = torch.randperm(60)
    keys = [trained.keys[i] for i in order.tolist()]
    mixed = build_attack(name, CONFIG)(trained.model, trained.images[order], trained.labels[order], keys)
    assert torch.equal(mixed.success, together.success[order])
    alone = attacked(trained, build_attack(name, CONFIG), slice(20, 30))
    assert torch.equal(alone.success, together.success[20:30])
    assert torch.equal(alone.num_gradients, together.num_gradients[20:30])
    # A signed step turns rounding into a step where a gradient is all but zero: few pixels may differ.
    assert ((alone.adversarial - together.adversarial[20:30]).abs() > 1e-4).float().mean() < 0.01


@pytest.mark.parametrize("name", ["pgd", "cw", "apgd_dlr", "square"])
def test_padded_calls_make_it_bit_exact(trained: Trained, name: str) -> None:
    attack = build_attack(name, CONFIG, Running(micro_batch=16, padded=True))
    together = attacked(trained, attack, slice(0, 40))
    apart = [attacked(trained, attack, slice(start, start + 8)) for start in range(0, 40, 8)]
    assert torch.equal(torch.cat([part.adversarial for part in apart]), together.adversarial)


def test_seeds_and_keys_name_the_random_start(trained: Trained) -> None:
    first, again = (attacked(trained, build_attack("pgd", CONFIG)) for _ in range(2))
    assert torch.equal(first.adversarial, again.adversarial)
    other = attacked(trained, build_attack("pgd", CONFIG, Running(seed=1)))
    assert not torch.equal(first.adversarial, other.adversarial)


@pytest.mark.parametrize("name", OURS)
def test_wrong_pictures_cost_nothing_and_fallen_ones_leave(trained: Trained, name: str) -> None:
    labels = trained.labels[:60].clone()
    labels[:10] = (trained.model(trained.images[:10]).argmax(1) + 1) % 10
    result = build_attack(name, CONFIG)(trained.model, trained.images[:60], labels, trained.keys[:60])
    assert not result.attacked[:10].any()
    assert result.success[:10].all()
    assert torch.equal(result.adversarial[:10], trained.images[:10])
    costs = result.num_gradients + result.num_queries
    assert (costs[:10] == 0).all()
    assert (costs[result.attacked] > 0).all()
    fell, stood = result.success & result.attacked, ~result.success
    assert costs[fell].float().mean() < costs[stood].float().mean()


def test_budgets_are_spent_as_said(trained: Trained) -> None:
    def spent(name: str) -> tuple[int, int]:
        result = attacked(trained, build_attack(name, dataclasses.replace(CONFIG, eps_255=0.01)))
        stood = ~result.success
        return int(result.num_gradients[stood].max()), int(result.num_queries[stood].max())

    assert spent("pgd") == (5, 1)
    assert spent("apgd_ce") == (8, 1)
    assert spent("apgd_t") == (24, 4)
    assert spent("square") == (0, 60)
    averaged = dataclasses.replace(CONFIG, eps_255=0.01, apgd=ApgdConfig(num_steps=8, num_eot=3))
    result = attacked(trained, build_attack("apgd_dlr", averaged))
    assert int(result.num_gradients.max()) == 24


def test_empty_batches_and_fallen_batches_come_back(trained: Trained) -> None:
    attack = build_attack("apgd_ce", CONFIG)
    assert len(attacked(trained, attack, slice(0, 0)).success) == 0
    wrong = (trained.model(trained.images[:5]).argmax(1) + 1) % 10
    assert attack(trained.model, trained.images[:5], wrong, trained.keys[:5]).success.all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": torch.rand(4, 3, 8, 8) * 2 - 1}, "valid: 0 to 1"),
        ({"images": torch.zeros(4, 8, 8)}, r"valid: floats \(b, c, h, w\)"),
        ({"keys": ["a"]}, "4 images, 4 labels and 1 keys"),
    ],
)
def test_wrong_inputs_are_refused(change: dict[str, object], message: str) -> None:
    given: dict[str, Any] = {"images": torch.zeros(4, 3, 8, 8), "labels": torch.zeros(4, dtype=torch.long)}
    given = {**given, "keys": list("abcd"), **change}
    with pytest.raises(ValueError, match=message):
        check_inputs(**given)


def test_unknown_names_and_missing_parts_are_refused() -> None:
    with pytest.raises(ValueError, match="'fgsm' is unknown; valid: pgd, cw"):
        build_attack("fgsm", CONFIG)
    with pytest.raises(ValueError, match=r"attacks.names: 'autoattack' is not valid; valid: pgd, cw"):
        AttacksConfig(names=("autoattack",), implementation="torchattacks")
    with pytest.raises(ValueError, match=r"attacks.pgd.step_255: 0.5 is not valid"):
        PgdConfig(step_255=0.5)


def test_few_classes_are_refused_where_the_loss_is_not_defined() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    images, keys = torch.rand(2, 3, 2, 2), ["a", "b"]
    labels = model(images).argmax(1)
    build_attack("apgd_dlr", CONFIG)(model, images, labels, keys)
    with pytest.raises(ValueError, match="apgd_t: 3 classes are not valid; valid: 4 or more"):
        build_attack("apgd_t", CONFIG)(model, images, labels, keys)


def test_step_size_is_explicit() -> None:
    assert PgdConfig(step_255=0.5, step_relative=None).step(2 / 255) == pytest.approx(0.5 / 255)
    assert PgdConfig(step_relative=0.5).step(2 / 255) == pytest.approx(1 / 255)


def test_margins_hold_for_negative_logits() -> None:
    logits = torch.tensor([[-1.0, -5.0, -7.0, -9.0], [-3.0, -2.5, -4.0, -9.0]])
    labels = torch.tensor([0, 1])
    assert margin(logits, labels).tolist() == [-4.0, -0.5]
    assert dlr(logits, labels).tolist() == pytest.approx([-4 / 6, -0.5 / 1.5])
    assert dlr(7 * logits - 3, labels).tolist() == pytest.approx([-4 / 6, -0.5 / 1.5])
    assert targeted_dlr(logits, labels, torch.tensor([2, 0])).tolist() == pytest.approx([-6 / 7, -0.5 / 4])
    assert likely_wrong(logits, labels, 2).tolist() == [[1, 2], [0, 2]]


def test_checkpoints_are_those_of_the_authors() -> None:
    assert sorted(checkpoints(100)) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert sorted(checkpoints(5)) == [1, 2, 3, 4, 5]


def test_squares_shrink_as_published() -> None:
    sides = [square_side(query, 10_000, 0.8, 224, 224) for query in (1, 11, 51, 201, 501, 9000)]
    assert sides == [200, 142, 100, 71, 50, 9]


class Linear(nn.Module):
    """Class 1 where the pixels' mean is above 0.3, logits far below zero."""

    def forward(self, images: Tensor) -> Tensor:
        score = 40 * (images.mean((1, 2, 3)) - 0.3)
        return torch.stack((-score, score), 1) - 100


def test_cw_moves_pixels_at_the_ends_and_margins_below_zero() -> None:
    labels = torch.tensor([1, 0])
    images = torch.cat((torch.ones(1, 3, 4, 4), torch.zeros(1, 3, 4, 4)))
    ours = Cw(c=10.0, num_steps=300, learning_rate=0.05)(Linear(), images, labels, ["white", "black"])
    assert ours.success.all()
    config = AttacksConfig(implementation="torchattacks", cw=CwConfig(c=10.0, num_steps=300, learning_rate=0.05))
    assert not build_attack("cw", config)(Linear(), images, labels, ["white", "black"]).success.any()


def test_a_missing_torchattacks_is_said_with_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchattacks", None)
    with pytest.raises(ValueError, match=r"^attacks\.implementation: .* pip install --no-deps torchattacks==3\.5\.1$"):
        build_attack("pgd", AS_PUBLISHED)
    with pytest.raises(ValueError, match="torchattacks is not installed"):
        attack_benchmark.run(AttackBenchmarkConfig())
    assert build_attack("pgd", CONFIG).name == "pgd"


def test_cw_starts_at_the_picture() -> None:
    pictures = torch.rand(4, 3, 5, 5).round(decimals=1)
    assert torch.allclose(to_pictures(to_variables(pictures)), pictures, atol=1e-6)
    assert to_variables(pictures).isfinite().all()


def test_cw_reaches_the_confidence_it_is_asked_for(trained: Trained) -> None:
    result = attacked(trained, Cw(c=3.0, kappa=2.0, num_steps=60, learning_rate=0.05))
    hit = result.success & result.attacked
    assert hit.any()
    assert (margin(trained.model(result.adversarial[hit]), trained.labels[:60][hit]) >= 2.0 - 1e-3).all()


def test_steps_to_a_plane_are_the_shortest() -> None:
    generator = torch.Generator().manual_seed(0)
    points, normals = torch.rand(50, 20, generator=generator), torch.randn(50, 20, generator=generator)
    offsets = (normals * torch.rand(50, 20, generator=generator)).sum(1)
    moves = onto_plane(points, normals, offsets)
    there = points + moves
    assert torch.allclose((normals * there).sum(1), offsets, atol=1e-4)
    assert there.min() >= -1e-6
    assert there.max() <= 1 + 1e-6
    radius = moves.abs().amax(1, keepdim=True) * 0.99
    towards = (normals.sign() * (offsets - (normals * points).sum(1)).sign()[:, None] * radius + points).clamp(0, 1)
    short = (normals * towards).sum(1) - offsets
    assert (short.sign() == ((normals * points).sum(1) - offsets).sign()).all()
    unreachable = onto_plane(points, normals, torch.full((50,), 1e3)) + points
    assert torch.allclose(unreachable, (normals > 0).float(), atol=1e-6)


def test_the_ensemble_is_the_worst_of_its_members(trained: Trained) -> None:
    config = dataclasses.replace(CONFIG, cw=CwConfig(num_steps=5, c=0.1))
    ensemble = build_attack("ensemble4", config)
    assert isinstance(ensemble, Ensemble)
    assert [member.name for member in ensemble.members] == ["pgd", "cw", "apgd_dlr", "apgd_ce"]
    alone = [attacked(trained, member) for member in ensemble.members]
    together = attacked(trained, ensemble)
    assert torch.equal(together.success, worst_case([result.success for result in alone]))
    assert together.num_gradients.sum() < sum(result.num_gradients.sum() for result in alone)


def test_autoattack_is_the_standard_version() -> None:
    attack = build_attack("autoattack", CONFIG)
    assert isinstance(attack, Ensemble)
    budgets = [(m.name, getattr(m, "num_steps", None), getattr(m, "num_queries", None)) for m in attack.members]
    assert budgets == [("apgd_ce", 100, None), ("apgd_t", 100, None), ("fab_t", 100, None), ("square", None, 5000)]


def test_the_library_hides_none_of_its_pictures(trained: Trained) -> None:
    """The library attacks whole batches; its errors stay in, its global seeding does not get out."""
    with pytest.raises(ValueError, match="'fab_t' is unknown"):
        build_attack("fab_t", AS_PUBLISHED)
    result = attacked(trained, build_attack("apgd_ce", AS_PUBLISHED))
    assert result.attacked.all()
    assert int(result.num_gradients[0]) == 9


def test_pgd_keeps_what_it_found_on_the_way(trained: Trained) -> None:
    """Steps of twice the ball's radius bounce: the last iterate is often worse than an earlier one."""
    wild = attacked(trained, Pgd(eps=24 / 255, step=48 / 255, num_steps=6))
    config = dataclasses.replace(AS_PUBLISHED, pgd=PgdConfig(num_steps=6, step_relative=2.0))
    assert wild.success.sum() >= attacked(trained, build_attack("pgd", config)).success.sum()
