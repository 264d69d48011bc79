"""Fewer network evaluations: how far coarser grids and second-order steps move CLAReps from a fine grid's."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from clarep_ray.analysis.judges import originals_of
from clarep_ray.clarid.sampling import path_evaluations
from clarep_ray.clarid.schedule import path_of
from clarep_ray.config import ExtractConfig, SamplingBenchmarkConfig
from clarep_ray.dotted import override
from clarep_ray.measured import Cell, Table
from clarep_ray.models.digit_classifier import load
from clarep_ray.models.extractor import Arrays, UnitExtractor

COLUMNS = {
    "solver": "",
    "steps": "d",
    "t_e": "g",
    "evaluations": "d",
    "pixels moved": ".2f",
    "feature moved": ".4f",
    "pixels off": ".2f",
    "feature off": ".4f",
    "same k": ".2f",
    "round trip": ".3f",
    "class kept": ".3f",
}


def run(config: SamplingBenchmarkConfig, extract: ExtractConfig) -> list[Table]:
    """Return each way of sampling beside the finest, and the finest beside itself with another seed.

    Pixels moved: root mean square in grey levels; feature moved: L2 distance of Canonical Features over their norm;
    both are medians over the pictures; off: the same beside the limit of fine steps. Evaluations: inversion, its check
    and guided decoding of one picture.
    """
    extract = override(extract, {"output.extras": (), "inversion.num_steps": config.num_steps[-1]})
    extractor = UnitExtractor(extract, "cuda" if torch.cuda.is_available() else "cpu")
    pictures = originals_of(extract.data.digits, list(range(config.num_samples)))
    images, labels = np.stack([picture.image for picture in pictures]), [picture.label for picture in pictures]
    keys = [str(number) for number in range(config.num_samples)]

    def made(settings: ExtractConfig) -> Arrays:
        return extractor.configured(settings).run(images, labels, keys)[0]

    def row(name: str, settings: ExtractConfig, found: Arrays) -> tuple[Cell, ...]:
        steps, solver = settings.inversion.num_steps, settings.inversion.solver
        path = path_of(extractor.model.schedule, settings.inversion)
        guided = 1 if settings.decoding.guidance_scale == 1 else 2
        evaluations = (2 + guided) * path_evaluations(len(path) - 1, solver)
        kept = np.mean(load("digit").predict(found["samples"]) == labels)
        return (
            name,
            steps,
            settings.inversion.project_t,
            evaluations,
            float(np.median(_pixels_moved(found, truth))),
            float(np.median(_feature_moved(found, truth))),
            float(np.median(_pixels_moved(found, limit))),
            float(np.median(_feature_moved(found, limit))),
            float(np.mean(found["num_removed"] == truth["num_removed"])),
            float(np.median(found["round_trip_error"])),
            float(kept),
        )

    truth = made(extract)
    even = {"inversion.spacing": "log_snr"}
    fine = even | {"inversion.solver": "heun", "inversion.num_steps": config.limit_steps}
    limit = made(override(extract, fine))
    rows = [row("ddim", extract, truth)]
    other = override(extract, {"seed": extract.seed + 1})
    rows.append(row("ddim, another seed", other, made(other)))
    for solver in config.solvers:
        for steps in config.num_steps[::-1]:
            t_e = nearest(extractor.model.schedule.times(steps), extract.inversion.project_t)
            changes = {"inversion.solver": solver, "inversion.num_steps": steps, "inversion.project_t": t_e}
            changed = override(extract, changes)
            if changed != extract:
                rows.append(row(solver, changed, made(changed)))
        for steps in config.log_snr_steps[::-1]:
            changed = override(extract, even | {"inversion.solver": solver, "inversion.num_steps": steps})
            rows.append(row(f"{solver}, log_snr", changed, made(changed)))
    return [Table(COLUMNS, rows)]


def nearest(times: torch.Tensor, t: float) -> float:
    """Return the noisy time of a grid that is nearest to t."""
    noisy = times[1:]
    return noisy[(noisy - t).abs().argmin()].item()


def _pixels_moved(found: Arrays, truth: Arrays) -> NDArray[np.float64]:
    change = found["samples"].astype(np.float64) - truth["samples"]
    return np.sqrt(np.square(change).mean((1, 2, 3)))


def _feature_moved(found: Arrays, truth: Arrays) -> NDArray[np.float64]:
    change = np.linalg.norm(found["features"] - truth["features"], axis=1)
    return change / np.linalg.norm(truth["features"], axis=1)
