"""Random streams that depend on *what* is drawn, never on where or in which order it is drawn."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch


def stream_seed(run_seed: int, key: str, stage: str) -> int:
    """Return the 63-bit seed of the stream named by (run seed, sample key, stage).

    The same triple gives the same seed on every machine, whatever the batch, actor or node count.
    """
    digest = hashlib.blake2b(f"{run_seed}|{key}|{stage}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def torch_generator(run_seed: int, key: str, stage: str) -> torch.Generator:
    """Return a CPU generator for one stream; draw on the CPU and move, so that devices agree."""
    import torch

    return torch.Generator("cpu").manual_seed(stream_seed(run_seed, key, stage))


def numpy_generator(run_seed: int, key: str, stage: str) -> np.random.Generator:
    """Return a NumPy generator for one stream."""
    import numpy as np

    return np.random.Generator(np.random.PCG64(stream_seed(run_seed, key, stage)))


def draw_rank(seed: int, identity: str) -> bytes:
    """Return where a row stands in a seeded draw without replacement: the lowest are drawn first.

    It does not depend on the other rows, so that larger draws hold the smaller ones.
    """
    return hashlib.blake2b(f"{seed}|{identity}".encode(), digest_size=8).digest()
