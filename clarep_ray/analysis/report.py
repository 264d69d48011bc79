"""The numbers of one extraction: clusters before and after, judges on the embedded data, elbows, errors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from clarep_ray.analysis.clusters import cluster_nmi, nmi_with_chance
from clarep_ray.analysis.judges import accuracy_on_originals, judge, originals_of
from clarep_ray.analysis.outputs import ExtractionOutput
from clarep_ray.config import ExtractConfig
from clarep_ray.data.text_tables import markdown_table
from clarep_ray.data.units import GATE_FIELDS, GATE_INPUT
from clarep_ray.models.quality_gate import ACCEPTED, FLAGGED, RETRIED

JUDGE_READS, GATE_READ = "judge_on_inputs/", "gate/class_read_in_inputs"
NO_NMI = "no NMI: it needs two classes or more, and more images than classes"


def extraction_metrics(output: ExtractionOutput, config: ExtractConfig) -> dict[str, float]:
    """Return {metric: value} of a finished extraction; names are stable keys for tracking.

    `nmi/X` and `nmi_null/X` cluster features of X read with the label and without it; a condition's embedding
    alone can separate classes, so only the second says what the picture holds; `nmi_chance` is what shuffled labels
    give. `judge/X/...` exist for the embedded data only; `judge_on_inputs/...` is what the same judges read in the
    inputs themselves.
    """
    metrics = _inversion_metrics(output) | (_spectrum_metrics(output) if output.has_spectrum else {})
    metrics |= _gate_metrics(output)
    for name in (*output.extras, ""):
        metrics |= _named_metrics(output, name, config)
    return metrics


def _inversion_metrics(output: ExtractionOutput) -> dict[str, float]:
    errors = output.index["round_trip_error"].drop_null().to_numpy()
    stds, outside = (output.index[name].drop_null().to_numpy() for name in ("noise_std", "noise_outside"))
    found = {"mean_round_trip_error": float(np.mean(errors))} if len(errors) else {}
    if not len(stds):  # of an earlier version
        return found
    return found | {"mean_noise_std": float(np.mean(stds)), "share_noise_outside": float(np.mean(outside))}


def _gate_metrics(output: ExtractionOutput) -> dict[str, float]:
    """Return how many samples the quality gate found how, and what was wrong; nothing where it was off."""
    rows = [row for row in output.index.select(GATE_FIELDS).to_pylist() if row["gate"]]
    verdicts = [row["gate"] for row in rows]
    counts = {f"gate/{name}": float(verdicts.count(name)) for name in (ACCEPTED, RETRIED, FLAGGED)} if verdicts else {}
    found = Counter(name for row in rows for name in row["gate_faults"].split())
    remedies = Counter(row["gate_remedy"] for row in rows if row["gate_remedy"])
    named = {f"gate/fault/{name}": float(count) for name, count in found.items()}
    votes = output.index[GATE_INPUT].drop_null().to_numpy()
    read = {GATE_READ: float(np.mean(votes))} if len(votes) else {}
    return counts | named | {f"gate/remedy/{name}": float(count) for name, count in remedies.items()} | read


def _spectrum_metrics(output: ExtractionOutput) -> dict[str, float]:
    index = output.index
    return {
        "median_num_removed": float(np.median(index["num_removed"].to_numpy())),
        "mean_num_removed": float(np.mean(index["num_removed"].to_numpy())),
        "share_ambiguous": float(np.mean(index["ambiguous"].to_numpy())),
        "share_elbow_fallback": float(np.mean(index["elbow_method"].to_numpy() == "chord_fallback")),
        "share_converged": float(np.mean([sample.record["converged"] for sample in output.samples])),
        "max_residual": float(np.max(index["max_residual"].to_numpy())),
        "mean_num_products": float(np.mean(index["num_products"].to_numpy())),
        "mean_norm_ratio": float(np.mean(index["norm_ratio"].to_numpy())),
    }


def _named_metrics(output: ExtractionOutput, name: str, config: ExtractConfig) -> dict[str, float]:
    shown = name or output.what
    metrics: dict[str, float] = {}
    labels = output.labels
    features = output.features(name)
    valid = np.asarray(np.isfinite(features).all(1))
    if not valid.all():  # of an extra alone: a sample's own make it a reject
        metrics[f"num_non_finite/{shown}"] = float((~valid).sum())
    if 2 <= len(np.unique(labels[valid])) < valid.sum():
        metrics[f"nmi/{shown}"], chance, _ = nmi_with_chance(features[valid], labels[valid], config.seed)
        metrics["nmi_chance"] = chance
        first: dict[str, Any] = output.samples[0].members
        if "null_feature.npy" in first:
            null = output.features(name, null=True)
            both = valid & np.isfinite(null).all(1)
            if 2 <= len(np.unique(labels[both])) < both.sum():
                metrics[f"nmi_null/{shown}"] = cluster_nmi(null[both], labels[both], config.seed)
    judged = config.data.source == "spurious_digits" and config.model.name == "digits_dit"
    if judged and name in output.picture_names:
        numbers = [int(sample.record["id"].rpartition("-")[2]) for sample in output.samples]
        originals = originals_of(config.data.digits, numbers)
        verdict = judge(output.pictures(name), originals, valid)
        metrics |= {f"judge/{shown}/{key}": value for key, value in asdict(verdict).items() if value == value}
        metrics |= {f"{JUDGE_READS}{key}": value for key, value in accuracy_on_originals(originals).items()}
    return metrics


def metric_rows(metrics: Mapping[str, float]) -> tuple[tuple[str, ...], dict[str, list[float | None]]]:
    """Return the titles of the cluster and judge metrics there are, and their cells for each kind of picture."""
    names = list(dict.fromkeys(key.split("/")[1] for key in metrics if key.startswith(("nmi/", "judge/"))))
    columns = {
        "NMI, with label": "nmi/{}",
        "NMI, no label": "nmi_null/{}",
        "class kept": "judge/{}/class_kept",
        "background kept": "judge/{}/background_kept",
        "class's background": "judge/{}/background_typical",
        "change outside digit": "judge/{}/change_outside",
    }
    used = {title: key for title, key in columns.items() if any(key.format(name) in metrics for name in names)}
    return tuple(used), {name: [metrics.get(key.format(name)) for key in used.values()] for name in names}


def summary_table(metrics: Mapping[str, float]) -> str:
    """Return the cluster and judge metrics as a markdown table, one row per kind of image, and what to know of them."""
    titles, rows = metric_rows(metrics)
    if not rows:
        return "\n".join((NO_NMI, *about_numbers(metrics)))
    shown = [(name, *("-" if cell is None else f"{cell:.3f}" for cell in cells)) for name, cells in rows.items()]
    lines = [markdown_table(("picture", *titles), shown)]
    if "nmi_chance" in metrics:
        lines += ["", f"NMI by chance, with shuffled labels: {metrics['nmi_chance']:.3f}"]
    else:
        lines += ["", NO_NMI]
    return "\n".join((*lines, *about_numbers(metrics)))


def about_numbers(metrics: Mapping[str, float]) -> list[str]:
    """Say what the table's numbers cannot say by themselves."""
    lines: list[str] = []
    if any(key.startswith("nmi/") for key in metrics) and not any(key.startswith("nmi_null/") for key in metrics):
        lines.append(
            "NMI is of features read with the label (the model has no unconditional branch): the label is an input of "
            "the network and can explain it by itself, whatever the image shows"
        )
    read = {key.removeprefix(JUDGE_READS): value for key, value in metrics.items() if key.startswith(JUDGE_READS)}
    if read:
        lines.append(f"the judges on the inputs themselves: {', '.join(f'{k} {v:.3f}' for k, v in read.items())}")
    if GATE_READ in metrics:
        poor = "; the judges are the problem, not the samples" if metrics[GATE_READ] < 0.5 else ""
        lines.append(f"the gate's judges read the class of {metrics[GATE_READ]:.1%} of the inputs themselves{poor}")
    lost = {key.partition("/")[2]: int(v) for key, v in metrics.items() if key.startswith("num_non_finite/")}
    if lost:
        shown = ", ".join(f"{count} of {name}" for name, count in lost.items())
        lines.append(f"samples with features that are not finite are in no NMI and keep no class: {shown}")
    return lines
