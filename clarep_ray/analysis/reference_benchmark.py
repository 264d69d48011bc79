"""Extraction end to end against the straightforward way: one image at a time, with the published SVD."""

from __future__ import annotations

import time

import numpy as np
import torch

from clarep_ray.analysis.judges import originals_of
from clarep_ray.config import ExtractConfig, ReferenceBenchmarkConfig
from clarep_ray.dotted import override
from clarep_ray.models.extractor import UnitExtractor

HEADER = ("way", "images/s of CPU time", "same k")


def run(config: ReferenceBenchmarkConfig, extract: ExtractConfig) -> str:
    """Return markdown: images per second of CPU time of both ways on one thread, the ratio, and how often k agrees.

    The straightforward way shares our inversion and decoding, at one row a call, and takes subspace iteration with
    its published stopping rule; it does the first `num_reference` of our pictures.
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

    ours, our_k = measured(extract, config.num_samples)
    theirs, their_k = measured(override(extract, plain), config.num_reference)
    same = sum(a == b for a, b in zip(our_k, their_k, strict=False))
    lines = [
        HEADER,
        ("---",) * len(HEADER),
        (f"ours, micro-batches of {extract.engine.micro_batch}", f"{ours:.3f}", ""),
        ("one image at a time, published subspace iteration", f"{theirs:.4f}", f"{same}/{config.num_reference}"),
    ]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return f"{table}\n\n* ours / straightforward: {ours / theirs:.1f} (window M = {extract.spectrum.num_directions})"
