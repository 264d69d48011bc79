"""EDM: released names, preconditioning, the null branch and its guide, the layout on disk."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from clarep_ray import models
from clarep_ray.clarid.sampling import eps_from_x0
from clarep_ray.config import ModelConfig
from clarep_ray.models.edm import Edm, save
from clarep_ray.models.edm_networks import EdmArchitecture, EdmNetwork, attend, filter_taps, smooth

CIFAR10 = {
    "model_type": "SongUNet",
    "img_resolution": 32,
    "model_channels": 128,
    "channel_mult": (2, 2, 2),
    "num_blocks": 4,
    "attn_resolutions": (16,),
    "label_dim": 10,
}
NCSN = {
    "embedding_type": "fourier",
    "encoder_type": "residual",
    "channel_mult_noise": 2,
    "resample_filter": (1, 3, 3, 1),
}


@pytest.fixture(scope="module")
def tiny() -> Edm:
    model = models.build_tiny("edm")
    assert isinstance(model, Edm)
    return model


def small(**changes) -> EdmArchitecture:
    sizes = {"model_channels": 16, "channel_mult": (1, 2), "num_blocks": 1, "img_resolution": 16, "label_dim": 3}
    return EdmArchitecture(**(sizes | {"attn_resolutions": (8,)} | changes))


@pytest.mark.parametrize(
    ("sizes", "count"),
    [
        ({}, 295.899),  # ADM on ImageNet-64: 296M in Table 7
        (CIFAR10, 55.734),  # DDPM++ and NCSN++ on CIFAR-10: 56M
        (CIFAR10 | NCSN, 56.398),
        (CIFAR10 | {"augment_dim": 9}, 55.735),
    ],
)
def test_the_published_sizes_have_the_published_number_of_parameters(sizes: dict, count: float) -> None:
    with torch.device("meta"):
        network = EdmNetwork(EdmArchitecture(**sizes))
    assert sum(value.numel() for value in network.parameters()) / 1e6 == pytest.approx(count, abs=6e-4)


def test_parameters_are_named_and_shaped_as_in_the_released_checkpoints() -> None:
    with torch.device("meta"):
        adm, ncsn = EdmNetwork(EdmArchitecture()), EdmNetwork(EdmArchitecture(**(CIFAR10 | NCSN)))
    shapes = {name: tuple(value.shape) for name, value in adm.state_dict().items()}
    assert shapes["map_label.weight"] == (768, 1000)
    assert "map_label.bias" not in shapes
    assert shapes["enc.64x64_conv.weight"] == (192, 3, 3, 3)
    assert shapes["enc.32x32_down.skip.resample_filter"] == (1, 1, 2, 2)
    assert "enc.32x32_down.skip.weight" not in shapes
    assert shapes["dec.8x8_in0.qkv.weight"] == (2304, 768, 1, 1)
    assert "dec.8x8_in1.qkv.weight" not in shapes
    assert shapes["dec.64x64_block3.affine.weight"] == (384, 768)
    assert shapes["out_conv.weight"] == (3, 192, 3, 3)
    shapes = {name: tuple(value.shape) for name, value in ncsn.state_dict().items()}
    assert shapes["map_noise.freqs"] == (128,)
    assert shapes["enc.32x32_conv.weight"] == (128, 3, 3, 3)
    assert shapes["enc.16x16_aux_residual.weight"] == (256, 3, 3, 3)
    assert shapes["enc.8x8_aux_residual.resample_filter"] == (1, 1, 4, 4)
    assert shapes["dec.32x32_aux_norm.weight"] == (256,)
    assert "dec.16x16_block4.qkv.weight" in shapes
    assert "dec.16x16_block3.qkv.weight" not in shapes


def test_the_middle_ends_with_in1_and_layers_are_in_order() -> None:
    layers = EdmArchitecture().plan.layers()
    assert layers[0] == "enc.64x64_conv"
    assert layers[layers.index("dec.8x8_in1") + 1] == "dec.8x8_block0"
    assert layers[-1] == "dec.64x64_block3"


def test_eps_is_that_of_the_denoiser_and_does_not_cancel_at_small_noise(tiny: Edm) -> None:
    x_t, cond = torch.randn(2, *tiny.latent_shape, dtype=torch.float64), tiny.cond(torch.tensor([0, 9]))
    for t in (0.002, 0.5, 80.0):
        total = t**2 + 0.25
        with torch.no_grad():
            output = tiny.forward(x_t, t, cond).double()
        denoised = 0.25 / total * x_t + 0.5 * t / total**0.5 * output  # Eq. 7 and Table 1
        torch.testing.assert_close(tiny.eps(x_t, t, cond), eps_from_x0(denoised, x_t, 1.0, t), rtol=0, atol=1e-6)


def test_a_network_of_zeros_denoises_to_c_skip() -> None:
    network = EdmNetwork(small())
    for parameter in network.parameters():
        torch.nn.init.zeros_(parameter)
    model, x_t = Edm(network), torch.randn(1, 3, 16, 16)
    torch.testing.assert_close(model.eps(x_t, 2.0, model.cond(torch.tensor([1]))), x_t * 2 / 4.25)


def test_the_clean_time_is_refused_by_the_network(tiny: Edm) -> None:
    with pytest.raises(ValueError, match=r"t: 0\.0 is no noise scale of the network; valid: more than 0"):
        tiny.eps(torch.zeros(1, *tiny.latent_shape), 0.0, tiny.cond(torch.tensor([0])))


@pytest.mark.parametrize("changes", [{}, {"model_type": "SongUNet"}, {"model_type": "SongUNet", **NCSN}])
def test_all_three_architectures_see_noise_and_label(changes: dict) -> None:
    torch.manual_seed(0)
    network = EdmNetwork(small(**changes)).eval()
    x, labels = torch.randn(1, 3, 16, 16), torch.eye(3)
    base = network(x, torch.zeros(1), labels[:1])
    assert base.shape == x.shape
    assert (network(x, torch.ones(1), labels[:1]) - base).abs().max() > 1e-4
    assert (network(x, torch.zeros(1), labels[1:2]) - base).abs().max() > 1e-5


def test_resampling_keeps_the_mean_and_doubling_a_halved_constant_gives_it_back() -> None:
    x = torch.randn(2, 3, 8, 8)
    halved = smooth(x, filter_taps((1, 1)), "down", 0)
    torch.testing.assert_close(halved, torch.nn.functional.avg_pool2d(x, 2))
    torch.testing.assert_close(smooth(halved, filter_taps((1, 1)), "up", 0).mean(), x.mean())
    flat = torch.ones(1, 1, 8, 8)
    assert smooth(smooth(flat, filter_taps((1, 3, 3, 1)), "down", 1), filter_taps((1, 3, 3, 1)), "up", 1).shape[-1] == 8


def test_attention_reads_channels_as_head_channel_and_then_query_key_value() -> None:
    qkv = torch.randn(1, 2 * 5 * 3, 2, 2, dtype=torch.float64)
    by_hand = []
    for head in qkv.view(2, 5, 3, 4):
        q, k, v = head[:, 0], head[:, 1], head[:, 2]
        by_hand.append(v @ torch.softmax(q.T @ k / 5**0.5, 1).T)
    torch.testing.assert_close(attend(qkv, 2), torch.cat(by_hand).view(1, 10, 2, 2))


def test_released_weights_have_no_null_branch_and_label_dropout_gives_one(tiny: Edm) -> None:
    with pytest.raises(ValueError, match=r"no guide/ beside them; valid: guidance 1 and no `unconditional`"):
        tiny.null_cond(2)
    model = Edm(EdmNetwork(small(label_dropout=0.1)))
    assert torch.equal(model.null_cond(2), torch.zeros(2, 3))
    assert model.eps(torch.randn(2, 3, 16, 16), 1.0, model.null_cond(2)).isfinite().all()


def test_a_guide_is_the_null_branch_and_must_be_unconditional(tmp_path: Path) -> None:
    torch.manual_seed(0)
    guide = EdmNetwork(small(label_dim=0, model_channels=32))
    save(Edm(EdmNetwork(small()), guide), tmp_path)
    model = models.build(ModelConfig(name="edm", weights=str(tmp_path)))
    assert isinstance(model, Edm)
    x_t, null = torch.randn(2, 3, 16, 16), model.null_cond(2)
    with torch.no_grad():
        noise = torch.full((2,), torch.tensor(2.0).log().item() / 4)
        output = guide.eval()(x_t / 4.25**0.5, noise, torch.zeros(2, 0))
    torch.testing.assert_close(model.eps(x_t, 2.0, null), x_t * 2 / 4.25 - 0.5 / 4.25**0.5 * output)
    assert model.features(x_t, 2.0, null, "dec.8x8_in1").shape[1] == 64
    assert model.features(x_t, 2.0, model.cond(torch.tensor([0, 1])), "dec.8x8_in1").shape[1] == 32
    with pytest.raises(ValueError, match="label_dim of guide/ is 3; valid: 0"):
        Edm(EdmNetwork(small()), EdmNetwork(small()))
    with pytest.raises(ValueError, match="label_dim is 0"):
        Edm(guide)


def test_a_folder_gives_the_same_model_back_in_the_precision_asked_for(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Edm(EdmNetwork(small(model_type="SongUNet", **NCSN)))
    save(model, tmp_path)
    again = models.build(ModelConfig(name="edm", weights=str(tmp_path)))
    x_t, cond = torch.randn(2, *model.latent_shape), model.cond(torch.tensor([0, 2]))
    torch.testing.assert_close(again.eps(x_t, 0.7, cond), model.eps(x_t, 0.7, cond))
    half = models.build(ModelConfig(name="edm", weights=str(tmp_path), precision="bfloat16"))
    assert isinstance(half, Edm)
    assert half.dtype == torch.bfloat16
    assert half.network.get_buffer("map_noise.freqs").dtype == torch.float32
    assert half.features(x_t, 0.7, cond, "dec.8x8_in1").dtype == torch.bfloat16
    torch.testing.assert_close(half.eps(x_t, 0.002, cond), model.eps(x_t, 0.002, cond), rtol=0.1, atol=0.1)


def test_wrong_folders_are_named(tiny: Edm, tmp_path: Path) -> None:
    config = ModelConfig(name="edm", weights=str(tmp_path))
    with pytest.raises(ValueError, match=r"has no config\.json; valid: a folder with config\.json"):
        models.build(config)
    save(tiny, tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    for changes, message in (
        ({"channel_mult": [1, 4]}, r"parameter '.*' is missing, unexpected or of another shape"),
        ({"width": 3}, "unknown config field 'width'; valid: model_type"),
        ({"encoder_type": "skip"}, "encoder_type"),
        ({"label_dim": "ten"}, "label_dim"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(stored | changes))
        with pytest.raises(ValueError, match=message):
            models.build(config)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="holds no EdmNetwork"):
        models.build(config)
    assert set(load_file(tmp_path / "model.safetensors")) == set(tiny.network.state_dict())
