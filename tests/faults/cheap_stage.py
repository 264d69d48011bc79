"""A model actor that costs nothing: everything of the engine is real but the network."""

import os
import random
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clarep_ray.cluster.stages import ExtractStage, RunContext

LONGEST_S, DIES = 0.1, 0.25
"""How long a unit may take, and the share of units that kill once where any do."""


class CheapExtractor:
    """Makes features of pictures alone; how long it takes follows from a seed and the pictures' keys.

    With a `width` a picture has so many features, to fill Ray's object store.
    """

    def __init__(self, seed: int, kills: Path | None, width: int | None = None) -> None:
        self.seed, self.kills, self.width = seed, kills, width
        self.model = SimpleNamespace(class_names=("0", "1", "2", "3"), prompt_texts=None)

    def run(
        self, images: NDArray[np.uint8], numbers: list[int], keys: list[str], resumed: Any = None
    ) -> tuple[dict[str, NDArray[Any]], list[dict[str, Any]]]:
        draw = random.Random(f"{self.seed} {keys}")
        time.sleep(draw.uniform(0, LONGEST_S))
        if self.kills is not None and draw.random() < DIES:
            self._die_once("-".join(keys))
        features = images.reshape(len(images), -1).astype(np.float32).cumsum(1)[:, ::7] + np.float32(sum(numbers))
        if self.width is not None:
            features = np.resize(features, (len(images), self.width))
        return {"features": features, "samples": images}, [{"status": "ok", "reason": None} for _ in keys]

    def _die_once(self, name: str) -> None:
        assert self.kills is not None
        try:
            (self.kills / name).touch(exist_ok=False)
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGKILL)


class CheapStage(ExtractStage):
    """The engine's stage, ledger and all, around it; `kills` is a folder that notes who died, None lets all live."""

    def __init__(self, context: RunContext, seed: int, kills: str | None, width: int | None = None) -> None:
        self.context = context
        self.extractor = CheapExtractor(seed, None if kills is None else Path(kills), width)  # type: ignore[assignment]
