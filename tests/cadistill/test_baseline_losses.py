"""The baselines' losses against loops in double precision, and their gradients."""

import math

import pytest
import torch
import torch.nn.functional as F

from clarep_ray.cadistill import baseline_losses as losses
from clarep_ray.cadistill.losses import loss_supcon


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


LABELS = torch.tensor([0, 2, 1, 2, 0])


def softmax(row: torch.Tensor) -> list[float]:
    weights = [math.exp(float(value)) for value in row]
    return [weight / sum(weights) for weight in weights]


def kl(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def test_kd_and_dkd_are_their_formulas() -> None:
    student, teacher, warm = drawn(5, 4), drawn(5, 4, seed=1), 3.0
    by_kd, by_target, by_others = 0.0, 0.0, 0.0
    for i, label in enumerate(LABELS.tolist()):
        p, q = softmax(teacher[i] / warm), softmax(student[i] / warm)
        by_kd += kl(p, q) / 5
        by_target += kl([p[label], 1 - p[label]], [q[label], 1 - q[label]]) / 5
        rest = [c for c in range(4) if c != label]
        by_others += kl([p[c] / (1 - p[label]) for c in rest], [q[c] / (1 - q[label]) for c in rest]) / 5
    assert losses.loss_kd(student, teacher, warm).item() == pytest.approx(9 * by_kd, abs=1e-12)
    found = losses.loss_dkd(student, teacher, LABELS, warm, 1.0, 8.0).item()
    assert found == pytest.approx(9 * (by_target + 8 * by_others), abs=1e-10)
    assert losses.loss_kd(student, student).item() == pytest.approx(0, abs=1e-12)


def test_rkd_is_its_formula_and_knows_no_scale() -> None:
    student, teacher = drawn(5, 3), drawn(5, 6, seed=1)

    def relations(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        distances = torch.tensor([[float((a - b).norm()) for b in x] for a in x], dtype=torch.float64)
        angles = torch.zeros(5, 5, 5, dtype=torch.float64)
        for j in range(5):
            for i in range(5):
                for k in range(5):
                    if j not in (i, k):
                        angles[j, i, k] = F.cosine_similarity(x[i] - x[j], x[k] - x[j], dim=0)
        return distances * 20 / distances.sum(), angles

    (d_s, a_s), (d_t, a_t) = relations(student), relations(teacher)
    expected = 25 * F.smooth_l1_loss(d_s, d_t) + 50 * F.smooth_l1_loss(a_s, a_t)
    assert losses.loss_rkd(student, teacher).item() == pytest.approx(expected.item(), rel=1e-6)
    assert losses.loss_rkd(7 * student + 1, student).item() == pytest.approx(0, abs=1e-8)


def test_attention_maps_have_unit_norm_and_one_side() -> None:
    maps = drawn(2, 3, 8, 8)
    found = losses.attention_map(maps, 4)
    by_hand = maps.square().mean(1).unfold(1, 2, 2).unfold(2, 2, 2).mean((3, 4)).flatten(1)
    torch.testing.assert_close(found, by_hand / by_hand.norm(dim=1, keepdim=True))


def test_supcon_is_the_official_loss_formula_times_temperature_over_its_base() -> None:
    features = drawn(5, 3)
    unit = features / features.norm(dim=1, keepdim=True)
    total = 0.0
    for i in range(5):
        bottom = sum(math.exp(float(unit[i] @ unit[a]) / 0.1) for a in range(5) if a != i)
        positives = [p for p in range(5) if p != i and LABELS[p] == LABELS[i]]
        total -= sum(float(unit[i] @ unit[p]) / 0.1 - math.log(bottom) for p in positives) / max(1, len(positives))
    assert loss_supcon(features, LABELS).item() == pytest.approx(0.1 / 0.07 * total / 5, abs=1e-10)
    assert loss_supcon(features, LABELS, 0.07).item() != pytest.approx(total / 5, abs=1e-3)


def test_gradients_match_finite_differences() -> None:
    x, teacher = drawn(5, 4).requires_grad_(True), drawn(5, 4, seed=1)
    for function in (
        lambda z: losses.loss_kd(z, teacher),
        lambda z: losses.loss_dkd(z, teacher, LABELS),
        lambda z: losses.loss_rkd(z, teacher),
        lambda z: losses.loss_fitnet(z, teacher),
        lambda z: losses.loss_attention(losses.attention_map(z.view(5, 1, 2, 2), 2), teacher),
        lambda z: loss_supcon(z, LABELS),
    ):
        assert torch.autograd.gradcheck(function, (x,), atol=1e-6)


def test_equal_samples_have_finite_gradients() -> None:
    x = torch.ones(4, 3, requires_grad=True)
    losses.loss_rkd(x, drawn(4, 3).float()).backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
