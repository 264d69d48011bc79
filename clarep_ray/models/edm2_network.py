"""The magnitude-preserving UNet of EDM2 (Karras et al. 2024, config G).

Written from the paper's description with the parameter names of the released checkpoints, which therefore load after
a conversion of the file format. Only what inference needs is here: no dropout, no weight forcing, no loss weights.
Equation numbers are those of the paper's appendix on magnitude-preserving layers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clarep_ray.dotted import check_types
from clarep_ray.models.edm_networks import attention_parts, filter_taps, smooth
from clarep_ray.models.edm_plan import BlockPlan, UnetPlan

TINY = 1e-4
"""Added to a magnitude before dividing by it."""
SILU_MAGNITUDE = 0.596
"""Root mean square of silu of a standard normal."""


@dataclass(frozen=True, kw_only=True)
class Edm2Architecture:
    """Sizes of a network, as in `config.json` beside the weights; the released names of the same settings."""

    img_resolution: int = 64
    img_channels: int = 4
    """4 for the latents of a VAE, 3 for pixels."""
    label_dim: int = 1000
    """Classes; 0 is an unconditional network."""
    model_channels: int = 192
    """128 (XS), 192 (S), 256 (M), 320 (L), 384 (XL), 448 (XXL)."""
    channel_mult: tuple[int, ...] = (1, 2, 3, 4)
    channel_mult_noise: int | None = None
    channel_mult_emb: int | None = None
    num_blocks: int = 3
    attn_resolutions: tuple[int, ...] = (16, 8)
    channels_per_head: int = 64
    resample_filter: tuple[int, ...] = (1, 1)
    label_balance: float = 0.5
    concat_balance: float = 0.5
    res_balance: float = 0.3
    attn_balance: float = 0.3
    clip_act: float = 256.0
    label_dropout: float = 0.0
    """Share of zero labels in training; above 0 the zero label is the unconditional branch."""
    sigma_data: float = 0.5
    raw_mean: tuple[float, ...] = (5.81, 3.25, 0.12, -2.15)
    """Of the VAE's latents, channel by channel; not used in pixel space."""
    raw_std: tuple[float, ...] = (4.17, 4.62, 3.71, 3.28)

    def __post_init__(self) -> None:
        check_types(self)

    @property
    def has_latents(self) -> bool:
        """Whether it works on a VAE's latents."""
        return self.img_channels == len(self.raw_mean)

    @property
    def plan(self) -> UnetPlan:
        widths = tuple(self.model_channels * factor for factor in self.channel_mult)
        return UnetPlan(
            side=self.img_resolution,
            channels=widths,
            stem_channels=widths[0],
            num_blocks=self.num_blocks,
            attention_sides=self.attn_resolutions,
        )

    @property
    def noise_channels(self) -> int:
        return self.model_channels * (self.channel_mult_noise or self.channel_mult[0])

    @property
    def emb_channels(self) -> int:
        return self.model_channels * (self.channel_mult_emb or max(self.channel_mult))


def unit_magnitude(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Scale x to root mean square 1 over `dims`."""
    norm = torch.linalg.vector_norm(x, dim=dims, keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32))
    return x / (norm / math.sqrt(x.numel() // norm.numel()) + TINY).to(x.dtype)


def mp_silu(x: Tensor) -> Tensor:
    """Return silu scaled to keep the magnitude of a standard normal (Eq. 81)."""
    return F.silu(x) / SILU_MAGNITUDE


def mp_sum(first: Tensor, second: Tensor, balance: float) -> Tensor:
    """Return the sum weighted (1 - balance, balance), of the magnitude both have (Eq. 88)."""
    return (first * (1 - balance) + second * balance) / math.hypot(1 - balance, balance)


def mp_cat(first: Tensor, second: Tensor, balance: float) -> Tensor:
    """Join channels so that their numbers do not weigh, only the balance (Eq. 103)."""
    total = math.sqrt(first.shape[1] + second.shape[1]) / math.hypot(1 - balance, balance)
    shares = ((1 - balance) / math.sqrt(first.shape[1]), balance / math.sqrt(second.shape[1]))
    return torch.cat([first * (total * shares[0]), second * (total * shares[1])], 1)


class MpFourier(nn.Module):
    """Cosines of magnitude 1 at the random frequencies and phases the network was trained with (Eq. 75)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("freqs", 2 * math.pi * torch.randn(channels))
        self.register_buffer("phases", 2 * math.pi * torch.rand(channels))

    def forward(self, noise: Tensor) -> Tensor:
        freqs, phases = self.get_buffer("freqs").float(), self.get_buffer("phases").float()
        return math.sqrt(2) * torch.addcmul(phases, noise[:, None], freqs).cos()


class MpConv(nn.Module):
    """A convolution, or a matrix where kernel is 0, whose output weights have unit length (Eq. 47); no bias."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int = 0) -> None:
        super().__init__()
        window = (kernel, kernel) if kernel else ()
        self.weight = nn.Parameter(torch.randn(channels_out, channels_in, *window))

    def forward(self, x: Tensor, gain: Tensor | float = 1.0) -> Tensor:
        weight = self.weight.to(torch.promote_types(self.weight.dtype, torch.float32))
        fan_in = weight[0].numel()
        unit = unit_magnitude(weight, tuple(range(1, weight.ndim))) * (gain / math.sqrt(fan_in))
        unit = unit.to(x.dtype)
        return F.linear(x, unit) if unit.ndim == 2 else F.conv2d(x, unit, padding=unit.shape[-1] // 2)


class Edm2Block(nn.Module):
    """A residual block whose every path keeps the magnitude of its input (Fig. 21).

    An encoder block first fits the main path and sets its pixels to unit magnitude; a decoder block fits it last.
    """

    def __init__(self, plan: BlockPlan, sizes: Edm2Architecture, encodes: bool) -> None:
        super().__init__()
        width = plan.channels_out
        self.plan, self.sizes, self.encodes = plan, sizes, encodes
        self.emb_gain = nn.Parameter(torch.zeros([]))
        self.conv_res0 = MpConv(width if encodes else plan.channels_in, width, 3)
        self.emb_linear = MpConv(sizes.emb_channels, width)
        self.conv_res1 = MpConv(width, width, 3)
        self.conv_skip = MpConv(plan.channels_in, width, 1) if plan.channels_in != width else None
        self.num_heads = width // sizes.channels_per_head if plan.attention else 0
        if self.num_heads:
            self.attn_qkv, self.attn_proj = MpConv(width, 3 * width, 1), MpConv(width, width, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        if self.plan.resample != "keep":
            filters = self.sizes.resample_filter
            x = smooth(x, filter_taps(filters).to(x.device), self.plan.resample, (len(filters) - 1) // 2)
        if self.encodes:
            x = unit_magnitude(self._fit(x), (1,))
        told = 1 + self.emb_linear(emb, self.emb_gain)
        y = mp_silu(self.conv_res0(mp_silu(x)) * told.to(x.dtype)[:, :, None, None])
        x = mp_sum(x if self.encodes else self._fit(x), self.conv_res1(y), self.sizes.res_balance)
        if self.num_heads:
            x = mp_sum(x, self.attn_proj(self._attend(x)), self.sizes.attn_balance)
        return x.clamp(-self.sizes.clip_act, self.sizes.clip_act)

    def _fit(self, x: Tensor) -> Tensor:
        return x if self.conv_skip is None else self.conv_skip(x)

    def _attend(self, x: Tensor) -> Tensor:
        """Return cosine attention over the pixels: queries, keys and values have unit magnitude."""
        q, k, v = unit_magnitude(attention_parts(self.attn_qkv(x), self.num_heads), (4,))
        return F.scaled_dot_product_attention(q, k, v).transpose(2, 3).reshape(x.shape)


class Edm2Network(nn.Module):
    """F of latents (b, c, h, w) scaled by c_in, at c_noise (b,) under one-hot labels (b, classes), zero for none."""

    def __init__(self, sizes: Edm2Architecture) -> None:
        super().__init__()
        self.sizes = sizes
        plan, width = sizes.plan, sizes.emb_channels
        self.out_gain = nn.Parameter(torch.zeros([]))
        self.emb_fourier = MpFourier(sizes.noise_channels)
        self.emb_noise = MpConv(sizes.noise_channels, width)
        self.emb_label = MpConv(sizes.label_dim, width) if sizes.label_dim else None
        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()
        self.enc[plan.first_name()] = MpConv(sizes.img_channels + 1, plan.stem_channels, 3)
        for block in plan.encoder():
            self.enc[block.name] = Edm2Block(block, sizes, encodes=True)
        for block in plan.decoder():
            self.dec[block.name] = Edm2Block(block, sizes, encodes=False)
        self.out_conv = MpConv(plan.channels[0], sizes.img_channels, 3)

    def forward(self, x: Tensor, noise: Tensor, labels: Tensor) -> Tensor:
        emb = self._embed(noise, labels)
        skips: list[Tensor] = []
        x = torch.cat([x, torch.ones_like(x[:, :1])], 1)  # stands in for biases
        for layer in self.enc.values():
            x = layer(x, emb) if isinstance(layer, Edm2Block) else layer(x)
            skips.append(x)
        for layer in self.dec.values():
            if isinstance(layer, Edm2Block) and layer.plan.joins_skip:
                x = mp_cat(x, skips.pop(), self.sizes.concat_balance)
            x = layer(x, emb)
        return self.out_conv(x, self.out_gain)

    def _embed(self, noise: Tensor, labels: Tensor) -> Tensor:
        """Return what the blocks are told, in float32 whatever the precision of the rest."""
        emb = self.emb_noise(self.emb_fourier(noise))
        if self.emb_label is not None:
            told = self.emb_label(labels.to(emb.dtype) * math.sqrt(self.sizes.label_dim))
            emb = mp_sum(emb, told, self.sizes.label_balance)
        return mp_silu(emb)
