"""The U of EDM's networks as data: which blocks there are, how they are called and what goes into them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Resample = Literal["keep", "down", "up"]


@dataclass(frozen=True, kw_only=True)
class BlockPlan:
    """One block: its released name, its channels, and what it does besides convolving."""

    name: str
    channels_in: int
    """With the skip that is joined on."""
    channels_out: int
    resample: Resample = "keep"
    attention: bool = False
    joins_skip: bool = False
    """Takes what the encoder left at this size, last in first out."""


@dataclass(frozen=True, kw_only=True)
class UnetPlan:
    """Levels of a U: pictures of `side` halved once a level, `channels` at each, `num_blocks` blocks at each."""

    side: int
    channels: tuple[int, ...]
    stem_channels: int
    """After the first convolution."""
    num_blocks: int
    attention_sides: Sequence[int]
    attention_once: bool = False
    """In the decoder, only the last block of a level attends."""

    def encoder(self) -> list[BlockPlan]:
        """Return the blocks after the first convolution."""
        blocks: list[BlockPlan] = []
        width = self.stem_channels
        for level, channels in enumerate(self.channels):
            if level > 0:
                blocks.append(self._resampler(level, "down", width))
            for number in range(self.num_blocks):
                blocks.append(
                    BlockPlan(
                        name=self._name(level, f"block{number}"),
                        channels_in=width,
                        channels_out=channels,
                        attention=self._attends(level),
                    )
                )
                width = channels
        return blocks

    def decoder(self) -> list[BlockPlan]:
        """Return the two blocks of the middle, then the levels upwards, one block more each than the encoder has."""
        skips = [self.stem_channels, *(block.channels_out for block in self.encoder())]
        last, width = len(self.channels) - 1, self.channels[-1]
        blocks = [
            BlockPlan(name=self._name(last, "in0"), channels_in=width, channels_out=width, attention=True),
            BlockPlan(name=self._name(last, "in1"), channels_in=width, channels_out=width),
        ]
        for level in range(last, -1, -1):
            if level < last:
                blocks.append(self._resampler(level, "up", width))
            for number in range(self.num_blocks + 1):
                blocks.append(
                    BlockPlan(
                        name=self._name(level, f"block{number}"),
                        channels_in=width + skips.pop(),
                        channels_out=self.channels[level],
                        attention=self._attends(level) and (number == self.num_blocks or not self.attention_once),
                        joins_skip=True,
                    )
                )
                width = self.channels[level]
        return blocks

    def first_name(self) -> str:
        """Return the name of the first convolution."""
        return self._name(0, "conv")

    def layers(self) -> list[str]:
        """Return the module paths of all blocks in the order of the forward pass."""
        encoder = [self.first_name(), *(block.name for block in self.encoder())]
        return [*(f"enc.{name}" for name in encoder), *(f"dec.{block.name}" for block in self.decoder())]

    def _resampler(self, level: int, resample: Resample, width: int) -> BlockPlan:
        return BlockPlan(name=self._name(level, resample), channels_in=width, channels_out=width, resample=resample)

    def _attends(self, level: int) -> bool:
        return self.side >> level in self.attention_sides

    def _name(self, level: int, what: str) -> str:
        side = self.side >> level
        return f"{side}x{side}_{what}"
