"""U-ViT (Bao et al. 2023), class-conditional on the latents of a VAE, from weights converted to safetensors.

The network is our own, written from the paper's description with the parameter names of the released checkpoints,
so that these load after a conversion of the file format. Its clock runs from 1 to 1000.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clarep_ray import dotted
from clarep_ray.clarid.schedule import scaled_linear_schedule
from clarep_ray.config import ModelConfig
from clarep_ray.data.class_list import ClassList
from clarep_ray.data.durable import make_folder, new_folder
from clarep_ray.data.inside import write_inside
from clarep_ray.data.plain_json import plain_json
from clarep_ray.data.records import shown
from clarep_ray.models.adapter import LabelledAdapter, timesteps
from clarep_ray.models.autoencoder import Autoencoder
from clarep_ray.models.class_names import read_classes, without_names
from clarep_ray.models.diffusers_folder import load_component
from clarep_ray.models.edm_folder import empty_network
from clarep_ray.models.weight_files import check_state, load_tensors, read_checkpoint, read_sizes, write_tensors

NUM_EXTRAS = 2
"""Tokens before the patches: label, then time."""


@dataclass(frozen=True, kw_only=True)
class UvitArchitecture:
    """Sizes of the network, as in `config.json` beside the weights; the released names of the same settings."""

    img_size: int = 32
    patch_size: int = 2
    in_chans: int = 4
    embed_dim: int = 1152
    depth: int = 28
    num_heads: int = 16
    mlp_ratio: float = 4.0
    qkv_bias: bool = False
    mlp_time_embed: bool = False
    num_classes: int = 1001
    """Classes and, last, the unconditional one."""
    conv: bool = False
    """A 3 x 3 convolution after the decoder."""


class _Attention(nn.Module):
    def __init__(self, dim: int, num_heads: int, qkv_bias: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, dim = x.shape
        q, k, v = self.qkv(x).view(batch, tokens, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, dim))


class _Mlp(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class _Block(nn.Module):
    """A pre-norm transformer block; after the middle, it first mixes in the output of its mirror image."""

    def __init__(self, sizes: UvitArchitecture, skip: bool = False) -> None:
        super().__init__()
        dim = sizes.embed_dim
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = _Attention(dim, sizes.num_heads, sizes.qkv_bias)
        self.mlp = _Mlp(dim, int(dim * sizes.mlp_ratio))
        self.skip_linear = nn.Linear(2 * dim, dim) if skip else None

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        if self.skip_linear is not None and skip is not None:
            x = self.skip_linear(torch.cat([x, skip], dim=-1))
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class _PatchEmbed(nn.Module):
    def __init__(self, sizes: UvitArchitecture) -> None:
        super().__init__()
        self.proj = nn.Conv2d(sizes.in_chans, sizes.embed_dim, sizes.patch_size, sizes.patch_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class UvitNetwork(nn.Module):
    """eps of noisy latents (b, c, h, w) at timesteps 1..1000 (b,) under labels (b,)."""

    def __init__(self, sizes: UvitArchitecture) -> None:
        super().__init__()
        dim, self.sizes = sizes.embed_dim, sizes
        self.patch_embed = _PatchEmbed(sizes)
        wide = nn.Sequential(nn.Linear(dim, 4 * dim), nn.SiLU(), nn.Linear(4 * dim, dim))
        self.time_embed = wide if sizes.mlp_time_embed else nn.Identity()
        self.label_emb = nn.Embedding(sizes.num_classes, dim)
        side = sizes.img_size // sizes.patch_size
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, NUM_EXTRAS + side**2, dim))
        half = sizes.depth // 2
        self.in_blocks = nn.ModuleList(_Block(sizes) for _ in range(half))
        self.mid_block = _Block(sizes)
        self.out_blocks = nn.ModuleList(_Block(sizes, skip=True) for _ in range(half))
        self.norm = nn.LayerNorm(dim)
        self.decoder_pred = nn.Linear(dim, sizes.patch_size**2 * sizes.in_chans)
        self.final_layer = nn.Conv2d(sizes.in_chans, sizes.in_chans, 3, padding=1) if sizes.conv else nn.Identity()

    def forward(self, x_t: Tensor, timestep: Tensor, labels: Tensor) -> Tensor:
        time = self.time_embed(self._sinusoids(timestep).to(x_t.dtype))
        x = torch.cat([self.label_emb(labels)[:, None], time[:, None], self.patch_embed(x_t)], 1) + self.pos_embed
        skips: list[Tensor] = []
        for block in self.in_blocks:
            x = block(x)
            skips.append(x)
        x = self.mid_block(x)
        for block in self.out_blocks:
            x = block(x, skips.pop())
        return self.final_layer(self._picture(self.decoder_pred(self.norm(x))[:, NUM_EXTRAS:]))

    def _sinusoids(self, timestep: Tensor) -> Tensor:
        half = self.sizes.embed_dim // 2
        rates = torch.exp(-math.log(10000) * torch.arange(half, device=timestep.device) / half)
        angles = timestep[:, None].float() * rates
        return torch.cat([angles.cos(), angles.sin()], 1)

    def _picture(self, tokens: Tensor) -> Tensor:
        """Return (b, c, h, w) of patches whose values lie as (row, column, channel)."""
        side, patch = self.sizes.img_size // self.sizes.patch_size, self.sizes.patch_size
        x = tokens.view(len(tokens), side, side, patch, patch, self.sizes.in_chans)
        return x.permute(0, 5, 1, 3, 2, 4).reshape(len(tokens), self.sizes.in_chans, side * patch, side * patch)


class Uvit(LabelledAdapter):
    """Timesteps 1..1000; the last label is the unconditional one.

    The published scale s means eps_c + s (eps_c - eps_u); ours is w = 1 + s.
    """

    num_prefix_tokens = NUM_EXTRAS  # the label's and the time's

    def __init__(self, network: UvitNetwork, autoencoder: Autoencoder, classes: ClassList | None = None) -> None:
        sizes = network.sizes
        self.num_classes = sizes.num_classes - 1
        half = sizes.depth // 2
        super().__init__(
            network,
            schedule=scaled_linear_schedule(first_timestep=1),
            prediction="epsilon",
            classes=classes or ClassList.by_convention(self.num_classes),
            latent_shape=(sizes.in_chans, sizes.img_size, sizes.img_size),
            feature_layers=[
                *(f"in_blocks.{i}" for i in range(half)),
                "mid_block",
                *(f"out_blocks.{i}" for i in range(half)),
            ],
            autoencoder=autoencoder,
        )

    def forward(self, x_t: Tensor, t: float, cond: Tensor) -> Tensor:
        return self.network(x_t, timesteps(x_t, t), cond)


def build(config: ModelConfig) -> Uvit:
    """Return the model of a folder with config.json, model.safetensors and a diffusers vae/.

    Raises ValueError naming what is missing, unknown in config.json, or unexpected among the weights.
    """
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    folder = Path(config.weights)
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise ValueError(
                f"model.weights: {config.weights!r} has no {name}; valid: a folder with config.json (sizes), "
                "model.safetensors (a released .pth converted by jobs/convert.py) and vae/"
            )
    state = load_tensors(folder / "model.safetensors")
    sizes = read_architecture(folder / "config.json", len(state))
    try:
        empty_network(UvitNetwork, sizes, state)
    except Exception as error:  # sizes that make no network fail in many ways
        raise ValueError(f"model.weights: {config.weights!r} holds no U-ViT: {shown(str(error))}") from None
    network = UvitNetwork(sizes)
    network.load_state_dict(state)
    vae = load_component(AutoencoderKL, config.weights, "vae", "float32")
    classes = read_classes(folder, sizes.num_classes - 1)
    return Uvit(network.to(getattr(torch, config.precision)), Autoencoder(vae), classes)


def read_architecture(path: Path, num_tensors: int) -> UvitArchitecture:
    """Return the sizes of a config.json; ValueError naming an unknown one and the valid ones, or one too large."""
    try:
        stored = without_names(read_sizes(path, num_tensors))
    except ValueError as error:
        raise ValueError(f"model.weights: {error}") from None
    valid = [item.name for item in fields(UvitArchitecture)]
    unknown = [name for name in stored if name not in valid]
    if unknown:
        raise ValueError(f"model.weights: {str(path)!r} has {unknown[0][:100]!r}; valid: {', '.join(valid)}")
    sizes = UvitArchitecture(**stored)
    try:
        dotted.check_types(sizes)
    except ValueError as error:
        raise ValueError(f"model.weights: {str(path)!r}: {error}") from None
    return sizes


def save(model: Uvit, folder: Path) -> None:
    """Write a model in the layout that `build` reads."""
    network: Any = model.network
    _write(network.state_dict(), network.sizes, folder)
    if model.autoencoder is not None:
        with new_folder(folder, "vae") as work:
            model.autoencoder.vae.save_pretrained(work)


def convert(checkpoint: Path, folder: Path, num_heads: int = 16) -> UvitArchitecture:
    """Write a released checkpoint (.pth with a state dict) as `config.json` and `model.safetensors`; return its sizes.

    Only tensors are read: torch's restricted unpickler refuses anything else. `num_heads` is the one size that the
    tensors do not tell. Raises ValueError where the file holds no U-ViT.
    """
    state = check_state(read_checkpoint(checkpoint), f"checkpoint: {str(checkpoint)!r}")
    try:
        sizes = _sizes_of(state, num_heads)
        with torch.device("meta"):
            expected = {name: tensor.shape for name, tensor in UvitNetwork(sizes).state_dict().items()}
    except Exception as error:  # sizes that make no network fail in many ways
        raise ValueError(f"checkpoint: {str(checkpoint)!r} holds no U-ViT: {error!r}") from None
    found = {name: tensor.shape for name, tensor in state.items()}
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if wrong:
        raise ValueError(f"checkpoint: parameter {wrong[0]!r} of {str(checkpoint)!r} is missing or unexpected")
    _write(state, sizes, folder)
    return sizes


def _sizes_of(state: dict[str, Tensor], num_heads: int) -> UvitArchitecture:
    classes, dim = state["label_emb.weight"].shape
    channels, patch = state["patch_embed.proj.weight"].shape[1:3]
    blocks = {name.split(".")[1] for name in state if name.startswith("in_blocks.")}
    return UvitArchitecture(
        img_size=patch * math.isqrt(state["pos_embed"].shape[1] - NUM_EXTRAS),
        patch_size=patch,
        in_chans=channels,
        embed_dim=dim,
        depth=2 * len(blocks),
        num_heads=num_heads,
        mlp_ratio=state["mid_block.mlp.fc1.weight"].shape[0] / dim,
        qkv_bias="mid_block.attn.qkv.bias" in state,
        mlp_time_embed="time_embed.0.weight" in state,
        num_classes=classes,
        conv="final_layer.weight" in state,
    )


def _write(state: dict[str, Tensor], sizes: UvitArchitecture, folder: Path) -> None:
    make_folder(folder)
    write_inside(folder, "config.json", plain_json(asdict(sizes)))
    write_tensors(folder, "model.safetensors", state)


def build_tiny() -> Uvit:
    """Return a small random model of ten classes on pictures of 32 pixels."""
    from clarep_ray.models.dit import tiny_vae

    sizes = UvitArchitecture(img_size=8, embed_dim=32, depth=4, num_heads=2, num_classes=11, mlp_time_embed=True)
    return Uvit(UvitNetwork(sizes), Autoencoder(tiny_vae()))
