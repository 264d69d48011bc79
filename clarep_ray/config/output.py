"""What an extraction writes, and where."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from clarep_ray.config.checks import require
from clarep_ray.config.credentials import shown_url
from clarep_ray.config.location import VALID, is_url, parse_s3
from clarep_ray.config.projection import UNPROJECTED, parse_extra
from clarep_ray.dotted import EXECUTION, WHERE, check_types

OutputKind = Literal["canonical", "features", "samples"]


@dataclass(frozen=True, kw_only=True)
class OutputConfig:
    """What is written, and where."""

    path: str = field(default="outputs/extract", metadata=WHERE)
    """Output folder, or s3://BUCKET/PREFIX. The same folder and the same fingerprint continue an interrupted run."""
    what: OutputKind = "canonical"
    """canonical: Canonical Samples. features: features of the originals alone. samples: class samples from noise."""
    extras: tuple[str, ...] = ()
    """More images per sample: input (as read), original (decode(encode(input)): another image where the model works on
    latents), reconstruction, guidance, or MODE@SCALE for a projection control."""
    keep_spectrum: bool = False
    """Keep x_{t_e}, singular values and right vectors as a side-car, for --output.from-spectrum."""
    from_spectrum: str | None = field(default=None, metadata=WHERE)
    """Decode from the side-car of this earlier output; its root hash, not its path, enters the fingerprint."""
    max_reject_rate: float = field(default=0.01, metadata=EXECUTION)
    """Exit with 10 where more than this share of the input was rejected [0..1]."""

    def __post_init__(self) -> None:
        check_types(self)
        require(bool(self.path), "output.path", self.path, VALID)
        for name, path in (("path", self.path), ("from_spectrum", self.from_spectrum or "")):
            require(not is_url(path) or parse_s3(path) is not None, f"output.{name}", shown_url(path), VALID)
        require(0 <= self.max_reject_rate <= 1, "output.max_reject_rate", self.max_reject_rate, "0 to 1")
        for name in self.extras:
            parse_extra(name)
        if self.what != "canonical":
            self._check_other_kinds()

    def _check_other_kinds(self) -> None:
        """Refuse what only CLARID has: a spectrum, and pictures projected and decoded from the same latent."""
        allowed = UNPROJECTED if self.what == "features" else ()
        valid = f"{', '.join(allowed) or 'none'} where output.what is {self.what}"
        require(set(self.extras) <= set(allowed), "output.extras", self.extras, valid)
        valid = f"off where output.what is {self.what}"
        require(not self.keep_spectrum, "output.keep_spectrum", self.keep_spectrum, valid)
        require(not self.from_spectrum, "output.from_spectrum", self.from_spectrum, valid)
