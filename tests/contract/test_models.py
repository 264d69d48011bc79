"""What every registered model keeps to, on its small random version; and folders that a training here has written."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch

from clarep_ray import models
from clarep_ray.clarid.jacobian import FeatureJacobian
from clarep_ray.clarid.sampling import decode, guided_eps, invert
from clarep_ray.clarid.schedule import check_noisy, path_to
from clarep_ray.config import ModelConfig
from clarep_ray.models import class_unet, digits_dit
from clarep_ray.models.adapter import Adapter, NetworkAdapter
from clarep_ray.models.cdm_labels import CdmLabels

WITHOUT_NULL_CONDITION = ("class_unet", "edm")
OWN = ("class_unet of grey images", "digits_dit of own classes")
"""Trained here with label dropout: three classes of a user's own, read from a folder."""


@pytest.fixture(scope="module", params=sorted((*models.MODELS, *OWN)))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(name: str, tmp_path_factory: pytest.TempPathFactory) -> Adapter:
    return make(name, tmp_path_factory.mktemp("weights"))


def make(name: str, folder: Path, precision: Any = "float32") -> Adapter:
    """Return the small random model of a family, or one of `OWN` by way of `folder`."""
    family, weights = name.partition(" ")[0], "tiny"
    if name in OWN:
        _write_own(family, folder)
        weights = str(folder)
    return models.build(ModelConfig(name=family, weights=weights, precision=precision))


def _write_own(family: str, folder: Path) -> None:
    labels = CdmLabels(class_names=("ankle boot", "T-shirt/top", "0"), label_dropout=0.1)
    torch.manual_seed(0)
    if family == "digits_dit":
        sizes = digits_dit.DigitsDitArchitecture(image_size=12, patch_size=3, hidden_size=16, num_blocks=2, num_heads=2)
        network = digits_dit.make_network(sizes, 3)
        digits_dit.save(network, sizes, folder, torch.float32, labels, "epsilon")
        return
    from diffusers.models.unets.unet_2d import UNet2DModel

    config: Any = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "attention_head_dim": 8}
    config |= {"up_block_types": ("AttnUpBlock2D", "UpBlock2D"), "layers_per_block": 1, "num_class_embeds": 4}
    grey: Any = {"in_channels": 1, "out_channels": 1, "sample_size": 8}
    network = UNet2DModel(block_out_channels=(8, 16), norm_num_groups=4, **config, **grey)
    class_unet.save(network, "v_prediction", labels, folder)


def latents(model: Adapter, count: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, *model.latent_shape, generator=torch.Generator().manual_seed(seed))


def middle_time(model: Adapter) -> float:
    return model.schedule.times(10)[6].item()


def middle_layer(model: Adapter) -> str:
    return model.feature_layers[len(model.feature_layers) // 2]


def test_features_are_read_at_noisy_times_only(model: Adapter) -> None:
    clean, noisy = model.schedule.times(500)[:2].tolist()
    check_noisy(model.schedule, noisy)
    for t in (clean, clean - 1):
        with pytest.raises(ValueError, match=rf"{t:g} is no noisy time, .*; valid: more than {clean:g} \(clean\)"):
            check_noisy(model.schedule, t)
    for t in (1e4, float("nan")):
        with pytest.raises(ValueError, match=r"valid: .* but not the clean time"):
            check_noisy(model.schedule, t)


def test_a_layer_that_is_named_twice_is_read_once(model: Adapter) -> None:
    layers = [middle_layer(model), model.feature_layers[-1], middle_layer(model)]
    x_t, t, cond = latents(model, 1), middle_time(model), model.cond(torch.tensor([1]))
    twice, once = model.layer_means(x_t, t, cond, layers), model.layer_means(x_t, t, cond, layers[:2])
    assert list(twice) == list(once)
    assert all(torch.equal(twice[layer], once[layer]) for layer in once)


def test_eps_has_the_shape_of_the_latents_in_float32(model: Adapter) -> None:
    x_t = latents(model)
    eps = model.eps(x_t, middle_time(model), model.cond(torch.tensor([0, 1, 2])))
    assert eps.shape == x_t.shape
    assert eps.dtype == torch.float32
    assert eps.std() > 1e-3


def test_samples_do_not_influence_each_other(model: Adapter) -> None:
    t, labels = middle_time(model), torch.tensor([0, 1, 2])
    x_t = latents(model)
    other = x_t.clone()
    other[1:] = latents(model, 2, seed=5)
    for read in (
        lambda x: model.eps(x, t, model.cond(labels)),
        lambda x: model.features(x, t, model.cond(labels), middle_layer(model)).detach(),
    ):
        torch.testing.assert_close(read(x_t)[0], read(other)[0], rtol=0, atol=1e-5)


def test_the_condition_matters_and_unknown_labels_are_refused(model: Adapter) -> None:
    x_t, t = latents(model, 1), middle_time(model)
    first, second = (model.eps(x_t, t, model.cond(torch.tensor([label]))) for label in (0, 1))
    assert (first - second).abs().max() > 1e-5
    with pytest.raises(ValueError, match=r"labels: 100000 is outside 0\.\."):
        model.cond(torch.tensor([100000]))
    assert not model.class_names or len(set(model.class_names)) == len(model.class_names)


def test_the_null_condition_is_another_one_or_refused_with_what_is_valid(model: Adapter, name: str) -> None:
    x_t, t = latents(model, 2), middle_time(model)
    if name in WITHOUT_NULL_CONDITION:
        with pytest.raises(ValueError, match="valid: guidance 1"):
            model.null_cond(2)
        return
    null = model.null_cond(2)
    assert (model.eps(x_t, t, null) - model.eps(x_t, t, model.cond(torch.tensor([0, 1])))).abs().max() > 1e-5


def test_time_matters(model: Adapter) -> None:
    times, cond = model.schedule.times(10), model.cond(torch.tensor([0]))
    early, late = (model.features(latents(model, 1), times[i].item(), cond, middle_layer(model)) for i in (2, 9))
    assert (early - late).abs().max() > 1e-4


@pytest.mark.parametrize("position", ["first", "middle", "last"])
def test_early_exit_equals_the_full_forward_at_every_layer(model: Adapter, position: str) -> None:
    assert isinstance(model, NetworkAdapter)
    layers = model.feature_layers
    layer = {"first": layers[0], "middle": middle_layer(model), "last": layers[-1]}[position]
    x_t, t, cond = latents(model, 2), middle_time(model), model.cond(torch.tensor([0, 1]))
    seen: list[torch.Tensor] = []

    def note(_module: Any, _inputs: Any, output: Any) -> None:
        seen.append(output[0] if isinstance(output, tuple) else output)

    handle = model.network.get_submodule(layer).register_forward_hook(note)
    with torch.no_grad():
        model.forward(x_t, t, cond)
        handle.remove()
        torch.testing.assert_close(model.features(x_t, t, cond, layer), seen[0])


def test_a_layer_that_is_not_there_is_named_with_the_valid_ones(model: Adapter) -> None:
    with pytest.raises(ValueError, match=r"layer: 'attic' is not part of the model"):
        model.features(latents(model, 1), middle_time(model), model.cond(torch.tensor([0])), "attic")


def test_jacobian_products_match_central_differences_and_each_other(model: Adapter) -> None:
    x_t, t, cond = latents(model, 2).double(), middle_time(model), model.cond(torch.tensor([0, 1]))
    assert isinstance(model, NetworkAdapter)
    model.network.double()
    try:
        cond = cond.double() if cond.is_floating_point() else cond
        read = lambda x: model.features(x, t, cond, middle_layer(model))  # noqa: E731
        jacobian = FeatureJacobian(read, x_t)
        v = torch.randn(2, 3, jacobian.dim, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        step = 1e-4
        pushed = jacobian.matvec(v)
        for i in range(3):
            shift = step * v[:, i].reshape(x_t.shape)
            difference = ((read(x_t + shift) - read(x_t - shift)) / (2 * step)).detach().flatten(1)
            torch.testing.assert_close(pushed[:, i].double(), difference, rtol=2e-3, atol=2e-4)
        u = torch.randn(2, 3, jacobian.dim_out, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        left, right = (pushed * u).sum(-1), (v * jacobian.rmatvec(u)).sum(-1)
        torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-2)
    finally:
        model.network.float()


def test_pooled_features_are_one_vector_a_sample(model: Adapter) -> None:
    cond = model.cond(torch.tensor([0, 1, 2]))
    pooled = model.pool(model.features(latents(model), middle_time(model), cond, model.feature_layers[-1]))
    assert pooled.ndim == 2
    assert len(pooled) == 3


def test_the_means_of_many_layers_are_those_of_each(model: Adapter) -> None:
    x_t, t, cond = latents(model, 2), middle_time(model), model.cond(torch.tensor([0, 1]))
    means = model.layer_means(x_t, t, cond, model.feature_layers)
    assert list(means) == list(model.feature_layers)
    for layer, mean in means.items():
        torch.testing.assert_close(mean, model.pool(model.features(x_t, t, cond, layer)).detach())


def test_pixels_and_latents_have_the_sizes_that_are_declared(model: Adapter) -> None:
    pixels = torch.rand(2, 3, model.image_size, model.image_size) * 2 - 1
    encoded = model.encode(pixels)
    assert encoded.shape[1:] == model.latent_shape
    assert torch.equal(encoded, model.encode(pixels)), "encoding draws no noise"
    assert model.decode(encoded).shape == pixels.shape
    assert encoded.dtype == model.decode(encoded).dtype == torch.float32


def test_noise_grows_along_the_grid(model: Adapter) -> None:
    times = model.schedule.times(20)
    alpha, sigma = model.schedule.alpha_sigma(times)
    assert (times.diff() > 0).all()
    assert ((sigma / alpha).diff() > 0).all()
    assert len(times) == 21


def test_decoding_undoes_inversion_better_with_more_steps(model: Adapter) -> None:
    x_0, cond = latents(model, 2), model.cond(torch.tensor([0, 1]))
    denoise = guided_eps(model, cond, None, 1.0)
    errors = []
    for steps in (10, 100):
        grid = model.schedule.times(steps)
        path = path_to(grid, grid[steps // 2].item())
        errors.append((decode(denoise, invert(denoise, x_0, model, path), model, path) - x_0).norm().item())
    assert errors[1] < 0.7 * errors[0]


def test_the_small_model_is_the_same_on_every_call(model: Adapter, name: str, tmp_path: Path) -> None:
    assert isinstance(model, NetworkAdapter)
    again = make(name, tmp_path)
    assert isinstance(again, NetworkAdapter)
    for (key, first), (_, second) in zip(
        model.network.state_dict().items(), again.network.state_dict().items(), strict=True
    ):
        assert torch.equal(first, second), key


def test_guidance_touches_only_the_channels_it_is_told_to(model: Adapter, name: str) -> None:
    if name in WITHOUT_NULL_CONDITION or model.latent_shape[0] < 3:
        return
    x_t, t, cond, null = latents(model, 2), middle_time(model), model.cond(torch.tensor([0, 1])), model.null_cond(2)
    plain, full = model.eps(x_t, t, cond), guided_eps(model, cond, null, 4.0)(x_t, t)
    part = guided_eps(model, cond, null, 4.0, guided_channels=2)(x_t, t)
    assert torch.equal(part[:, :2], full[:, :2])
    assert torch.equal(part[:, 2:], plain[:, 2:])
    assert (full[:, 2:] - plain[:, 2:]).abs().max() > 1e-5


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_is_the_network_s_alone_and_changes_little(
    model: Adapter, name: str, precision: str, tmp_path: Path
) -> None:
    half = make(name, tmp_path, precision)
    assert isinstance(half, NetworkAdapter)
    assert {parameter.dtype for parameter in half.network.parameters()} == {getattr(torch, precision)}
    x_t, t, cond = latents(model, 2), middle_time(model), model.cond(torch.tensor([0, 1]))
    eps = half.eps(x_t, t, half.cond(torch.tensor([0, 1])))
    assert eps.dtype == torch.float32
    error = (eps - model.eps(x_t, t, cond)).norm() / model.eps(x_t, t, cond).norm()
    assert 0 < error < 0.05


COMPILED = [pytest.param(name, marks=[] if name == "dit" else pytest.mark.nightly) for name in sorted(models.MODELS)]


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Calls within the package without the checks of types and shapes that tests add: no compiler follows them."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", COMPILED)
def test_compiled_the_noise_prediction_changes_by_rounding_and_features_not_at_all(name: str) -> None:
    plain = models.build_tiny(name)
    model = models.build(ModelConfig(name=name, weights="tiny", compile=True))
    x_t, t, labels = latents(model, 3), middle_time(model), torch.tensor([0, 1, 2])
    eager, fast = plain.eps(x_t, t, plain.cond(labels)), model.eps(x_t, t, model.cond(labels))
    assert 0 < (fast - eager).norm() < 1e-5 * eager.norm(), "equal bits would mean that nothing was compiled"
    others = torch.cat([latents(model, 2, seed=1), x_t[:1]])
    assert torch.equal(model.eps(others, t, model.cond(torch.tensor([4, 3, 0])))[2], fast[0]), "a neighbour was felt"
    if name not in WITHOUT_NULL_CONDITION:
        assert torch.allclose(model.eps(x_t, t, model.null_cond(3)), plain.eps(x_t, t, plain.null_cond(3)), atol=1e-4)
    layer = middle_layer(model)
    read = model.features(x_t, t, model.cond(labels), layer)
    assert torch.equal(read, plain.features(x_t, t, plain.cond(labels), layer))
    jacobian = FeatureJacobian(lambda x: model.features(x, t, model.cond(labels), layer), x_t)
    assert jacobian.gram(x_t.flatten(1)[:, None]).isfinite().all()


def test_without_a_compiler_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match=r"model\.compile: True is not valid .* 'no-such-compiler' is not on the path"):
        models.build(ModelConfig(name="dit", weights="tiny", compile=True))
