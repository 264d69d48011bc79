"""Sweeps of CLARID: trials decode from the spectra of one extraction, so that each sample has one SVD."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clarep_ray import dotted, models
from clarep_ray.analysis.outputs import ExtractionOutput
from clarep_ray.analysis.report import extraction_metrics
from clarep_ray.cluster.extract import run_extraction
from clarep_ray.cluster.plan import bound_to_spectrum, make_plan
from clarep_ray.cluster.settings import check_settings
from clarep_ray.cluster.sweep_space import choices, fields_of
from clarep_ray.cluster.sweep_study import Cell, Report, at_point
from clarep_ray.cluster.workers import gpus_per_actor
from clarep_ray.config import ExtractConfig, ModelConfig, Point, Space
from clarep_ray.config.checks import require
from clarep_ray.data.clarep_index import read_root
from clarep_ray.data.inside import refuse_links
from clarep_ray.models.adapter import Adapter

SEED_FIELDS = ("seed", "data.seed", "data.digits.seed")
WINDOW = "spectrum.num_directions"
ALWAYS = (
    *("nmi", "nmi_chance", "mean_num_removed", "median_num_removed", "share_ambiguous", "share_elbow_fallback"),
    *("mean_round_trip_error", "reject_rate"),
)
JUDGED = ("class_kept", "background_kept", "background_typical", "change_outside")


@dataclass(frozen=True)
class ClaridStudy:
    """CLARID as something to sweep. What changes the SVD has a base extraction of its own."""

    config: ExtractConfig
    """With absolute paths; `output.path` is the sweep's folder."""
    space: Space
    job = "sweep clarid"
    num_epochs = None

    def __post_init__(self) -> None:
        chosen = self.config.engine.micro_batch is not None
        require(chosen, "engine.micro_batch", None, "1 or more: one number for all trials")

    @property
    def root(self) -> Path:
        return Path(self.config.output.path)

    @property
    def metrics(self) -> tuple[str, ...]:
        judged = self.config.data.source == "spurious_digits" and self.config.model.name == "digits_dit"
        null = ("nmi_null",) if "null" in models.build(self.config.model).readings else ()
        return (*null, *ALWAYS, *(JUDGED if judged else ()))

    def seeded(self, point: Point, seed: int) -> ExtractConfig:
        changes: dict[str, Any] = {**self._seeds(seed), **point, "output.extras": (), "output.keep_spectrum": False}
        return dotted.override(self.config, changes | {"output.from_spectrum": None, "tracking.enabled": False})

    def _seeds(self, seed: int) -> dict[str, int]:
        """Each seed has pictures of its own, as far as they are drawn; those of a given side-car are what they are."""
        return {} if self.config.output.from_spectrum else dict.fromkeys(SEED_FIELDS, seed)

    def base(self, point: Point, seed: int) -> ExtractConfig:
        """Return the extraction whose spectra a trial decodes from, with the widest window of the sweep."""
        bound = {name: value for name, value in point.items() if self.has_basis(name)}
        windows = (self.config.spectrum.num_directions, *choices(self.space, WINDOW))
        kept = {WINDOW: max(windows), "output.keep_spectrum": True, "gate.enabled": False, "tracking.enabled": False}
        config = dotted.override(self.config, {**self._seeds(seed), **bound, **kept})
        mark = dotted.fingerprint(dotted.fingerprint_fields(dotted.override(config, {"seed": 0})) | {"seed": None})
        folder = refuse_links(self.root, f"base/{mark[:12]}/seed-{seed}")
        return dotted.override(config, {"output.path": str(folder)})

    def _base_folder(self, point: Point, seed: int) -> Path:
        return Path(self.config.output.from_spectrum or self.base(point, seed).output.path)

    def basis(self, point: Point, seed: int) -> str:
        if self.config.output.from_spectrum:
            return read_root(Path(self.config.output.from_spectrum))["root_sha256"]
        return dotted.fingerprint(dotted.fingerprint_fields(self.base(point, seed)))

    def has_basis(self, name: str) -> bool:
        return bound_to_spectrum(name) or name.startswith("data.")

    def identity(self) -> dict[str, Any]:
        return make_plan(self.config).fields

    def check(self, points: Sequence[Point], seeds: Sequence[int]) -> None:
        given = self.config.output.from_spectrum
        if given and tuple(seeds) != (self.config.seed,):
            raise ValueError(
                f"search.seeds: {tuple(seeds)} is not valid; valid: {self.config.seed} alone (output.from_spectrum)"
            )
        if given and (bound := [name for name in fields_of(self.space) if self.has_basis(name)]):
            raise ValueError(f"space: {bound[0]!r} is not swept; valid: what leaves {given!r} valid")
        built: dict[ModelConfig, Adapter] = {}
        for point in points:
            for config in (self.seeded(point, seeds[0]), self.base(point, seeds[0])):
                if config.model not in built:
                    built[config.model] = models.build(config.model)
                with at_point(point):
                    check_settings(built[config.model], config)

    def prepare(self, cells: Sequence[Cell], say: Callable[[str], None]) -> None:
        if self.config.output.from_spectrum:
            return
        bases = {config.output.path: config for config in (self.base(point, seed) for point, seed in cells)}
        for number, config in enumerate(bases.values(), 1):
            say(f"spectra {number} of {len(bases)}: {config.output.path}")
            run_extraction(config, say)

    def resources(self, cluster: Mapping[str, float]) -> dict[str, float]:
        return {"CPU": 1, "GPU": gpus_per_actor(self.config, cluster.get("GPU", 0.0))}

    @property
    def waits_for_machines(self) -> bool:
        return self.config.engine.autoscaling

    def measure(self, point: Point, seed: int, folder: Path, report: Report) -> dict[str, float]:
        folders = {"output.path": str(folder), "output.from_spectrum": str(self._base_folder(point, seed))}
        config = dotted.override(self.seeded(point, seed), folders)
        summary = run_extraction(config, lambda _: None, alone=True)
        output = ExtractionOutput(folder)
        found = extraction_metrics(output, config) if output.samples else {}
        return {_plain(name): value for name, value in found.items()} | {"reject_rate": summary["reject_rate"]}

    def replay(self, folder: Path, report: Report) -> None:
        """Do nothing: an extraction has no epochs."""


def _plain(name: str) -> str:
    """Return a metric's name without the kind of picture, of which a trial has one."""
    parts = name.split("/")
    return parts[-1] if parts[0] == "judge" else parts[0]
