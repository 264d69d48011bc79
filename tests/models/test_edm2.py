"""EDM2: released names and sizes, preserved magnitudes, its latents, its guide."""

from pathlib import Path

import pytest
import torch

from clarep_ray import models
from clarep_ray.config import ModelConfig
from clarep_ray.models.edm import save
from clarep_ray.models.edm2 import Edm2, Edm2Autoencoder, tiny_sizes
from clarep_ray.models.edm2_network import (
    Edm2Architecture,
    Edm2Network,
    MpConv,
    MpFourier,
    mp_cat,
    mp_silu,
    mp_sum,
    unit_magnitude,
)
from clarep_ray.models.edm_folder import save_network


@pytest.fixture(scope="module")
def tiny() -> Edm2:
    model = models.build_tiny("edm2")
    assert isinstance(model, Edm2)
    return model


def magnitude(x: torch.Tensor) -> float:
    return x.square().mean().sqrt().item()


@pytest.mark.parametrize(
    ("channels", "count"),
    [(128, 124.713), (192, 280.213), (256, 497.808), (320, 777.498), (384, 1119.284), (448, 1523.165)],
)
def test_the_published_sizes_have_the_published_number_of_parameters(channels: int, count: float) -> None:
    """XS to XXL on ImageNet-512: 125, 280, 498, 777, 1119, 1523 million (Table 2)."""
    with torch.device("meta"):
        network = Edm2Network(Edm2Architecture(model_channels=channels))
    assert sum(value.numel() for value in network.parameters()) / 1e6 == pytest.approx(count, abs=6e-4)


def test_parameters_are_named_and_shaped_as_in_the_released_checkpoints() -> None:
    with torch.device("meta"):
        network = Edm2Network(Edm2Architecture())
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert shapes["out_gain"] == ()
    assert shapes["emb_fourier.phases"] == (192,)
    assert shapes["emb_noise.weight"] == (768, 192)
    assert shapes["emb_label.weight"] == (768, 1000)
    assert shapes["enc.64x64_conv.weight"] == (192, 5, 3, 3)
    assert shapes["enc.32x32_block0.conv_skip.weight"] == (384, 192, 1, 1)
    assert shapes["enc.32x32_block0.conv_res0.weight"] == (384, 384, 3, 3)
    assert shapes["dec.8x8_in0.attn_qkv.weight"] == (2304, 768, 1, 1)
    assert shapes["dec.32x32_block0.conv_res0.weight"] == (384, 960, 3, 3)
    assert shapes["dec.64x64_up.emb_gain"] == ()
    assert not any(name.endswith("bias") for name in shapes)


def test_every_layer_keeps_the_magnitude_of_random_input() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(8, 64, 16, 16), torch.randn(8, 32, 16, 16)
    assert magnitude(mp_silu(x)) == pytest.approx(1, abs=0.01)
    assert magnitude(mp_sum(x, torch.randn_like(x), 0.3)) == pytest.approx(1, abs=0.01)
    assert magnitude(MpConv(64, 128, 1)(x)) == pytest.approx(1, abs=0.05)
    assert magnitude(MpFourier(512)(torch.randn(64))) == pytest.approx(1, abs=0.05)
    joined = mp_cat(x, y, 0.5)
    assert joined.square().sum((1, 2, 3)).mean().item() == pytest.approx(96 * 256, rel=0.02)
    assert joined[:, :64].square().sum().item() == pytest.approx(joined[:, 64:].square().sum().item(), rel=0.02)
    torch.testing.assert_close(unit_magnitude(3 * x, (1,)).square().mean(1), torch.ones(8, 16, 16), atol=1e-3, rtol=0)


def test_the_length_of_the_weights_does_not_matter() -> None:
    torch.manual_seed(0)
    layer, x = MpConv(8, 4, 3), torch.randn(1, 8, 5, 5)
    before = layer(x)
    with torch.no_grad():
        layer.weight.mul_(torch.tensor([1.0, 2.0, 5.0, 10.0])[:, None, None, None])
    torch.testing.assert_close(layer(x), before, rtol=1e-3, atol=1e-3)


def test_latents_have_the_published_normalisation_and_pixels_lie_in_0_to_1(tiny: Edm2) -> None:
    autoencoder, pixels = tiny.autoencoder, torch.rand(1, 3, 32, 32) * 2 - 1
    assert isinstance(autoencoder, Edm2Autoencoder)
    with torch.no_grad():
        raw = autoencoder.vae.encode((pixels + 1) / 2).latent_dist.mean
        latents = autoencoder.encode(pixels)
        for channel, (mean, std) in enumerate(zip((5.81, 3.25, 0.12, -2.15), (4.17, 4.62, 3.71, 3.28), strict=True)):
            torch.testing.assert_close(latents[:, channel], (raw[:, channel] - mean) * 0.5 / std)
        expected = autoencoder.vae.decode(raw).sample * 2 - 1
        torch.testing.assert_close(autoencoder.decode(latents), expected, rtol=1e-4, atol=1e-4)


def test_the_null_branch_is_the_guide(tiny: Edm2) -> None:
    guide = tiny.guide
    assert isinstance(guide, Edm2Network)
    x_t, null = torch.randn(2, *tiny.latent_shape), tiny.null_cond(2)
    with torch.no_grad():
        output = guide(x_t / 1.25**0.5, torch.zeros(2), torch.zeros(2, 0))
    torch.testing.assert_close(tiny.eps(x_t, 1.0, null), x_t / 1.25 - 0.5 / 1.25**0.5 * output)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_folder_gives_the_same_model_back(tiny: Edm2, precision: str, tmp_path: Path) -> None:
    save(tiny, tmp_path)
    model = models.build(ModelConfig(name="edm2", weights=str(tmp_path), precision=precision))  # type: ignore[arg-type]
    assert isinstance(model, Edm2)
    close = {"rtol": 1e-5, "atol": 1e-5} if precision == "float32" else {"rtol": 0.05, "atol": 0.05}
    x_t, cond = torch.randn(2, *tiny.latent_shape), tiny.cond(torch.tensor([0, 9]))
    for condition in (cond, tiny.null_cond(2)):
        torch.testing.assert_close(model.eps(x_t, 0.7, condition), tiny.eps(x_t, 0.7, condition), **close)
    pixels = torch.rand(1, 3, 32, 32) * 2 - 1
    torch.testing.assert_close(model.encode(pixels), tiny.encode(pixels))


def test_pixel_networks_need_no_vae_and_latent_ones_say_so(tiny: Edm2, tmp_path: Path) -> None:
    sizes = tiny_sizes(label_dim=3, model_channels=16, img_channels=3)
    save(Edm2(Edm2Network(sizes)), tmp_path / "pixels")
    model = models.build(ModelConfig(name="edm2", weights=str(tmp_path / "pixels")))
    assert model.image_size == 8
    with pytest.raises(ValueError, match=r"no guide/ beside them"):
        model.null_cond(1)
    latent = tiny_sizes(label_dim=3, model_channels=16)
    save_network(Edm2Network(latent).state_dict(), latent, tmp_path / "latents")
    with pytest.raises(ValueError, match=r"has no vae/config\.json"):
        models.build(ModelConfig(name="edm2", weights=str(tmp_path / "latents")))
