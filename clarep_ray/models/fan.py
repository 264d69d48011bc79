"""FAN-Tiny (Zhou et al. 2022, "Understanding the Robustness in Vision Transformers"), which timm does not have.

The network is an XCiT in its frame (convolutional stem, Fourier positions, two class-attention layers: timm's parts)
with blocks that attend to tokens as a ViT does, and then to channels.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

PATCH = 16


class DepthwiseMlp(nn.Module):
    """Two linear layers with a residual pair of 3x3 depthwise convolutions over the token grid between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.widen, self.narrow = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.scale = nn.Parameter(torch.ones(hidden))
        self.local = nn.Sequential(
            nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden),
            nn.GELU(),
            nn.BatchNorm2d(hidden),
            nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden),
        )

    def forward(self, tokens: Float[Tensor, " b n c"], grid: tuple[int, int]) -> Float[Tensor, " b n c"]:
        wide = self.widen(tokens)
        mixed = self.local(wide.mT.unflatten(2, grid)).flatten(2).mT
        return self.narrow(wide + self.scale * mixed)


class ChannelAttention(nn.Module):
    """Channels of processed tokens, each weighted by how its attention over tokens agrees with that of its head."""

    def __init__(self, width: int, num_heads: int, hidden: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(width, width)
        self.mlp, self.norm = DepthwiseMlp(width, hidden), nn.LayerNorm(width, eps=1e-6)
        self.temperature = nn.Parameter(torch.ones(num_heads, 1))

    def forward(self, tokens: Float[Tensor, " b n c"], grid: tuple[int, int]) -> Float[Tensor, " b n c"]:
        queries = self.query(tokens).softmax(1).unflatten(2, (self.num_heads, -1))
        keys = tokens.softmax(1).unflatten(2, (self.num_heads, -1)).mean(3)
        agreement = torch.einsum("bnhc,bnh->bhc", queries, keys)
        weights = self.temperature * agreement.sigmoid()
        return weights.flatten(1)[:, None] * self.norm(self.mlp(tokens, grid))


class FanBlock(nn.Module):
    """Self-attention over tokens, then over channels, each a scaled residual."""

    def __init__(self, width: int, num_heads: int, drop_path: float) -> None:
        from timm.layers.attention import Attention
        from timm.layers.drop import DropPath

        super().__init__()
        self.norm_tokens, self.norm_channels = (nn.LayerNorm(width, eps=1e-6) for _ in range(2))
        self.tokens = Attention(width, num_heads, qkv_bias=True)
        self.channels = ChannelAttention(width, num_heads, 4 * width)
        self.scale_tokens, self.scale_channels = (nn.Parameter(torch.ones(width)) for _ in range(2))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Float[Tensor, " b n c"], grid: tuple[int, int]) -> Float[Tensor, " b n c"]:
        x = x + self.drop_path(self.scale_tokens * self.tokens(self.norm_tokens(x)))
        return x + self.drop_path(self.scale_channels * self.channels(self.norm_channels(x), grid))


class Fan(nn.Module):
    """FAN-ViT: 192 channels, 4 heads and 12 blocks are FAN-Tiny, 7 M parameters; sides are multiples of 16 pixels."""

    num_prefix_tokens = 1

    def __init__(
        self,
        num_classes: int,
        image_size: int,
        width: int = 192,
        num_heads: int = 4,
        depth: int = 12,
        drop: float = 0.0,
    ) -> None:
        from timm.models.xcit import ClassAttentionBlock, ConvPatchEmbed, PositionalEncodingFourier

        super().__init__()
        if image_size % PATCH:
            raise ValueError(f"student.image_size: {image_size} is not valid; valid: a multiple of {PATCH} (fan_tiny)")
        self.num_features = width
        self.patches = ConvPatchEmbed(image_size, PATCH, embed_dim=width)
        self.positions = PositionalEncodingFourier(dim=width)
        self.blocks = nn.ModuleList([FanBlock(width, num_heads, drop) for _ in range(depth)])
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        norm: Any = partial(nn.LayerNorm, eps=1e-6)
        options: dict[str, Any] = {"qkv_bias": True, "norm_layer": norm, "eta": 1.0, "tokens_norm": True}
        self.class_blocks = nn.ModuleList([ClassAttentionBlock(width, num_heads, **options) for _ in range(2)])
        self.norm, self.head = nn.LayerNorm(width, eps=1e-6), nn.Linear(width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Linear):  # every one of them has a bias
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.class_token, std=0.02)

    def forward(self, pixels: Float[Tensor, " b 3 h w"]) -> Float[Tensor, " b classes"]:
        return self.head(self.forward_head(self.forward_features(pixels), pre_logits=True))

    def forward_features(self, pixels: Float[Tensor, " b 3 h w"]) -> Float[Tensor, " b tokens c"]:
        """Return the normalised tokens, the class token first."""
        x, grid = self.patches(pixels)
        x = x + self.positions(len(x), *grid).flatten(2).mT
        for block in self.blocks:
            x = block(x, grid)
        x = torch.cat([self.class_token.expand(len(x), -1, -1), x], 1)
        for block in self.class_blocks:
            x = block(x)
        return self.norm(x)

    def forward_head(self, tokens: Float[Tensor, " b tokens c"], pre_logits: bool = False) -> Tensor:
        return tokens[:, 0] if pre_logits else self.head(tokens[:, 0])

    def get_classifier(self) -> nn.Module:
        return self.head
