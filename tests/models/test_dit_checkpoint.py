"""DiT's original checkpoints: the converted model computes the original function, frequencies included."""

import argparse
import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from clarep_ray import models
from clarep_ray.config import ModelConfig
from clarep_ray.models.diffusers_schedule import read_schedule
from clarep_ray.models.dit import Dit, tiny_vae
from clarep_ray.models.dit_checkpoint import DitArchitecture, _shapes, convert

SIZES = DitArchitecture(
    image_size=8,
    patch_size=2,
    in_channels=4,
    out_channels=8,
    hidden_size=48,
    num_blocks=3,
    num_heads=4,
    num_classes=10,
)
TIMES = (0, 20, 100, 500, 999)


def waves(places: Tensor, channels: int) -> Tensor:
    """Return places[n] * 10000^(-i / half) for i below half = channels / 2, shape (n, half)."""
    half = channels // 2
    return places.double()[:, None] * 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)


def positions(side: int, width: int) -> Tensor:
    """Return DiT's fixed embedding (1, side^2, width): the column's sines and cosines, then the row's."""
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    angles = [waves(place.flatten(), width // 2) for place in (columns, rows)]
    return torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], 1).float()[None]


def random_state(seed: int = 0) -> dict[str, Tensor]:
    """Return random weights under the original's names; no part is zero, as it would be at DiT's initialisation."""
    width, generator = SIZES.hidden_size, torch.Generator().manual_seed(seed)
    shapes = {
        "x_embedder.proj": (width, 4, 2, 2),
        "t_embedder.mlp.0": (width, 256),
        "t_embedder.mlp.2": (width, width),
        "final_layer.linear": (4 * SIZES.out_channels, width),
        "final_layer.adaLN_modulation.1": (2 * width, width),
    }
    for block in range(SIZES.num_blocks):
        layers = {"attn.qkv": 3, "attn.proj": 1, "mlp.fc1": 4, "adaLN_modulation.1": 6}
        shapes |= {f"blocks.{block}.{name}": (factor * width, width) for name, factor in layers.items()}
        shapes[f"blocks.{block}.mlp.fc2"] = (width, 4 * width)
    state = {"pos_embed": positions(4, width)}
    state["y_embedder.embedding_table.weight"] = torch.randn(11, width, generator=generator)
    for name, shape in shapes.items():
        fan_in = math.prod(shape[1:])
        state[f"{name}.weight"] = torch.randn(shape, generator=generator) / fan_in**0.5
        state[f"{name}.bias"] = 0.1 * torch.randn(shape[0], generator=generator)
    return state


def original(state: dict[str, Tensor], x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
    """Return DiT's output (b, c, h, w) by Sec. 3.2 of Peebles and Xie (2023): adaLN-Zero blocks on 2 x 2 patches."""

    def linear(name: str, values: Tensor) -> Tensor:
        return F.linear(values, state[f"{name}.weight"], state[f"{name}.bias"])

    def normed(values: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        centred = values - values.mean(-1, keepdim=True)
        values = centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()
        return values * (1 + scale[:, None]) + shift[:, None]

    angles = waves(t, 256)
    time = torch.cat([angles.cos(), angles.sin()], 1).float()
    time = linear("t_embedder.mlp.2", F.silu(linear("t_embedder.mlp.0", time)))
    cond = F.silu(time + state["y_embedder.embedding_table.weight"][labels])
    kernel, bias = state["x_embedder.proj.weight"], state["x_embedder.proj.bias"]
    tokens = F.conv2d(x_t, kernel, bias, stride=2).flatten(2).transpose(1, 2) + state["pos_embed"]
    b, n, width = tokens.shape
    for block in range(SIZES.num_blocks):
        name = f"blocks.{block}"
        parts = linear(f"{name}.adaLN_modulation.1", cond).split(width, 1)
        attn_shift, attn_scale, attn_gate, mlp_shift, mlp_scale, mlp_gate = parts
        qkv = linear(f"{name}.attn.qkv", normed(tokens, attn_shift, attn_scale))
        query, key, value = qkv.view(b, n, 3, SIZES.num_heads, -1).permute(2, 0, 3, 1, 4)
        weights = (query @ key.transpose(2, 3) / query.shape[-1] ** 0.5).softmax(-1)
        mixed = (weights @ value).transpose(1, 2).reshape(b, n, width)
        tokens = tokens + attn_gate[:, None] * linear(f"{name}.attn.proj", mixed)
        hidden = linear(f"{name}.mlp.fc1", normed(tokens, mlp_shift, mlp_scale))
        hidden = 0.5 * hidden * (1 + torch.tanh((2 / math.pi) ** 0.5 * (hidden + 0.044715 * hidden**3)))
        tokens = tokens + mlp_gate[:, None] * linear(f"{name}.mlp.fc2", hidden)
    shift, scale = linear("final_layer.adaLN_modulation.1", cond).split(width, 1)
    patches = linear("final_layer.linear", normed(tokens, shift, scale)).view(b, 4, 4, 2, 2, -1)
    return patches.permute(0, 5, 1, 3, 2, 4).reshape(b, -1, 8, 8)  # (b, c, row, y in patch, column, x in patch)


def load(folder: Path) -> Dit:
    if not (folder / "vae").is_dir():
        torch.manual_seed(0)
        vae = tiny_vae()
        vae.save_pretrained(folder / "vae")  # type: ignore[operator]
    model = models.build(ModelConfig(name="dit", weights=str(folder)))
    assert isinstance(model, Dit)
    return model


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return random_state()


@pytest.fixture
def converted(state: dict[str, Tensor], tmp_path: Path) -> Path:
    torch.save(state, tmp_path / "DiT.pt")
    assert convert(tmp_path / "DiT.pt", tmp_path / "dit", num_heads=4) == SIZES
    return tmp_path / "dit"


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    x_t = torch.randn(len(TIMES), 4, 8, 8, generator=torch.Generator().manual_seed(1))
    return x_t, torch.tensor(TIMES), torch.tensor([0, 3, 9, 10, 10])  # 10 is the null label


def test_a_converted_checkpoint_computes_the_original_function(state: dict[str, Tensor], converted: Path) -> None:
    model = load(converted)
    x_t, t, labels = inputs()
    with torch.no_grad():
        found = model.network(x_t, timestep=t, class_labels=labels).sample
    expected = original(state, x_t, t, labels)
    # Both compute the angles, up to 999, in float32 or better: their last bits reach the sines.
    assert (found - expected).norm() <= 2e-5 * expected.norm()
    eps = model.eps(x_t[:2], 500.0, model.cond(labels[:2]))
    by_hand = original(state, x_t[:2], torch.tensor([500, 500]), labels[:2])[:, :4]
    assert (eps - by_hand).norm() <= 2e-5 * by_hand.norm()
    null = original(state, x_t[:1], torch.tensor([500]), torch.tensor([10]))[:, :4]
    assert (model.eps(x_t[:1], 500.0, model.null_cond(1)) - null).norm() <= 2e-5 * null.norm()


def test_with_diffusers_frequencies_it_would_be_another_function(state: dict[str, Tensor], converted: Path) -> None:
    """What a folder without the key is: equal at t = 0, far away at large t."""
    path = converted / "transformer" / "config.json"
    config = json.loads(path.read_text())
    assert config.pop("_downscale_freq_shift") == 0
    path.write_text(json.dumps(config))
    model = load(converted)
    x_t, t, labels = inputs()
    with torch.no_grad():
        found = model.network(x_t, timestep=t, class_labels=labels).sample[:, :4]
    expected = original(state, x_t, t, labels)[:, :4]
    moved = (found - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1)
    assert moved[0] < 2e-5
    assert moved[1] > 1e-3
    assert moved[3] > 0.1
    path.write_text(json.dumps(config | {"_downscale_freq_shift": 2}))
    with pytest.raises(ValueError, match=r"_downscale_freq_shift of .* is 2; valid: 0, 1"):
        load(converted)


def test_folders_say_what_diffusers_needs_and_keep_it(converted: Path, tmp_path: Path) -> None:
    config = json.loads((converted / "transformer" / "config.json").read_text())
    assert (config["norm_eps"], config["num_embeds_ada_norm"], config["out_channels"]) == (1e-6, 10, 8)
    assert [path.name for path in (converted / "transformer").glob("*.safetensors")] == [
        "diffusion_pytorch_model.safetensors"
    ]
    schedule, prediction = read_schedule(converted / "scheduler")
    assert prediction == "epsilon"
    assert schedule.alphas_cumprod[0].item() == pytest.approx(1 - 1e-4)
    assert schedule.num_timesteps == 1000
    assert json.loads((converted / "scheduler" / "scheduler_config.json").read_text())["clip_sample"] is False
    model = load(converted)
    model.network.save_pretrained(tmp_path / "again" / "transformer")  # type: ignore[operator]
    again = json.loads((tmp_path / "again" / "transformer" / "config.json").read_text())
    assert again["_downscale_freq_shift"] == 0


def test_the_average_of_a_training_is_taken(state: dict[str, Tensor], converted: Path, tmp_path: Path) -> None:
    options = argparse.Namespace(model="DiT-XL/2", global_batch_size=256)
    torch.save({"model": random_state(1), "ema": state, "opt": {"state": {}}, "args": options}, tmp_path / "train.pt")
    convert(tmp_path / "train.pt", tmp_path / "other", num_heads=4)
    weights = "transformer/diffusion_pytorch_model.safetensors"
    assert (tmp_path / "other" / weights).read_bytes() == (converted / weights).read_bytes()


def test_the_names_and_shapes_are_those_of_dit_xl_2() -> None:
    released = _shapes(DitArchitecture(32, 2, 4, 8, 1152, 28, 16, 1000))
    assert sum(math.prod(shape) for shape in released.values()) == 675_129_632
    assert released["y_embedder.embedding_table.weight"] == (1001, 1152)
    assert released["blocks.27.attn.qkv.bias"] == (3456,)


class _Evil:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self):
        return (Path.touch, (self.canary,))


def test_what_is_no_such_checkpoint_is_refused_and_nothing_written(state: dict[str, Tensor], tmp_path: Path) -> None:
    def refused(content: object, message: str, num_heads: int = 4) -> None:
        torch.save(content, tmp_path / "bad.pt")
        with pytest.raises(ValueError, match=message):
            convert(tmp_path / "bad.pt", tmp_path / "out", num_heads)

    canary = tmp_path / "canary"
    refused({"pos_embed": _Evil(canary)}, r"bad\.pt' is not a plain state dict")
    assert not canary.exists()
    refused([1, 2], r"bad\.pt' is not a plain state dict, nor a dict with one as 'ema'")
    refused({"fc.weight": torch.zeros(2)}, r"bad\.pt' holds no DiT: KeyError\('x_embedder\.proj\.weight'\)")
    refused(state, "num_heads: 5 is not valid; valid: a divisor of 48", num_heads=5)
    cut = {name: value for name, value in state.items() if name != "blocks.1.mlp.fc2.bias"}
    refused(cut, r"parameter 'blocks\.1\.mlp\.fc2\.bias' .* is missing; valid: \(48,\)")
    refused(state | {"extra": torch.zeros(3)}, r"parameter 'extra' .* is \(3,\); valid: no such parameter")
    narrow = state | {"blocks.0.mlp.fc1.weight": torch.zeros(96, 48)}
    refused(narrow, r"'blocks\.0\.mlp\.fc1\.weight' .* is \(96, 48\); valid: \(192, 48\)")
    refused(state | {"pos_embed": state["pos_embed"].flip(1)}, "pos_embed is up to .* away from the fixed sines")
    (tmp_path / "bad.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match="is not a plain state dict"):
        convert(tmp_path / "bad.pt", tmp_path / "out", 4)
    with pytest.raises(ValueError, match="is not a plain state dict"):
        convert(tmp_path / "nowhere.pt", tmp_path / "out", 4)
    assert not (tmp_path / "out").exists()
