"""What a folder of a model trained here says of its conditions: classes, label dropout, range of its pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from clarep_ray import dotted
from clarep_ray.data.records import shown

PIXEL_RANGE = (-1.0, 1.0)
"""What black and white are to every network trained here."""


@dataclass(frozen=True, kw_only=True)
class CdmLabels:
    """The classes a network was trained on, in the order of its labels, and how often it saw none.

    Raises ValueError for names that come twice or are empty, a dropout that is no share, and other pixels.
    """

    class_names: tuple[str, ...]
    """Empty: the network has no classes."""
    label_dropout: float
    """Share of the training samples without a label [0..1]; 0: the network has no unconditional branch."""
    pixel_range: tuple[float, ...] = PIXEL_RANGE
    """What black and white are."""

    def __post_init__(self) -> None:
        dotted.check_types(self)
        names = self.class_names
        twice = [name for name in names if names.count(name) > 1] if len(set(names)) < len(names) else []
        if twice or "" in names:
            raise ValueError(f"class_names: {shown(twice[0] if twice else '')!r} is no name, or comes twice")
        if not 0 <= self.label_dropout < 1:
            raise ValueError(f"label_dropout: {self.label_dropout} is not valid; valid: 0 up to, not including, 1")
        if self.pixel_range != PIXEL_RANGE:
            raise ValueError(f"pixel_range: {shown(str(list(self.pixel_range)))} is not valid; valid: [-1, 1]")

    @property
    def null_branch(self) -> bool:
        """Whether the label after the last class is the unconditional one."""
        return self.label_dropout > 0

    @property
    def num_embeddings(self) -> int | None:
        """How many labels the network embeds, the unconditional one included; None where it has no classes."""
        return len(self.class_names) + self.null_branch if self.class_names else None

    @staticmethod
    def parse(stored: Mapping[str, Any]) -> CdmLabels:
        """Return what JSON says; ValueError, or TypeError for fields that are missing or unknown."""
        fields: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in stored.items()
        }
        if "pixel_range" in fields:
            fields["pixel_range"] = tuple(map(float, fields["pixel_range"]))
        return CdmLabels(**fields)

    def stored(self) -> dict[str, Any]:
        """Return what `parse` reads."""
        return asdict(self)
