"""U-ViT: its own clock, its layout on disk, its patches, and the skips that make it a U."""

import json
from pathlib import Path

import pytest
import torch

from clarep_ray import models
from clarep_ray.config import ModelConfig
from clarep_ray.models.uvit import Uvit, UvitArchitecture, UvitNetwork, convert, read_architecture, save


@pytest.fixture(scope="module")
def tiny() -> Uvit:
    model = models.build_tiny("uvit")
    assert isinstance(model, Uvit)
    return model


def test_a_folder_gives_the_same_model_back(tiny: Uvit, tmp_path: Path) -> None:
    save(tiny, tmp_path)
    model = models.build(ModelConfig(name="uvit", weights=str(tmp_path)))
    x_t, labels = torch.randn(2, *tiny.latent_shape), torch.tensor([0, 9])
    torch.testing.assert_close(model.eps(x_t, 500.0, model.cond(labels)), tiny.eps(x_t, 500.0, tiny.cond(labels)))


def test_the_clock_runs_from_1_to_1000(tiny: Uvit) -> None:
    assert tiny.schedule.times(50)[:3].tolist() == [0.0, 1.0, 21.0]
    alpha, sigma = tiny.schedule.alpha_sigma(torch.tensor([0.0, 1.0, 1000.0]))
    assert (alpha[0], sigma[0]) == (1.0, 0.0)
    assert alpha[1].item() == pytest.approx((1 - 0.00085) ** 0.5)
    with pytest.raises(ValueError, match=r"1001\.0 is no timestep; valid: integers from 0 \(clean\) to 1000"):
        tiny.schedule.alpha_sigma(torch.tensor([1001.0]))


def test_parameters_are_named_and_shaped_as_in_the_released_checkpoints() -> None:
    with torch.device("meta"):
        network = UvitNetwork(UvitArchitecture())
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert sum(value.numel() for value in network.parameters()) == pytest.approx(501e6, rel=0.01)  # U-ViT-H/2
    assert shapes["pos_embed"] == (1, 258, 1152)
    assert shapes["label_emb.weight"] == (1001, 1152)
    assert shapes["in_blocks.13.attn.qkv.weight"] == (3456, 1152)
    assert shapes["out_blocks.0.skip_linear.weight"] == (1152, 2304)
    assert shapes["decoder_pred.weight"] == (16, 1152)
    assert "in_blocks.0.attn.qkv.bias" not in shapes
    assert "in_blocks.0.skip_linear.weight" not in shapes


def test_patches_go_back_where_they_came_from(tiny: Uvit) -> None:
    network = tiny.network
    assert isinstance(network, UvitNetwork)
    picture = torch.randn(2, 4, 8, 8)
    patches = picture.view(2, 4, 4, 2, 4, 2).permute(0, 2, 4, 3, 5, 1).reshape(2, 16, 16)
    assert torch.equal(network._picture(patches), picture)


def test_skips_join_mirrored_blocks(tiny: Uvit) -> None:
    """What the first block says reaches the last one directly, past everything between."""
    network = tiny.network
    assert isinstance(network, UvitNetwork)
    x_t, cond = torch.randn(1, *tiny.latent_shape), tiny.cond(torch.tensor([3]))
    seen: list[torch.Tensor] = []
    handles = [
        network.in_blocks[0].register_forward_hook(lambda _m, _i, out: seen.append(out)),
        network.out_blocks[-1].register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[1])),
    ]
    with torch.no_grad():
        tiny.forward(x_t, 500.0, cond)
    for handle in handles:
        handle.remove()
    assert torch.equal(seen[0], seen[1])


def test_wrong_folders_are_named(tiny: Uvit, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no config\.json; valid: a folder with config\.json"):
        models.build(ModelConfig(name="uvit", weights=str(tmp_path)))
    save(tiny, tmp_path)
    sizes = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(sizes | {"mlp_time_embed": False}))
    with pytest.raises(ValueError, match=r"parameter 'time_embed\.0\.bias' is missing, unexpected or of another"):
        models.build(ModelConfig(name="uvit", weights=str(tmp_path)))
    (tmp_path / "config.json").write_text(json.dumps(sizes | {"width": 3}))
    with pytest.raises(ValueError, match="has 'width'; valid: img_size, patch_size"):
        read_architecture(tmp_path / "config.json", 99)


def test_a_released_checkpoint_is_converted_from_its_tensors_alone(tiny: Uvit, tmp_path: Path) -> None:
    torch.save(tiny.network.state_dict(), tmp_path / "uvit.pth")
    sizes = convert(tmp_path / "uvit.pth", tmp_path / "out", num_heads=2)
    assert sizes == tiny.network.sizes
    tiny.autoencoder.vae.save_pretrained(tmp_path / "out" / "vae")  # type: ignore[union-attr]
    model = models.build(ModelConfig(name="uvit", weights=str(tmp_path / "out")))
    x_t, cond = torch.randn(1, *tiny.latent_shape), tiny.cond(torch.tensor([4]))
    torch.testing.assert_close(model.eps(x_t, 7.0, cond), tiny.eps(x_t, 7.0, cond))


class _Evil:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self):
        return (Path.touch, (self.canary,))


def test_a_checkpoint_that_would_run_code_or_is_something_else_is_refused(tiny: Uvit, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    torch.save({"label_emb.weight": _Evil(canary)}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match=r"evil\.pth' is not a plain state dict"):
        convert(tmp_path / "evil.pth", tmp_path / "out")
    assert not canary.exists()
    torch.save({"fc.weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth' holds no U-ViT"):
        convert(tmp_path / "other.pth", tmp_path / "out")
    state = tiny.network.state_dict()
    del state["norm.bias"]
    torch.save(state, tmp_path / "cut.pth")
    with pytest.raises(ValueError, match=r"parameter 'norm\.bias' .* is missing or unexpected"):
        convert(tmp_path / "cut.pth", tmp_path / "out", num_heads=2)
    assert not (tmp_path / "out").exists()
