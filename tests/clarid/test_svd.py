"""Both solvers against dense SVDs, and the cases that break naive ones."""

import pytest
import torch

from clarep_ray.clarid.subspace_iteration import subspace_iteration
from clarep_ray.clarid.svd import SingularTriplets, block_lanczos, canonical_signs
from clarep_ray.config import SpectrumConfig
from tests.oracles import DenseOperator, largest_angle_sine


def with_spectrum(values: torch.Tensor, batch: int, dim: int, seed: int = 0) -> DenseOperator:
    """Return random matrices that have exactly these singular values."""
    generator = torch.Generator().manual_seed(seed)
    left = torch.linalg.qr(torch.randn(batch, dim + 20, dim, generator=generator))[0]
    right = torch.linalg.qr(torch.randn(batch, dim, dim, generator=generator))[0]
    return DenseOperator(left @ torch.diag(values) @ right)


def generators(count: int, seed: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(100 * seed + i) for i in range(count)]


SPECTRA = {
    "slow": lambda d: torch.arange(1, d + 1).float() ** -0.3,
    "medium": lambda d: torch.arange(1, d + 1).float() ** -0.8,
    "exponential": lambda d: 0.9 * torch.exp(-torch.arange(d) / 12) + 0.35 * torch.arange(1, d + 1).float() ** -0.25,
}


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("block_size", [2, 4, 8])
def test_block_lanczos_matches_the_dense_svd(spectrum: str, block_size: int) -> None:
    operator = with_spectrum(SPECTRA[spectrum](300), batch=3, dim=300)
    found = block_lanczos(operator.gram, 300, 20, generators(3), block_size=block_size)
    values, right = operator.exact(20)
    assert found.converged.all()
    errors = (found.singular_values.double() / values - 1).abs()
    assert errors[:, :10].max() <= 1e-4
    assert errors.max() <= 3e-3
    assert max(largest_angle_sine(found.right_vectors[i, :5], right[i, :5]) for i in range(3)) <= 1e-2
    gram = found.right_vectors @ found.right_vectors.mT
    assert (gram - torch.eye(20)).abs().max() <= 1e-5
    assert found.num_products.max() < 300


def test_error_estimates_cover_the_actual_errors() -> None:
    operator = with_spectrum(SPECTRA["slow"](300), batch=4, dim=300)
    found = block_lanczos(operator.gram, 300, 20, generators(4), tolerance=5e-2)
    values, _ = operator.exact(20)
    actual = (values.square() - found.singular_values.double().square()) / values[:, :1].square()
    assert (actual <= 2 * found.value_errors + 1e-6).all()


@pytest.mark.parametrize("max_products", [41, 43, 85])
def test_the_certificate_holds_where_the_limit_cuts_the_iteration_short(max_products: int) -> None:
    operator = with_spectrum(SPECTRA["slow"](300), batch=3, dim=300)
    found = block_lanczos(
        operator.gram, 300, 20, generators(3), block_size=8, tolerance=1e-7, max_products=max_products
    )
    image = operator.gram(found.right_vectors).double()
    squares = found.singular_values.double().square()
    actual = torch.linalg.vector_norm(image - squares[..., None] * found.right_vectors.double(), dim=2) / squares
    torch.testing.assert_close(found.residuals.double(), actual, rtol=0.05, atol=3e-5)
    assert max_products <= int(found.num_products.max()) < max_products + 8


def test_a_sample_does_not_depend_on_its_neighbours() -> None:
    matrices = with_spectrum(SPECTRA["slow"](120), batch=4, dim=120).matrices
    alone = matrices.clone()
    alone[1:] = with_spectrum(SPECTRA["medium"](120), batch=3, dim=120, seed=5).matrices
    first = block_lanczos(DenseOperator(matrices).gram, 120, 10, generators(4))
    second = block_lanczos(DenseOperator(alone).gram, 120, 10, generators(1) + generators(3, seed=7))
    assert torch.equal(first.right_vectors[0], second.right_vectors[0])
    assert torch.equal(first.singular_values[0], second.singular_values[0])
    assert first.num_products[0] == second.num_products[0]


def test_one_bad_sample_leaves_the_others_untouched() -> None:
    operator = with_spectrum(SPECTRA["slow"](60), batch=3, dim=60)
    clean = block_lanczos(operator.gram, 60, 6, generators(3))

    def spoiled(vectors: torch.Tensor) -> torch.Tensor:
        out = operator.gram(vectors)
        out[1, 0, 3] = float("nan")
        return out

    found = block_lanczos(spoiled, 60, 6, generators(3))
    assert found.finite.tolist() == [True, False, True]
    assert torch.equal(found.right_vectors[[0, 2]], clean.right_vectors[[0, 2]])
    assert not found.right_vectors[1].any()


@pytest.mark.parametrize("rank", [0, 1, 5])
def test_rank_deficient_operators_terminate_with_the_right_values(rank: int) -> None:
    values = torch.zeros(40)
    values[:rank] = torch.linspace(2, 1, rank)
    operator = with_spectrum(values, batch=2, dim=40)
    found = block_lanczos(operator.gram, 40, 8, generators(2))
    expected = torch.zeros(8)
    expected[: min(rank, 8)] = values[: min(rank, 8)]
    assert (found.singular_values - expected).abs().max() <= 2e-3
    assert found.finite.all()


def test_repeated_singular_values_are_all_found() -> None:
    values = torch.cat([torch.full((6,), 2.0), torch.linspace(1, 0.1, 54)])
    operator = with_spectrum(values, batch=2, dim=60)
    found = block_lanczos(operator.gram, 60, 8, generators(2), block_size=4)
    assert (found.singular_values[:, :6] - 2).abs().max() <= 1e-3


def test_tiny_spaces_are_solved_exactly() -> None:
    operator = with_spectrum(torch.tensor([3.0, 1.0]), batch=5, dim=2)
    found = block_lanczos(operator.gram, 2, 2, generators(5), block_size=4)
    torch.testing.assert_close(found.singular_values, torch.tensor([3.0, 1.0]).expand(5, 2), rtol=1e-5, atol=0)


def test_more_directions_than_columns_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"num_directions: 9 is outside 1\.\.4"):
        block_lanczos(lambda v: v, 4, 9, generators(1))


def test_the_published_iteration_finds_a_well_separated_space() -> None:
    operator = with_spectrum(0.5 ** torch.arange(50).float(), batch=2, dim=50)
    found: SingularTriplets = subspace_iteration(operator.gram, 50, 6, generators(2))
    values, right = operator.exact(6)
    assert (found.singular_values.double() / values - 1).abs().max() <= 1e-3
    assert max(largest_angle_sine(found.right_vectors[i], right[i]) for i in range(2)) <= 1e-2
    assert operator.products == found.num_products.max()


def test_signs_are_fixed_by_the_largest_component() -> None:
    rows = torch.tensor([[[0.1, -0.9, 0.2], [0.5, 0.5, -0.5], [-0.5, 0.5, 0.5]]])
    expected = torch.tensor([[[-0.1, 0.9, -0.2], [0.5, 0.5, -0.5], [0.5, -0.5, -0.5]]])
    assert torch.equal(canonical_signs(rows), expected)


def test_the_published_iteration_stops_as_published() -> None:
    """The published code asks for a movement below 1e-3 only after eleven iterations, and so takes twelve or more."""
    operator = with_spectrum(torch.tensor([8.0, 4.0, 0.01, 0.001]), batch=2, dim=4)
    assert subspace_iteration(operator.gram, 4, 2, generators(2)).num_products.tolist() == [24, 24]
    published = SpectrumConfig(solver="subspace_iteration")
    assert (published.stops_at, SpectrumConfig().stops_at) == (1e-3, 5e-3)
    assert SpectrumConfig(solver="subspace_iteration", tolerance=0.01).stops_at == 0.01
