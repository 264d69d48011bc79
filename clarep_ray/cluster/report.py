"""The page of an extraction or a sweep; for a slider, decode the extraction again at fixed k from its side-car."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from clarep_ray import dotted
from clarep_ray.analysis.gallery import is_sweep, read_own_calibration, write_extraction_page, write_sweep_page
from clarep_ray.analysis.gallery.k_steps import finished_k_steps, k_step_folder
from clarep_ray.cluster.extract import run_extraction
from clarep_ray.cluster.made_again import make_again
from clarep_ray.cluster.repair import recorded_config
from clarep_ray.config import ExtractConfig, Given, ReportConfig
from clarep_ray.config.checks import require
from clarep_ray.data.clarep_index import read_root
from clarep_ray.data.store import OutputStore


def write_report(config: ReportConfig, say: Callable[[str], None] = print) -> Path:
    """Write the page of an extraction or a sweep into its folder and return its path.

    Raises ValueError for a folder that is neither or is not finished, and for what does not fit it.
    """
    folder = config.folder
    if is_sweep(folder):
        require(not config.k_steps, "k_steps", config.k_steps, f"none: {str(folder)!r} is a sweep")
        require(config.calibration is None, "calibration", str(config.calibration), f"none: {str(folder)!r} is a sweep")
        return write_sweep_page(folder)
    read_root(folder)
    if config.calibration is not None:
        read_own_calibration(config.calibration, folder)
    decode_k_steps(folder, config.k_steps, say, config.given)
    make_again(OutputStore(folder))  # a summary that was cut short is no reason to have no page
    return write_extraction_page(
        folder, calibration=config.calibration, max_samples=config.max_samples, max_mb=config.max_mb
    )


def decode_k_steps(
    folder: Path, steps: Sequence[int], say: Callable[[str], None] = print, given: Given | None = None
) -> None:
    """Decode all samples of a finished extraction with the same k, once for every step that is not there yet.

    k = 0 is the projection `none`. Everything but k stays as in the extraction, and no SVD is taken. Resumable, as
    every extraction is. Raises ValueError where a step is no valid k, where there is no side-car, or where the
    extraction read places that were not given.
    """
    done = finished_k_steps(folder)
    if not set(steps) - set(done):
        return
    config = recorded_config(OutputStore(folder), given or Given())
    most = config.spectrum.num_directions
    for k in steps:
        require(0 <= k <= most, "k_steps", k, f"0 to {most}, the directions that {str(folder)!r} kept")
    configs = {k: k_step_config(config, folder, k) for k in dict.fromkeys(steps)}
    for k, step in configs.items():
        if k not in done:
            say(f"k = {k}: decoding into {step.output.path}")
            run_extraction(step, say)


def k_step_config(config: ExtractConfig, folder: Path, k: int) -> ExtractConfig:
    """Return the extraction of `folder` with the same k for every sample, decoded from its side-car."""
    kept = config.output.keep_spectrum and config.output.what == "canonical"
    require(kept, "output.keep_spectrum", config.output.keep_spectrum, "an output of --output.keep-spectrum")
    require(
        config.projection.mode != "none", "projection.mode", "none", "an output that something was projected out of"
    )
    cut = {"elbow.rule": "fixed", "elbow.num_removed": k} if k else {"projection.mode": "none"}
    return dotted.override(
        config,
        {
            **cut,
            "elbow.share": 1.0,
            "gate.enabled": False,  # its remedies are other k
            "output.path": str(k_step_folder(folder, k)),
            "output.from_spectrum": str(folder),
            "output.keep_spectrum": False,
            "output.extras": (),
        },
    )
