"""DiT's original checkpoints (Peebles and Xie 2023: DiT-XL-2-256x256.pt) as the folder that `models/dit.py` loads.

diffusers' DiTTransformer2DModel computes what the original does (fused qkv, adaLN-Zero's order of shift, scale and
gate, tanh GELU, patches, fixed positions, a null row in the label table) but for two things:

* the normalisation before the MLP has eps 1e-6, diffusers' default is 1e-5: a difference at rounding level, and a
  setting of its config;
* the time embedding has the frequencies 10000^(-i / 128), i = 0..127; diffusers hard-codes 10000^(-i / 127). That is
  no rounding: its 256 sines and cosines are off by 0.06 of their norm at timestep 50, 0.6 at 500 and 1.0 at 999. On
  small random weights (tests/models/test_dit_checkpoint.py) eps moves by 1 % at timestep 20, 5 to 8 % at 100 and 19
  to 50 % at 500; how far it moves with the released weights has not been measured here.

diffusers' own conversion script renames the original's weights, so that folders published in its layout
(facebook/DiT-XL-2-256) are evaluated with other frequencies than they were trained with. No discussion of it was
found; the same slip was corrected for SDXL in kohya-ss/sd-scripts #1187 and for PRX in huggingface/diffusers #12791.
A folder written here says which frequencies it wants, in transformer/config.json, and `models/dit.py` obeys.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clarep_ray.data.durable import new_folder
from clarep_ray.models.diffusers_schedule import write_linear_schedule
from clarep_ray.models.dit import FREQ_SHIFT
from clarep_ray.models.weight_files import check_state, read_checkpoint

TIME_CHANNELS, MLP_RATIO, NORM_EPS = 256, 4, 1e-6
ORIGINAL_FREQ_SHIFT = 0
POSITION_TOLERANCE = 1e-4
_LINEAR = {
    "t_embedder.mlp.0": "timestep_embedder.linear_1",
    "t_embedder.mlp.2": "timestep_embedder.linear_2",
    "adaLN_modulation.1": "norm1.linear",
    "attn.proj": "attn1.to_out.0",
    "mlp.fc1": "ff.net.0.proj",
    "mlp.fc2": "ff.net.2",
}
"""Original name -> diffusers' name, of linear layers within a block."""


@dataclass(frozen=True)
class DitArchitecture:
    """Sizes that a checkpoint's tensors have; `image_size` is the latent's side."""

    image_size: int
    patch_size: int
    in_channels: int
    out_channels: int
    hidden_size: int
    num_blocks: int
    num_heads: int
    num_classes: int


def convert(checkpoint: Path, folder: Path, num_heads: int = 16) -> DitArchitecture:
    """Write an original DiT checkpoint as transformer/ and scheduler/ of a diffusers folder; return its sizes.

    The file holds a state dict, or a training's dict whose "ema" is one. Only tensors are read (and the options a
    training stores beside them): torch's restricted unpickler refuses anything else. `num_heads` is the one size
    that the tensors do not tell (S: 6, B: 12, L and XL: 16). Raises ValueError naming what is missing, unexpected or
    of another shape; nothing is written then.
    """
    state = _read(checkpoint)
    try:
        sizes = _sizes_of(state, num_heads)
    except (KeyError, IndexError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ValueError(f"checkpoint: {str(checkpoint)!r} holds no DiT: {error!r}") from None
    if sizes.hidden_size % num_heads:
        raise ValueError(f"num_heads: {num_heads} is not valid; valid: a divisor of {sizes.hidden_size}")
    expected, found = _shapes(sizes), {name: tuple(tensor.shape) for name, tensor in state.items()}
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if wrong:
        shapes = f"{found.get(wrong[0], 'missing')}; valid: {expected.get(wrong[0], 'no such parameter')}"
        raise ValueError(f"checkpoint: parameter {wrong[0]!r} of {str(checkpoint)!r} is {shapes}")
    _write(sizes, dict(_renamed(state, sizes)), state["pos_embed"], folder)
    return sizes


def _read(checkpoint: Path) -> dict[str, Tensor]:
    # DiT's own trainings keep their options in a plain Namespace beside the weights.
    stored: Any = read_checkpoint(checkpoint, [argparse.Namespace])
    state: Any = stored.get("ema", stored) if isinstance(stored, Mapping) else stored
    return check_state(state, f"checkpoint: {str(checkpoint)!r}")


def _sizes_of(state: Mapping[str, Tensor], num_heads: int) -> DitArchitecture:
    hidden, channels, patch, _ = state["x_embedder.proj.weight"].shape
    blocks = {name.split(".")[1] for name in state if name.startswith("blocks.")}
    return DitArchitecture(
        image_size=patch * math.isqrt(state["pos_embed"].shape[1]),
        patch_size=patch,
        in_channels=channels,
        out_channels=state["final_layer.linear.weight"].shape[0] // patch**2,
        hidden_size=hidden,
        num_blocks=len(blocks),
        num_heads=num_heads,
        num_classes=state["y_embedder.embedding_table.weight"].shape[0] - 1,  # the last row is the null label
    )


def _shapes(sizes: DitArchitecture) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter of an original checkpoint."""
    width, tokens = sizes.hidden_size, (sizes.image_size // sizes.patch_size) ** 2
    linear = {
        "t_embedder.mlp.0": (width, TIME_CHANNELS),
        "t_embedder.mlp.2": (width, width),
        "final_layer.linear": (sizes.out_channels * sizes.patch_size**2, width),
        "final_layer.adaLN_modulation.1": (2 * width, width),
    }
    for block in range(sizes.num_blocks):
        linear[f"blocks.{block}.attn.qkv"] = (3 * width, width)
        linear[f"blocks.{block}.attn.proj"] = (width, width)
        linear[f"blocks.{block}.mlp.fc1"] = (MLP_RATIO * width, width)
        linear[f"blocks.{block}.mlp.fc2"] = (width, MLP_RATIO * width)
        linear[f"blocks.{block}.adaLN_modulation.1"] = (6 * width, width)
    shapes: dict[str, tuple[int, ...]] = {
        "pos_embed": (1, tokens, width),
        "x_embedder.proj.weight": (width, sizes.in_channels, sizes.patch_size, sizes.patch_size),
        "x_embedder.proj.bias": (width,),
        "y_embedder.embedding_table.weight": (sizes.num_classes + 1, width),
    }
    for name, shape in linear.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return shapes


def _renamed(state: Mapping[str, Tensor], sizes: DitArchitecture) -> Iterator[tuple[str, Tensor]]:
    """Yield diffusers' names; every block gets its own copy of the time and label embeddings, as diffusers has it."""
    for part in ("weight", "bias"):
        yield f"pos_embed.proj.{part}", state[f"x_embedder.proj.{part}"]
        yield f"proj_out_1.{part}", state[f"final_layer.adaLN_modulation.1.{part}"]
        yield f"proj_out_2.{part}", state[f"final_layer.linear.{part}"]
    table = "embedding_table.weight"
    for number in range(sizes.num_blocks):
        old, new = f"blocks.{number}", f"transformer_blocks.{number}"
        yield f"{new}.norm1.emb.class_embedder.{table}", state[f"y_embedder.{table}"].clone()
        for part in ("weight", "bias"):
            for name, tensor in zip("qkv", state[f"{old}.attn.qkv.{part}"].chunk(3), strict=True):
                yield f"{new}.attn1.to_{name}.{part}", tensor.clone()
            for original, theirs in _LINEAR.items():
                if original.startswith("t_embedder"):
                    yield f"{new}.norm1.emb.{theirs}.{part}", state[f"{original}.{part}"].clone()
                else:
                    yield f"{new}.{theirs}.{part}", state[f"{old}.{original}.{part}"]


def _write(sizes: DitArchitecture, state: dict[str, Tensor], positions: Tensor, folder: Path) -> None:
    from diffusers.models.embeddings import PatchEmbed
    from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel

    side, patch = sizes.image_size, sizes.patch_size
    computed: Any = PatchEmbed(side, side, patch, sizes.in_channels, sizes.hidden_size).pos_embed
    off = (computed - positions).abs().max().item()
    if off > POSITION_TOLERANCE:
        raise ValueError(f"checkpoint: pos_embed is up to {off:.2g} away from the fixed sines and cosines of DiT")
    with torch.device("meta"):
        network = DiTTransformer2DModel(
            num_attention_heads=sizes.num_heads,
            attention_head_dim=sizes.hidden_size // sizes.num_heads,
            in_channels=sizes.in_channels,
            out_channels=sizes.out_channels,
            num_layers=sizes.num_blocks,
            sample_size=side,
            patch_size=patch,
            num_embeds_ada_norm=sizes.num_classes,
            norm_eps=NORM_EPS,
        )
    network.load_state_dict(state, assign=True)
    network.register_to_config(**{FREQ_SHIFT: ORIGINAL_FREQ_SHIFT})
    with new_folder(folder, "transformer") as work:
        network.save_pretrained(work)
    write_linear_schedule(folder / "scheduler", "epsilon")
