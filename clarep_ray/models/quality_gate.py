"""The quality gate: Canonical Samples judged and, where they fail, made again with fewer directions or less noise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

from clarep_ray import dotted
from clarep_ray.config import ExtractConfig
from clarep_ray.data.units import GATE_INPUT, OK, SPECTRUM_ARRAYS
from clarep_ray.models.judges import Classifier

Arrays = dict[str, NDArray[Any]]
Records = list[dict[str, Any]]
Faults = tuple[str, ...]
Run = Callable[
    [ExtractConfig, NDArray[np.uint8], Sequence[int], Sequence[str], Mapping[str, NDArray[Any]] | None],
    tuple[Arrays, Records],
]
"""(config, images, labels, keys, resumed) -> arrays and records, as `UnitExtractor.run`."""
CLASS, ARTEFACT, ROUND_TRIP, ELBOW, REJECTED = "class", "artefact", "round_trip", "elbow", "rejected"
ACCEPTED, RETRIED, FLAGGED = "accepted", "retried", "flagged"
SMALLER_T = 0.75
KEPT_FOR_RETRIES = ("x_t", "right_vectors")


@dataclass(frozen=True)
class Remedy:
    """A second way to make a sample: its name, its settings, which faults it mends, and if the SVD is used again."""

    name: str
    config: ExtractConfig
    mends: frozenset[str]
    keeps_spectrum: bool


@dataclass(frozen=True)
class QualityGate:
    """A run's gate: its settings, the model's time grid and number of classes, and who reads the class."""

    config: ExtractConfig
    grid: Float[Tensor, " steps"]
    num_classes: int
    classifiers: Sequence[Classifier]

    def run(
        self,
        run: Run,
        images: UInt8[np.ndarray, " n h w 3"],
        labels: Sequence[int],
        keys: Sequence[str],
        resumed: Mapping[str, NDArray[Any]] | None,
    ) -> tuple[Arrays, Records]:
        """Return what `run` says of n pictures, with the gate's verdict in the record of each sample.

        `gate` is accepted, retried (made again as `gate_remedy` says, which left no fault) or flagged (`gate_faults`
        stay, for no remedy helped; the sample is that of the first try). A remedy is tried on all samples together
        that still need it, in their order.
        """
        open_gate = {"gate.enabled": False, "output.keep_spectrum": self.config.needs_spectrum}
        arrays, records = run(dotted.override(self.config, open_gate), images, labels, keys, resumed)
        classes = np.array(labels, np.int64) % self.num_classes
        first = self._faults(arrays, records, images, classes)
        verdicts = [_verdict(FLAGGED if faults else ACCEPTED, faults) for faults in first]
        votes = self._votes(images, classes)
        spectrum = {name: arrays[name].copy() for name in SPECTRUM_ARRAYS if name in arrays}
        for remedy in self.remedies():
            rows = [
                row
                for row, faults in enumerate(first)
                if verdicts[row]["gate"] == FLAGGED and remedy.mends.issuperset(faults)
            ]
            if not rows:
                continue
            again = {name: array[rows] for name, array in spectrum.items()} if remedy.keeps_spectrum else None
            some = images[rows], [labels[row] for row in rows], [keys[row] for row in rows]
            made, results = run(remedy.config, *some, again)
            left = self._faults(made, results, images[rows], classes[rows])
            for place, row in enumerate(rows):
                if left[place]:
                    continue
                for name in made:
                    arrays[name][row] = made[name][place]
                records[row], verdicts[row] = results[place], _verdict(RETRIED, first[row], remedy.name)
        if not self.config.output.keep_spectrum:
            arrays = {name: array for name, array in arrays.items() if name not in KEPT_FOR_RETRIES}
        if votes is not None:  # a judge that does not read the inputs says nothing about what was made of them
            records = [record | {GATE_INPUT: float(share)} for record, share in zip(records, votes, strict=True)]
        pairs = zip(records, verdicts, strict=True)
        return arrays, [record | verdict if record["status"] == OK else record for record, verdict in pairs]

    def remedies(self) -> Iterator[Remedy]:
        """Yield what is tried, in order: half of the directions, a quarter, ..., then smaller t_e on the grid."""
        config, gate = dotted.override(self.config, {"gate.enabled": False}), self.config.gate
        for power in range(1, gate.num_fewer + 1) if config.needs_spectrum else ():
            share = config.elbow.share / 2**power
            changed = dotted.override(config, {"elbow.share": share})
            yield Remedy(f"elbow.share {share:g}", changed, frozenset({CLASS, ARTEFACT}), keeps_spectrum=True)
        t = config.inversion.project_t
        for _ in range(gate.num_earlier):
            lower = self.grid[(self.grid <= SMALLER_T * t) & (self.grid > self.grid[0])]
            if not len(lower):
                return
            t = lower.max().item()
            changed = dotted.override(config, {"inversion.project_t": t, "output.from_spectrum": None})
            mends = frozenset({CLASS, ARTEFACT, ROUND_TRIP})
            yield Remedy(f"inversion.project_t {t:g}", changed, mends, keeps_spectrum=False)

    def _faults(
        self, arrays: Arrays, records: Records, originals: NDArray[np.uint8], classes: NDArray[np.int64]
    ) -> list[Faults]:
        gate, made = self.config.gate, arrays["samples"]
        failed: dict[str, NDArray[np.bool_]] = {REJECTED: np.array([record["status"] != OK for record in records])}
        votes = self._votes(made, classes)
        if votes is not None:
            failed[CLASS] = votes < gate.min_votes
        failed[ARTEFACT] = ~(artefact_score(made, originals) <= gate.max_artefact)
        failed[ROUND_TRIP] = ~(arrays["round_trip_error"] <= gate.max_round_trip_error)
        if "elbow_margin" in arrays:
            failed[ELBOW] = ~(arrays["elbow_margin"] >= gate.min_elbow_margin)
        return [tuple(name for name, bad in failed.items() if bad[row]) for row in range(len(made))]

    def _votes(self, images: NDArray[np.uint8], classes: NDArray[np.int64]) -> NDArray[np.float64] | None:
        """Return the share of classifiers that read the class of each image; None without classifiers."""
        if not self.classifiers:
            return None
        return np.mean([classifier.predict(images) == classes for classifier in self.classifiers], axis=0)


def artefact_score(
    made: UInt8[np.ndarray, " n h w 3"], original: UInt8[np.ndarray, " n h w 3"]
) -> Float[np.ndarray, " n"]:
    """Return how much rougher and how much more clipped pictures are than the originals, 0 and more.

    The sum of ln of the ratio of mean absolute differences of neighbouring pixels, and of the share of channel
    values at 0 or 255 above the original's; what is smoother, or clipped less, counts as 0.
    """
    rougher = np.log(_roughness(made) / _roughness(original))
    clipped = _clipped(made) - _clipped(original)
    return np.maximum(rougher, 0) + np.maximum(clipped, 0)


def _roughness(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    pixels = images.astype(np.float64)
    across, down = (np.abs(np.diff(pixels, axis=axis)).mean((1, 2, 3)) for axis in (1, 2))
    return np.maximum(across + down, 1.0)  # below one grey level nothing is rough


def _clipped(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    return ((images == 0) | (images == 255)).mean((1, 2, 3))


def _verdict(gate: str, faults: Faults, remedy: str = "") -> dict[str, str]:
    return {"gate": gate, "gate_faults": " ".join(faults), "gate_remedy": remedy}
