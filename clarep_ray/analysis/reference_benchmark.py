"""Extraction end to end against the straightforward way: one image at a time, with the published SVD."""

from __future__ import annotations

import time

import numpy as np
import torch

from clarep_ray.analysis.judges import originals_of
from clarep_ray.config import ExtractConfig, ReferenceBenchmarkConfig
from clarep_ray.dotted import override
from clarep_ray.measured import Spread, Table
from clarep_ray.models.extractor import UnitExtractor

COLUMNS = {"way": "", "images/s of CPU time": ".4f", "times as fast": ".1f", "same k": ""}


def run(config: ReferenceBenchmarkConfig, extract: ExtractConfig) -> list[Table]:
    """Return images per second of CPU time of both ways on one thread, their ratio, and how often k agrees.

    The straightforward way shares our inversion and decoding, at one row a call, and takes subspace iteration with
    its published stopping rule; it does the first `num_reference` of our pictures. Both are measured in turn: the
    speed is the middle one, the ratio one of each turn.
    """
    extract = override(extract, {"output.extras": ()})
    plain = {"engine.micro_batch": 1, "spectrum.solver": "subspace_iteration", "spectrum.tolerance": 1e-3}
    extractor = UnitExtractor(extract, "cuda" if torch.cuda.is_available() else "cpu")
    rows = originals_of(extract.data.digits, list(range(config.num_samples)))
    images, labels = np.stack([row.image for row in rows]), [row.label for row in rows]
    keys = [str(number) for number in range(config.num_samples)]

    def measured(settings: ExtractConfig, count: int) -> tuple[float, list[int]]:
        chosen = extractor.configured(settings)
        chosen.run(images[:1], labels[:1], keys[:1])  # lazy imports are nobody's speed
        began = time.process_time()
        found, _ = chosen.run(images[:count], labels[:count], keys[:count])
        return count / (time.process_time() - began), found["num_removed"].tolist()

    turns = [
        (measured(extract, config.num_samples), measured(override(extract, plain), config.num_reference))
        for _ in range(config.num_repeats)
    ]
    ours, theirs = ([turn[side][0] for turn in turns] for side in (0, 1))
    (_, our_k), (_, their_k) = turns[0]
    same = sum(a == b for a, b in zip(our_k, their_k, strict=False))
    ratio = Spread.of([mine / plain for mine, plain in zip(ours, theirs, strict=True)])
    rows = [
        (f"ours, micro-batches of {extract.engine.micro_batch}", Spread.of(ours).value, ratio, None),
        (
            "one image at a time, published subspace iteration",
            Spread.of(theirs).value,
            1.0,
            f"{same}/{config.num_reference}",
        ),
    ]
    return [Table(COLUMNS, rows, [f"Window M = {extract.spectrum.num_directions}."])]
