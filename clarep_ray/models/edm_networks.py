"""The networks of EDM (Karras et al. 2022, App. F): DDPM++ and NCSN++ after Song et al., ADM after Dhariwal and Nichol.

Written from the papers' descriptions with the parameter names of the released checkpoints, which therefore load
after a conversion of the file format. Only what inference needs is here: no dropout, no augmentation labels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clarep_ray.dotted import check_types
from clarep_ray.models.edm_plan import BlockPlan, Resample, UnetPlan


@dataclass(frozen=True, kw_only=True)
class EdmArchitecture:
    """Sizes of a network, as in `config.json` beside the weights; the released names of the same settings."""

    model_type: Literal["SongUNet", "DhariwalUNet"] = "DhariwalUNet"
    """SongUNet is DDPM++ (or NCSN++, with fourier, residual and [1, 3, 3, 1]); DhariwalUNet is ADM."""
    img_resolution: int = 64
    img_channels: int = 3
    label_dim: int = 1000
    """Classes; 0 is an unconditional network."""
    model_channels: int = 192
    channel_mult: tuple[int, ...] = (1, 2, 3, 4)
    channel_mult_emb: int = 4
    channel_mult_noise: int = 1
    num_blocks: int = 3
    attn_resolutions: tuple[int, ...] = (32, 16, 8)
    augment_dim: int = 0
    """Width of the augmentation labels in training; they are zero here."""
    embedding_type: Literal["positional", "fourier"] = "positional"
    encoder_type: Literal["standard", "residual"] = "standard"
    decoder_type: Literal["standard"] = "standard"
    resample_filter: tuple[int, ...] = (1, 1)
    label_dropout: float = 0.0
    """Share of zero labels in training; above 0 the zero label is the unconditional branch."""
    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        check_types(self)

    @property
    def is_song(self) -> bool:
        return self.model_type == "SongUNet"

    @property
    def noise_channels(self) -> int:
        return self.model_channels * (self.channel_mult_noise if self.is_song else 1)

    @property
    def emb_channels(self) -> int:
        return self.model_channels * self.channel_mult_emb

    @property
    def plan(self) -> UnetPlan:
        return UnetPlan(
            side=self.img_resolution,
            channels=tuple(self.model_channels * factor for factor in self.channel_mult),
            stem_channels=self.model_channels * (1 if self.is_song else self.channel_mult[0]),
            num_blocks=self.num_blocks,
            attention_sides=self.attn_resolutions,
            attention_once=self.is_song,
        )


class PositionalEmbedding(nn.Module):
    """Cosines, then sines, at frequencies from 1 down to 1/10000, the last one included or just missed."""

    def __init__(self, channels: int, endpoint: bool) -> None:
        super().__init__()
        self.num_rates, self.last = channels // 2, channels // 2 - int(endpoint)

    def forward(self, noise: Tensor) -> Tensor:
        rates = torch.arange(self.num_rates, device=noise.device, dtype=torch.float32) * (-math.log(10000) / self.last)
        angles = noise[:, None] * rates.exp()
        return torch.cat([angles.cos(), angles.sin()], 1)


class FourierEmbedding(nn.Module):
    """Cosines, then sines, at the random frequencies the network was trained with."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("freqs", 16 * torch.randn(channels // 2))

    def forward(self, noise: Tensor) -> Tensor:
        angles = 2 * math.pi * noise[:, None] * self.get_buffer("freqs").float()
        return torch.cat([angles.cos(), angles.sin()], 1)


def smooth(x: Tensor, taps: Tensor, resample: Resample, padding: int) -> Tensor:
    """Halve or double pictures (b, c, h, w) with the separable filter `taps` (1, 1, n, n), channel by channel."""
    channels = x.shape[1]
    kernel = taps.to(x.dtype).expand(channels, -1, -1, -1)
    if resample == "up":
        return F.conv_transpose2d(x, 4 * kernel, stride=2, padding=padding, groups=channels)
    return F.conv2d(x, kernel, stride=2, padding=padding, groups=channels)


def filter_taps(weights: tuple[int, ...]) -> Tensor:
    """Return the separable filter of one-dimensional weights, summing to 1: (1, 1, n, n)."""
    line = torch.tensor(weights, dtype=torch.float32)
    return (torch.outer(line, line) / line.sum() ** 2)[None, None]


class ResamplingConv(nn.Module):
    """A convolution after halving or doubling; kernel 0 is resampling alone. `late` halves after the convolution."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: int,
        resample: Resample = "keep",
        taps: tuple[int, ...] = (1, 1),
        late: bool = False,
    ) -> None:
        super().__init__()
        self.resample: Resample = resample
        self.late, self.border = late, kernel // 2
        self.weight = self.bias = None
        if kernel:
            scale = (channels_in * kernel**2) ** -0.5
            self.weight = nn.Parameter(scale * torch.randn(channels_out, channels_in, kernel, kernel))
            self.bias = nn.Parameter(torch.zeros(channels_out))
        if resample != "keep":
            self.register_buffer("resample_filter", filter_taps(taps))
        self.overlap = (len(taps) - 1) // 2

    def forward(self, x: Tensor) -> Tensor:
        if self.resample == "keep":
            return self._convolve(x, self.border)
        taps = self.get_buffer("resample_filter")
        if self.late:
            return self._add_bias(smooth(self._linear(x, self.border + self.overlap), taps, self.resample, 0))
        return self._convolve(smooth(x, taps, self.resample, self.overlap), self.border)

    def _convolve(self, x: Tensor, padding: int) -> Tensor:
        return x if self.weight is None else self._add_bias(self._linear(x, padding))

    def _linear(self, x: Tensor, padding: int) -> Tensor:
        return x if self.weight is None else F.conv2d(x, self.weight, padding=padding)

    def _add_bias(self, x: Tensor) -> Tensor:
        return x if self.bias is None else x + self.bias[:, None, None]


def group_norm(channels: int, eps: float) -> nn.GroupNorm:
    """Return a normalisation in 32 groups, or in fewer of four channels."""
    return nn.GroupNorm(min(32, channels // 4), channels, eps=eps)


def attend(qkv: Tensor, num_heads: int) -> Tensor:
    """Return attention over the pixels; channels (b, 3 c, h, w) lie as (head, channel, q k v)."""
    batch, channels, height, width = qkv.shape
    q, k, v = attention_parts(qkv, num_heads)
    out = F.scaled_dot_product_attention(q, k, v)
    return out.transpose(2, 3).reshape(batch, channels // 3, height, width)


def attention_parts(qkv: Tensor, num_heads: int) -> Tensor:
    """Return queries, keys and values (3, b, heads, pixels, c per head) of such channels."""
    batch, channels, height, width = qkv.shape
    parts = qkv.reshape(batch, num_heads, channels // num_heads // 3, 3, height * width)
    return parts.permute(3, 0, 1, 4, 2)


class EdmBlock(nn.Module):
    """A residual block told the noise level and class, followed by attention where planned.

    DDPM++ adds the embedding and divides every sum by sqrt(2); ADM scales and shifts with it and does not.
    """

    def __init__(self, plan: BlockPlan, sizes: EdmArchitecture) -> None:
        super().__init__()
        width, song = plan.channels_out, sizes.is_song
        eps = 1e-6 if song else 1e-5
        self.joins_skip, self.adaptive, self.sum_scale = plan.joins_skip, not song, 0.5**0.5 if song else 1.0
        self.norm0 = group_norm(plan.channels_in, eps)
        self.conv0 = ResamplingConv(plan.channels_in, width, 3, plan.resample, sizes.resample_filter)
        self.affine = nn.Linear(sizes.emb_channels, width if song else 2 * width)
        self.norm1 = group_norm(width, eps)
        self.conv1 = ResamplingConv(width, width, 3)
        self.skip = None
        widens = plan.channels_in != width
        if widens or plan.resample != "keep":
            kernel = 1 if widens or song else 0
            self.skip = ResamplingConv(plan.channels_in, width, kernel, plan.resample, sizes.resample_filter)
        self.num_heads = (1 if song else width // 64) if plan.attention else 0
        if self.num_heads:
            self.norm2 = group_norm(width, eps)
            self.qkv, self.proj = ResamplingConv(width, 3 * width, 1), ResamplingConv(width, width, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        told = self.affine(emb)[:, :, None, None]
        y = self.conv0(F.silu(self.norm0(x)))
        if self.adaptive:
            scale, shift = told.chunk(2, dim=1)
            y = torch.addcmul(shift, self.norm1(y), 1 + scale)
        else:
            y = self.norm1(y + told)
        y = self.conv1(F.silu(y))
        x = (y + (x if self.skip is None else self.skip(x))) * self.sum_scale
        if self.num_heads:
            x = (x + self.proj(attend(self.qkv(self.norm2(x)), self.num_heads))) * self.sum_scale
        return x


class EdmNetwork(nn.Module):
    """F of pictures (b, c, h, w) scaled by c_in, at c_noise (b,) under one-hot labels (b, classes), zero for none."""

    def __init__(self, sizes: EdmArchitecture) -> None:
        super().__init__()
        self.sizes = sizes
        plan, width = sizes.plan, sizes.emb_channels
        if sizes.embedding_type == "fourier" and sizes.is_song:
            self.map_noise: nn.Module = FourierEmbedding(sizes.noise_channels)
        else:
            self.map_noise = PositionalEmbedding(sizes.noise_channels, endpoint=sizes.is_song)
        self.map_layer0, self.map_layer1 = nn.Linear(sizes.noise_channels, width), nn.Linear(width, width)
        if sizes.augment_dim:
            # Only so that the released parameter has a place: the augmentation labels of a plain picture are zero.
            self.map_augment = nn.Linear(sizes.augment_dim, sizes.noise_channels, bias=False)
        if sizes.label_dim:
            self.map_label = nn.Linear(sizes.label_dim, sizes.noise_channels if sizes.is_song else width, sizes.is_song)
        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()
        self.enc[plan.first_name()] = ResamplingConv(sizes.img_channels, plan.stem_channels, 3)
        self._fill_encoder(plan)
        for block in plan.decoder():
            self.dec[block.name] = EdmBlock(block, sizes)
        self._add_output(plan)

    def _fill_encoder(self, plan: UnetPlan) -> None:
        """Add the blocks; NCSN++ adds the halved input to what follows each halving (residual encoder)."""
        sizes, side, seen = self.sizes, plan.side, self.sizes.img_channels
        for block in plan.encoder():
            self.enc[block.name] = EdmBlock(block, sizes)
            if block.resample == "down" and sizes.encoder_type == "residual" and sizes.is_song:
                side, name = side // 2, f"{side // 2}x{side // 2}_aux_residual"
                self.enc[name] = ResamplingConv(seen, block.channels_out, 3, "down", sizes.resample_filter, late=True)
                seen = block.channels_out

    def _add_output(self, plan: UnetPlan) -> None:
        width, sizes = plan.channels[0], self.sizes
        norm, conv = group_norm(width, 1e-6 if sizes.is_song else 1e-5), ResamplingConv(width, sizes.img_channels, 3)
        if sizes.is_song:
            self.dec[f"{plan.side}x{plan.side}_aux_norm"] = norm
            self.dec[f"{plan.side}x{plan.side}_aux_conv"] = conv
        else:
            self.out_norm, self.out_conv = norm, conv

    def forward(self, x: Tensor, noise: Tensor, labels: Tensor) -> Tensor:
        emb, aside = self._embed(noise, labels, x.dtype), x
        skips: list[Tensor] = []
        for layer in self.enc.values():
            if isinstance(layer, EdmBlock):
                x = layer(x, emb)
            elif skips:
                aside = x = (skips.pop() + layer(aside)) * 0.5**0.5
            else:
                x = layer(x)
            skips.append(x)
        for layer in self.dec.values():
            if isinstance(layer, EdmBlock):
                x = layer(torch.cat([x, skips.pop()], 1) if layer.joins_skip else x, emb)
        norm, conv = list(self.dec.values())[-2:] if self.sizes.is_song else (self.out_norm, self.out_conv)
        return conv(F.silu(norm(x)))

    def _embed(self, noise: Tensor, labels: Tensor, dtype: torch.dtype) -> Tensor:
        """Return what the blocks are told; DDPM++ takes in the label before the two layers, ADM after."""
        emb = self.map_noise(noise).to(dtype)
        if not self.sizes.is_song:
            emb = self.map_layer1(F.silu(self.map_layer0(emb)))
            return F.silu(emb + self.map_label(labels.to(dtype)) if self.sizes.label_dim else emb)
        emb = emb.roll(emb.shape[1] // 2, dims=1)  # Song et al. have the sines first
        if self.sizes.label_dim:
            emb = emb + self.map_label(labels.to(dtype) * self.sizes.label_dim**0.5)
        return F.silu(self.map_layer1(F.silu(self.map_layer0(emb))))
