"""The page of an extraction: every sample's pictures, spectrum and flags, and the tables of the run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from clarep_ray.analysis.gallery import samples
from clarep_ray.analysis.gallery.k_steps import finished_k_steps
from clarep_ray.analysis.gallery.page import render, write
from clarep_ray.analysis.gallery.thumbnails import Picture, ThumbnailSize, make_thumbnails
from clarep_ray.analysis.outputs import ExtractionOutput, samples_of
from clarep_ray.analysis.report import about_numbers, metric_rows
from clarep_ray.config.checks import require
from clarep_ray.data.calibration_file import check_model, read_calibration
from clarep_ray.data.clarep_index import read_index
from clarep_ray.data.class_list import display_name
from clarep_ray.data.derived import HEALTH, PAGE, SUMMARY, record_derived
from clarep_ray.data.inside import read_record_inside
from clarep_ray.data.pixels import open_own
from clarep_ray.data.store import RUN, OutputStore
from clarep_ray.data.untrusted import Fields, check_fields
from clarep_ray.models.health import check_record

RUN_FIELDS: Fields = {"decoding.guidance_scale": float, "output.keep_spectrum": bool, "spectrum.num_directions": int}
SUMMARY_FIELDS: Fields = {"metrics": dict, "preset": (str, type(None)), "input": list}
"""What the page reads of `run.json` and `summary.json`, and of which type."""
SCRIPTS = ("static/store.js", "static/browser.js", "static/sample.js", "static/numbers.js")
SHOWN_SETTINGS = {
    "model.name": "model",
    "model.weights": "weights",
    "projection.mode": "projection",
    "inversion.project_t": "t_e",
    "spectrum.layer": "Jacobian layer",
    "spectrum.num_directions": "window M",
    "elbow.rule": "elbow rule",
    "decoding.guidance_scale": "guidance scale",
    "seed": "seed",
}
"""Settings at the top of the page; all of them are listed at its end."""


def write_extraction_page(
    folder: Path, *, calibration: Path | None = None, max_samples: int = 1000, max_mb: float = 20.0
) -> Path:
    """Write `report.html` into a finished extraction's folder and return its path.

    At most `max_samples` samples are shown, evenly spread over the input, with pictures as sharp as `max_mb`
    (megabytes of 10^6 bytes) allows. Decodings at fixed k (`k_steps`) become a slider. Raises ValueError for an
    unfinished or damaged output, one without pictures, and limits that cannot be met.
    """
    output, steps = ExtractionOutput(folder, max_samples), finished_k_steps(folder)
    found = read_own_calibration(calibration, folder) if calibration else None
    columns, edge = _columns(output)
    context, payload = _context(output, steps), _payload(output, steps, columns)
    payload |= {"curves": found["curves"], "project_t": found["settings"].get("inversion.project_t")} if found else {}

    def page(size: ThumbnailSize | str, pictures: Mapping[tuple[str, str], str]) -> str:
        for row in payload["samples"]:
            row["pictures"] = [pictures.get((name, row["key"])) for name in columns]
            row["steps"] = [pictures.get((str(k), row["key"])) for k in steps]
        return render("extraction.html", SCRIPTS, payload, **context, size=str(size), calibration=found)

    max_bytes, rest = int(max_mb * 1e6), len(page("", {}).encode()) + 200
    count = len(payload["samples"]) * (len(columns) + len(steps))
    made = make_thumbnails(lambda: _pictures(output, steps, columns), count, edge, max_bytes - rest)
    if made is None:
        least = f"more than {rest / 1e6:.1f}, the page without pictures; or show fewer samples: max_samples"
        raise ValueError(f"max_mb: {max_mb:g} is not valid; valid: {least} ({len(payload['samples'])} now)")
    write(page(*made), folder / PAGE)
    record_derived(OutputStore(folder), [PAGE])
    return folder / PAGE


def _run_of(folder: Path) -> dict[str, Any]:
    run = OutputStore(folder).read_record()
    # Their names have dots, which `check_fields` would take for ways into objects.
    used = {name.replace(".", "/"): value for name, value in run["config"].items()}
    check_fields(used, {name.replace(".", "/"): kind for name, kind in RUN_FIELDS.items()}, f"{folder / RUN}: config")
    return run


def _optional(folder: Path, name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the object of a JSON file that an output may lack, then none; ValueError where it is something else."""
    found = read_record_inside(folder, name, {})
    return check_fields(found, {field: kind for field, kind in fields.items() if field in found}, str(folder / name))


def read_health(folder: Path) -> dict[str, Any] | None:
    """Return what the health check wrote into an output; None without one, ValueError where it is something else."""
    found = _optional(folder, HEALTH, {})
    if not found:
        return None
    return check_record(found, str(folder / HEALTH))


def read_own_calibration(path: Path, folder: Path) -> dict[str, Any]:
    """Return a calibration; ValueError where it is none, or one of another model than the extraction's."""
    fields = OutputStore(folder).read_record()["fields"]
    check_model(str(path), fields.get("model.name", ""), fields.get("weights_sha256", ""))
    return read_calibration(str(path))


def _columns(output: ExtractionOutput) -> tuple[dict[str, str], int]:
    """Return {column of the page: member of a sample}, and the pictures' edge; a sample's own picture is `png`."""
    require(
        output.index.num_rows > 0, "output", str(output.folder), "an output with samples; this one has rejects alone"
    )
    first = next(output.each_sample())
    members = [name.removesuffix(".png") for name in first.members if name.endswith(".png")]
    own = {_own_name(first.record): "png"} if "png" in first.members else {}
    found = {name: f"{name}.png" for name in members} | own
    columns = {name: found[name] for name in sorted(found, key=lambda name: _rank(name, own))}
    require(bool(columns), "output", str(output.folder), "an output with pictures; features alone have none")
    picture = open_own(first.members[next(iter(columns.values()))], repr(str(output.folder)))
    return columns, max(picture.size)


def _rank(name: str, own: Mapping[str, str]) -> tuple[int, str]:
    """Order columns: what nothing was projected out of, the sample's own picture, the controls."""
    known = ("input", "original", "reconstruction", "guidance", *own)
    return (known.index(name) if name in known else len(known), name)


def _own_name(record: Mapping[str, Any]) -> str:
    projection = record.get("projection")
    if projection == "clarid":
        return "canonical"
    return record.get("what") or ("unprojected" if projection == "none" else str(projection))


def _pictures(output: ExtractionOutput, steps: Mapping[int, Path], columns: Mapping[str, str]) -> Iterator[Picture]:
    for sample in output.each_sample():
        yield from (Picture(name, sample.key, sample.members[member]) for name, member in columns.items())
    for k, folder in steps.items():
        for sample in samples_of(folder, _step_rows(output, folder)):
            yield Picture(str(k), sample.key, sample.members["png"])


def _step_rows(output: ExtractionOutput, folder: Path) -> Any:
    """Return the rows of a step's index that are about shown samples; a sample may be rejected at another k."""
    shown = pc.field("key").isin(output.chosen["key"].combine_chunks())
    return read_index(folder).filter(shown & (pc.field("status") == "ok"))


def _payload(output: ExtractionOutput, steps: Mapping[int, Path], columns: Mapping[str, str]) -> dict[str, Any]:
    classes = samples.class_names(output)
    scale = _run_of(output.folder)["config"]["decoding.guidance_scale"]
    own = list(columns.values()).index("png") if "png" in columns.values() else 0
    return {
        "columns": [{"name": name, "meaning": samples.picture_meaning(name, scale)} for name in columns],
        "own": own,
        "steps": list(steps),
        "classes": list(map(display_name, classes)),
        "flags": {name: {"title": title, "meaning": meaning} for name, (title, meaning) in samples.FLAGS.items()},
        "numbers": {name: {"title": title, "meaning": meaning} for name, (title, meaning) in samples.NUMBERS.items()},
        "samples": samples.sample_rows(output, classes),
        "kCounts": samples.k_counts(output),
    }


def _context(output: ExtractionOutput, steps: Mapping[int, Path]) -> dict[str, Any]:
    run = _run_of(output.folder)
    config, summary = run["config"], _optional(output.folder, SUMMARY, SUMMARY_FIELDS)
    metrics = check_fields(summary.get("metrics", {}), {}, SUMMARY)
    check_fields(metrics, dict.fromkeys(metrics, float), f"{SUMMARY}: metrics")
    titles, rows = metric_rows(metrics)
    return {
        "health": read_health(output.folder),
        "folder": str(output.folder),
        "name": output.folder.resolve().name,
        "fingerprint": run["fingerprint"],
        "preset": summary.get("preset"),
        "notes": summary.get("input", ()),
        "settings": [(title, config[field]) for field, title in SHOWN_SETTINGS.items() if field in config],
        "config": config,
        "num_ok": output.index.num_rows,
        "num_shown": output.chosen.num_rows,
        "has_spectrum": output.has_spectrum,
        "can_step": config["output.keep_spectrum"] and output.has_spectrum and not steps,
        "most_steps": config["spectrum.num_directions"],
        "steps": list(steps),
        "metrics": metrics,
        "table": {"titles": titles, "rows": rows},
        "about": about_numbers(metrics),
        "rejects": samples.rejects(output),
    }
