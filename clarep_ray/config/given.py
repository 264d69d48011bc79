"""What `verify --repair` and `report` are told of an extraction beside its output: what the output alone cannot say."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from clarep_ray import dotted


@dataclass(frozen=True, kw_only=True)
class GivenModel:
    """The model of an extraction, where its weights are no shipped ones."""

    weights: str | None = None
    """Folder of the weights, whose hash the output has."""
    prompts: str | None = None
    """stable_diffusion: JSON file of prompts."""
    allow_download: bool = False
    """Let model.weights be a Hugging Face Hub id."""


@dataclass(frozen=True, kw_only=True)
class GivenData:
    """The input of an extraction, whose hash the output has."""

    path: str | None = None
    """Root folder of the input, or its files."""
    labels_file: str | None = None
    """flat_folder: CSV of name and class, or a devkit."""


@dataclass(frozen=True, kw_only=True)
class GivenGate:
    """The judges of an extraction's quality gate, whose hash the output has."""

    classifiers: tuple[str, ...] | None = None
    """Folders of classifiers."""


@dataclass(frozen=True, kw_only=True)
class GivenSpectrum:
    """What an extraction was decoded from."""

    from_spectrum: str | None = None
    """The earlier output, whose root hash the output has."""


@dataclass(frozen=True, kw_only=True)
class GivenEngine:
    """The machines that compute again."""

    num_actors: int | None = None
    """Model actors; None takes one per GPU, or one per CPU where there is no GPU."""
    gpus_per_actor: float | None = None
    """GPUs (or a fraction) of each actor; None takes 1 where the cluster has GPUs, else 0."""
    autoscaling: bool = False
    """The cluster grows to what the actors ask for."""
    allow_poison: bool = False
    """Reject an image that kills or hangs every process that works on it."""


@dataclass(frozen=True, kw_only=True)
class Given:
    """What is said again of an earlier extraction by who wants it computed; its options are those of the extraction.

    An output may be somebody else's: its record of places, permissions and machines is not followed
    (`clarep_ray/config/found.py`).
    """

    model: GivenModel = field(default_factory=GivenModel)
    data: GivenData = field(default_factory=GivenData)
    gate: GivenGate = field(default_factory=GivenGate)
    output: GivenSpectrum = field(default_factory=GivenSpectrum)
    engine: GivenEngine = field(default_factory=GivenEngine)

    def said(self) -> dict[str, Any]:
        """Return {dotted field: value} of what was said."""
        return {name: value for name, value in dotted.flatten(self).items() if value is not None}
