"""After an extraction: figures, metrics, summary and MLflow; and the table of projection controls."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from clarep_ray import dotted, tracking
from clarep_ray.analysis.figures import control_bars, save_figure, write_figures
from clarep_ray.analysis.outputs import ExtractionOutput
from clarep_ray.analysis.report import extraction_metrics, summary_table
from clarep_ray.analysis.tables import SeedTable, mean_std
from clarep_ray.cluster.extract import extract, open_extraction
from clarep_ray.cluster.health import health_lines, health_metrics
from clarep_ray.cluster.made_again import make_again
from clarep_ray.cluster.tracked import start_controls, start_extraction
from clarep_ray.config import PROJECTION_MODES, ExtractConfig
from clarep_ray.data.derived import SUMMARY, is_changed, record_derived
from clarep_ray.data.inside import refuse_links, write_inside
from clarep_ray.data.plain_json import plain_json
from clarep_ray.data.store import Store
from clarep_ray.data.untrusted import MAX_JSON_BYTES, parse_json_object

CONTROL_SEEDS = 3
OF_THE_NORM = ("clarid", "shrink", "random_shrink", "restore_norm")
"""Projection modes whose latent differs from another's by the norm that Eq. 2 takes away, or that have that norm."""
LEAST_CHANGE = 0.05
"""Share of its norm that a latent must lose before a control of the norm could show anything."""
NORM_RATIO = "norm_ratio"
CONTROL_COLUMNS = ("nmi", "nmi_null", "class_kept", "background_kept", "background_typical", "change_outside")


def extract_and_publish(config: ExtractConfig, preset: str, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Run the extraction, write figures and `summary.json`, tell MLflow and the user; return the summary."""
    with open_extraction(config, say) as extraction, start_extraction(extraction, preset) as run:
        summary = extract(extraction, say, run)
        store = extraction.store
        output = ExtractionOutput(store)
        figures = write_figures(output) if output.samples else []
        for figure in figures:
            store.upload(figure.name)
        metrics = extraction_metrics(output, config) if output.samples else {}
        summary |= {"preset": preset, "metrics": metrics}
        path = _write_summary(store, summary)
        record_derived(store, [SUMMARY, *(figure.name for figure in figures)])
        make_again(store)  # what else of an earlier process was damaged
        _tell(run, summary, [*figures, path], output.what)
    say(_epilogue(summary, metrics, figures, output.what, run.browse))
    return summary


def _write_summary(store: Store, summary: dict[str, Any]) -> Path:
    """Write `summary.json` and return it; where nothing was left to do, that of the process that did the work stays."""
    path = store.desk / SUMMARY
    earlier = None if summary["num_actors"] else _read_summary(store)
    kept = summary
    if earlier is not None and plain_json(earlier["metrics"]) == plain_json(summary["metrics"]):
        kept = earlier
    if kept is summary or not path.is_file():
        write_inside(store.desk, SUMMARY, plain_json(kept))
        store.upload(SUMMARY)
    return path


def _read_summary(store: Store) -> dict[str, Any] | None:
    """Return an earlier process's summary; None where there is none, or it was damaged since."""
    if is_changed(store, SUMMARY):
        return None
    try:
        found = parse_json_object(store.read(SUMMARY, MAX_JSON_BYTES), f"{store.where}/{SUMMARY}")
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found.get("metrics"), dict) else None


def _tell(run: tracking.Run, summary: dict[str, Any], files: list[Path], what: str) -> None:
    counts = {name: float(summary[name]) for name in ("num_inputs", "num_ok", "reject_rate")}
    counts |= {f"rejects/{reason}": float(count) for reason, count in summary["rejects"].items()}
    if summary["num_actors"]:  # else nothing was left to do, and there is no speed to speak of
        counts |= {name: float(summary[name]) for name in ("wall_s", "images_per_s")}
    run.metrics(summary["metrics"] | counts | health_metrics(summary["health"]))
    run.tags({"root_sha256": summary["root_sha256"]})
    run.note(f"{MADE[what].format(**summary)} in `{summary['output']}`\n\n{summary_table(summary['metrics'])}")
    run.files(files)


MADE = {
    "canonical": "{num_ok} Canonical Samples from {num_inputs} images",
    "unprojected": "{num_ok} unprojected samples from {num_inputs} images",
    "features": "features of {num_ok} of {num_inputs} images",
    "samples": "{num_ok} of {num_inputs} fresh samples",
}


def _epilogue(
    summary: dict[str, Any], metrics: dict[str, float], figures: list[Path], what: str, uri: str | None
) -> str:
    folder = summary["output"]
    rejects = ", ".join(f"{count} {reason}" for reason, count in summary["rejects"].items()) or "none"
    lines = [
        "",
        f"{MADE[what].format(**summary)}; rejected: {rejects}",
    ]
    if summary["num_actors"]:
        stages = ", ".join(f"{name.removesuffix('_s')} {value:.0f}" for name, value in summary["stage_s"].items())
        rate, actors = summary["images_per_s"], summary["num_actors"]
        lines.append(f"{rate:.2f} images/s with {actors} actors; seconds in stages: {stages}")
    if "median_num_removed" in metrics:
        lines.append(
            f"median k {metrics['median_num_removed']:g}; {metrics['share_ambiguous']:.0%} of elbows ambiguous; "
            f"{metrics['mean_num_products']:.0f} products per sample"
        )
    if "mean_round_trip_error" in metrics:
        lines.append(f"round-trip error {metrics['mean_round_trip_error']:.3f}")
    if "share_noise_outside" in metrics and metrics["share_noise_outside"] > 0:
        lines.append(
            f"{metrics['share_noise_outside']:.0%} of inverted latents hold noise of another scale than they should "
            f"(standard deviation {metrics['mean_noise_std']:.2f} on average): a wrong clock, or too few steps"
        )
    if summary["health"] is not None:
        lines += health_lines(summary["health"])
    if metrics:
        lines += ["", summary_table(metrics)]
    lines.append("")
    if figures:
        lines.append(f"look at      {figures[0].parent}/{', '.join(figure.name for figure in figures)}")
    lines += [
        f"shards       {folder}/shards/*.tar (timm: _info.json; rows and rejects: index.parquet)",
        f"check        uv run jobs/verify.py {folder}",
    ]
    if uri:
        lines.append(f"browse       {uri}")
    return "\n".join(lines)


def run_controls(config: ExtractConfig, preset: str, say: Callable[[str], None] = print) -> SeedTable:
    """Extract with every projection control, at guidance 1 and at the run's scale, over three seeds.

    Writes one output per seed below `output.path`, and the table as markdown, CSV and picture there and to MLflow, with
    the seeds' extractions nested in it.
    """
    dotted.check_local("output.path", config.output.path)
    root = Path(config.output.path).absolute()
    scales = sorted({1.0, config.decoding.guidance_scale})
    extras = ("original", *(f"{mode}@{scale:g}" for scale in scales for mode in PROJECTION_MODES))
    with start_controls(config, preset) as run:
        values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        ratios, chances = list[float](), list[float]()
        for seed in range(config.seed, config.seed + CONTROL_SEEDS):
            metrics = _controls_of_seed(config, preset, seed, extras, run.id, say)
            for name, column in product(extras, CONTROL_COLUMNS):
                key = f"{column}/{name}" if column.startswith("nmi") else f"judge/{name}/{column}"
                values[name][column].append(metrics.get(key, float("nan")))
            ratios.append(metrics["mean_norm_ratio"])
            chances.append(metrics.get("nmi_chance", float("nan")))
            for name in extras:
                values[name][NORM_RATIO] += [ratios[-1]] if name.partition("@")[0] in OF_THE_NORM else []
        table = SeedTable("projection@guidance", (*CONTROL_COLUMNS, NORM_RATIO), values)
        text = f"{table.markdown()}\n\n{about_the_norm(ratios)}"
        if np.isfinite(chances).all():
            text += f"\n\nNMI by chance, with shuffled labels: {mean_std(chances)[0]:.3f}."
        write_inside(root, "controls.md", f"{text}\n".encode())
        write_inside(root, "controls.csv", table.csv().encode())
        save_figure(control_bars(table), root, "controls.png")
        run.metrics(
            {
                f"{column}/{row}": mean_std(found)[0]
                for row, cells in values.items()
                for column, found in cells.items()
                if np.isfinite(found).all() and found
            }
        )
        run.note(f"Mean and standard deviation over {CONTROL_SEEDS} seeds\n\n{text}")
        run.files(root / name for name in ("controls.md", "controls.csv", "controls.png"))
    say(f"\n{text}\n\ntable and picture: {root}/controls.md, controls.csv, controls.png")
    if run.browse:
        say(f"browse: {run.browse}")
    return table


def about_the_norm(ratios: Sequence[float]) -> str:
    """Return what to know of ||x_t projected by Eq. 2|| / ||x_t||, of which there is one mean for each seed."""
    mean = mean_std(ratios)[0]
    text = (
        f"norm_ratio: ||x_t projected by Eq. 2|| / ||x_t||, {mean:.3f} in the mean; `shrink` and `random_shrink` have "
        "the norm of Eq. 2, `restore_norm` has that of x_t."
    )
    if 1 - mean < LEAST_CHANGE:
        text += (
            f" The norm changes by {1 - mean:.1%} alone: these controls have no power here, and that nothing follows "
            "from the norm says nothing."
        )
    return text


def _controls_of_seed(
    config: ExtractConfig,
    preset: str,
    seed: int,
    extras: tuple[str, ...],
    parent: str | None,
    say: Callable[[str], None],
) -> dict[str, float]:
    """Extract with one seed and return the metrics."""
    changes: dict[str, Any] = {"seed": seed, "data.seed": seed, "data.digits.seed": seed, "output.extras": extras}
    changes["output.path"] = str(refuse_links(Path(config.output.path).absolute(), f"seed-{seed}"))
    seeded = dotted.override(config, changes)
    say(f"seed {seed}: {seeded.output.path}")
    with (
        open_extraction(seeded, say) as extraction,
        start_extraction(extraction, f"{preset} seed {seed}", parent) as run,
    ):
        summary = extract(extraction, say, run)
        summary["metrics"] = extraction_metrics(ExtractionOutput(Path(seeded.output.path)), seeded)
        _tell(run, summary, [], seeded.output.what)
    return summary["metrics"]
