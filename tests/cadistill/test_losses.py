"""The losses against loops written from the formulas, in double precision, and their invariances (bar A4)."""

import math

import pytest
import torch

from clarep_ray.cadistill.losses import linear_cka, loss_align, loss_cka, loss_separate

TAU = 0.1


def batch(size: int = 9, width: int = 5, classes: int = 3, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    features, canonical = torch.randn(2, size, width, dtype=torch.float64, generator=generator)
    return features, canonical, torch.randint(classes, (size,), generator=generator)


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(a @ b / a.norm() / b.norm())


def align_by_loops(features, canonical, labels) -> float:
    size, total = len(labels), 0.0
    for i in range(size):
        members = [p for p in range(size) if labels[p] == labels[i]]
        bottom = sum(math.exp(cosine(features[i], canonical[a]) / TAU) for a in range(size))
        total += sum(math.log(math.exp(cosine(features[i], canonical[p]) / TAU) / bottom) for p in members) / len(
            members
        )
    return -total / size


def separate_by_loops(canonical, labels) -> float:
    size, total = len(labels), 0.0
    for i in range(size):
        rest = [a for a in range(size) if a != i]
        members = [p for p in rest if labels[p] == labels[i]]
        bottom = sum(math.exp(cosine(canonical[i], canonical[a]) / TAU) for a in rest)
        if members:
            total -= sum(math.log(math.exp(cosine(canonical[i], canonical[p]) / TAU) / bottom) for p in members) / len(
                members
            )
        elif rest:
            total += math.log(bottom)
    return total / size


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("classes", [1, 3, 30])
def test_contrastive_losses_match_the_formulas(seed: int, classes: int) -> None:
    features, canonical, labels = batch(classes=classes, seed=seed)
    assert loss_align(features, canonical, labels, TAU).item() == pytest.approx(
        align_by_loops(features, canonical, labels), abs=1e-10
    )
    assert loss_separate(canonical, labels, TAU).item() == pytest.approx(
        separate_by_loops(canonical, labels), abs=1e-10
    )


def test_lone_samples_contribute_their_denominator_alone() -> None:
    _, canonical, _ = batch(size=4)
    unit = canonical / canonical.norm(dim=1, keepdim=True)
    similarity = (unit @ unit.T / TAU).fill_diagonal_(-torch.inf)
    expected = similarity.logsumexp(1).mean()
    torch.testing.assert_close(loss_separate(canonical, torch.arange(4), TAU), expected)
    assert loss_separate(canonical[:1], torch.zeros(1, dtype=torch.long), TAU) == 0


@pytest.mark.parametrize("classes", [1, 3, 30])
def test_gradients_match_finite_differences(classes: int) -> None:
    features, canonical, labels = batch(size=6, width=3, classes=classes)
    teacher = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    features.requires_grad_(True)
    canonical.requires_grad_(True)
    assert torch.autograd.gradcheck(lambda f, c: loss_align(f, c, labels, TAU), (features, canonical), atol=1e-6)
    assert torch.autograd.gradcheck(lambda c: loss_separate(c, labels, TAU), (canonical,), atol=1e-6)
    assert torch.autograd.gradcheck(lambda f, c: loss_cka(f, c, teacher), (features, canonical), atol=1e-6)


@pytest.mark.parametrize(("size", "width"), [(8, 20), (40, 6)])
def test_cka_invariances(size: int, width: int) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(size, width, dtype=torch.float64, generator=generator)
    y = torch.randn(size, width + 3, dtype=torch.float64, generator=generator)
    turn = torch.linalg.qr(torch.randn(width, width, dtype=torch.float64, generator=generator))[0]
    assert linear_cka(x, x).item() == pytest.approx(1, abs=1e-12)
    assert linear_cka(x, y).item() == pytest.approx(linear_cka(y, x).item(), abs=1e-12)
    assert linear_cka(3 * x @ turn + 5, y).item() == pytest.approx(linear_cka(x, y).item(), abs=1e-12)
    assert 0 <= linear_cka(x, y).item() <= 1


def test_both_forms_of_cka_agree() -> None:
    generator = torch.Generator().manual_seed(2)
    x, y = torch.randn(2, 12, 12, dtype=torch.float64, generator=generator)
    wide = torch.cat([x, torch.zeros(12, 5, dtype=torch.float64)], 1)
    assert linear_cka(wide, y).item() == pytest.approx(linear_cka(x, y).item(), abs=1e-12)


def debiased_by_hsic(x: torch.Tensor, y: torch.Tensor) -> float:
    """Song et al. 2012, Eq. 5, in matrices that are not centred."""
    count = len(x)
    ones = torch.ones(count, dtype=torch.float64)

    def hsic(a: torch.Tensor, b: torch.Tensor) -> float:
        k, m = (a @ a.T).fill_diagonal_(0), (b @ b.T).fill_diagonal_(0)
        middle = float(ones @ k @ ones) * float(ones @ m @ ones) / ((count - 1) * (count - 2))
        return (float((k @ m).trace()) + middle - 2 / (count - 2) * float(ones @ k @ m @ ones)) / (count * (count - 3))

    return hsic(x, y) / math.sqrt(hsic(x, x) * hsic(y, y))


@pytest.mark.parametrize(("size", "width"), [(8, 20), (40, 6)])
def test_debiased_cka_is_the_unbiased_hsic_and_keeps_the_invariances(size: int, width: int) -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(size, width, dtype=torch.float64, generator=generator) + 2
    y = x @ torch.randn(width, 7, dtype=torch.float64, generator=generator)
    turn = torch.linalg.qr(torch.randn(width, width, dtype=torch.float64, generator=generator))[0]
    found = linear_cka(x, y, "debiased").item()
    assert found == pytest.approx(debiased_by_hsic(x, y), abs=1e-10)
    assert linear_cka(x, x, "debiased").item() == pytest.approx(1, abs=1e-12)
    assert linear_cka(3 * x @ turn + 5, y, "debiased").item() == pytest.approx(found, abs=1e-10)


def test_only_the_debiased_estimator_sees_that_small_batches_have_nothing_in_common() -> None:
    generator = torch.Generator().manual_seed(4)
    pairs = [torch.randn(2, 32, 2048, generator=generator) for _ in range(20)]
    biased, debiased = (torch.stack([linear_cka(x, y, kind) for x, y in pairs]) for kind in ("biased", "debiased"))
    assert biased.mean() > 0.95
    assert debiased.mean().abs() < 0.05


def test_a_debiased_batch_must_be_large_enough() -> None:
    with pytest.raises(ValueError, match="debiased needs a batch of 4 or more; this one has 3"):
        linear_cka(torch.randn(3, 2), torch.randn(3, 2), "debiased")


def test_features_without_spread_give_finite_gradients() -> None:
    for estimator in ("biased", "debiased"):
        flat = torch.ones(6, 3, requires_grad=True)
        linear_cka(flat, torch.randn(6, 4), estimator).backward()
        assert flat.grad is not None
        assert flat.grad.isfinite().all()
