"""Extraction end to end against the straightforward way: one image at a time, with the published SVD."""

from __future__ import annotations

import time

import numpy as np
import torch
from numpy.typing import NDArray

from clarep_ray.analysis.judges import originals_of
from clarep_ray.config import ExtractConfig, ReferenceBenchmarkConfig
from clarep_ray.dotted import override
from clarep_ray.measured import Cell, Spread, Table
from clarep_ray.models.extractor import UnitExtractor

PLAIN = "one image at a time, published subspace iteration"
COLUMNS = {"way": "", "images/s of CPU time": ".4f", "times as fast": ".1f", "same k": ""}


def run(config: ReferenceBenchmarkConfig, extract: ExtractConfig) -> list[Table]:
    """Return images per second of CPU time of each way on one thread, their ratio, and how often k agrees.

    The straightforward way shares our inversion and decoding, at one row a call, and takes subspace iteration with
    its published stopping rule; it does the first `num_reference` of our pictures. All are measured in turn: the
    speed is the middle one, the ratio one of each turn.
    """
    extract = override(extract, {"output.extras": ()})
    plain = {"engine.micro_batch": 1, "spectrum.solver": "subspace_iteration", "spectrum.tolerance": None}
    ways = {f"ours, micro-batches of {extract.engine.micro_batch}": extract}
    if config.compile:
        ways["the same, compiled"] = override(extract, {"model.compile": True})
    ways[PLAIN] = override(extract, plain)
    pictures = originals_of(extract.data.digits, list(range(config.num_samples)))
    images, labels = np.stack([row.image for row in pictures]), [row.label for row in pictures]
    keys = [str(number) for number in range(config.num_samples)]
    extractors = {name: _warm(settings, images[:1], labels[:1]) for name, settings in ways.items()}

    def measured(name: str) -> tuple[float, list[int]]:
        count = config.num_reference if name == PLAIN else config.num_samples
        began = time.process_time()
        found, _ = extractors[name].run(images[:count], labels[:count], keys[:count])
        return count / (time.process_time() - began), found["num_removed"].tolist()

    turns = [{name: measured(name) for name in ways} for _ in range(config.num_repeats)]
    _, expected = turns[0][PLAIN]
    rows: list[tuple[Cell, ...]] = []
    for name in ways:
        speeds = Spread.of([turn[name][0] for turn in turns])
        ratio = Spread.of([turn[name][0] / turn[PLAIN][0] for turn in turns])
        same = sum(a == b for a, b in zip(turns[0][name][1], expected, strict=False))
        rows.append((name, speeds, ratio, None if name == PLAIN else f"{same}/{len(expected)}"))
    notes = [f"Window M = {extract.spectrum.num_directions}; k: beside that of the published subspace iteration."]
    if config.compile:
        ours, compiled, *_ = ways
        gain = Spread.of([turn[compiled][0] / turn[ours][0] for turn in turns])
        notes.append(f"Compiled: {gain.text('.2f')} times ours.")
    return [Table(COLUMNS, rows, notes)]


def _warm(settings: ExtractConfig, image: NDArray[np.uint8], label: list[int]) -> UnitExtractor:
    """Return an extractor that has done what is done once: lazy imports, compiling."""
    extractor = UnitExtractor(settings, "cuda" if torch.cuda.is_available() else "cpu")
    extractor.run(image, label, ["0"])
    return extractor
