"""A finished extraction made of generated pictures and spectra: true files, no model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clarep_ray import dotted
from clarep_ray.data.clarep_index import finish
from clarep_ray.data.manifest import MANIFEST, write_manifest
from clarep_ray.data.records import InputRow, safe_key
from clarep_ray.data.store import OutputStore
from clarep_ray.data.units import UnitBlob, merge_results, unit_files, unit_manifest
from clarep_ray.presets import EXTRACT

EXTRAS = ("original", "reconstruction", "guidance")
WINDOW, UNIT = 12, 50


def natural_pictures(count: int, edge: int, seed: int) -> np.ndarray:
    """Return pictures whose spectrum falls as 1/f, as that of photographs does: they compress like photographs."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(edge)[:, None], np.fft.rfftfreq(edge)[None])
    frequency[0, 0] = 1.0 / edge
    phase = rng.normal(size=(count, 3, *frequency.shape)) + 1j * rng.normal(size=(count, 3, *frequency.shape))
    smooth = np.fft.irfft2(phase / frequency, s=(edge, edge)).transpose(0, 2, 3, 1)
    smooth = smooth.mean(-1, keepdims=True) + 0.5 * smooth  # channels agree, as they do in photographs
    scaled = smooth / smooth.std(axis=(1, 2, 3), keepdims=True) * 55 + 128
    return np.clip(scaled, 0, 255).astype(np.uint8)


def made_output(
    folder: Path,
    *,
    classes: Sequence[str] = ("0", "1", "2"),
    count: int = 30,
    edge: int = 16,
    extras: Sequence[str] = EXTRAS,
    ids: Sequence[str] = (),
    rejected: Sequence[int] = (),
    changes: dict[str, Any] | None = None,
    fields: dict[str, Any] | None = None,
    seed: int = 0,
    gate: bool = False,
) -> Path:
    """Write an output of `count` samples over the classes in turn; k is 1 + i % 5, each third elbow ambiguous."""
    config = dotted.override(
        EXTRACT["digits"]().config,
        {"output.path": str(folder), "output.extras": tuple(extras), "spectrum.num_directions": WINDOW}
        | (changes or {}),
    )
    names = [ids[i] if i < len(ids) else f"sample-{i:04d}" for i in range(count)]
    rows = [
        InputRow(
            ordinal=i, id=name, key=safe_key(name), source="made", offset=i, size=1, sha256="0",
            label=i % len(classes), class_name=classes[i % len(classes)],
        )
        for i, name in enumerate(names)
    ]  # fmt: skip
    store = OutputStore(folder)
    store.prepare()
    known = dotted.fingerprint_fields(config) | {"weights_sha256": "w", "label_map_sha256": "0"} | (fields or {})
    store.write_run(known, dotted.flatten(config))
    identity = {"fingerprint": dotted.fingerprint(known), "label_map_sha256": "0", "classes_sha256": None}
    manifest = write_manifest(rows, folder / MANIFEST, UNIT)
    for unit in range(manifest.num_units):
        blob = _unit(rows[unit * UNIT : (unit + 1) * UNIT], edge, extras, set(rejected), seed, gate)
        provenance = {"projection": config.projection.mode, "unit": unit}
        store.commit(unit, unit_files(blob, provenance, extras, False), unit_manifest(blob, identity))
    finish(store, manifest, "train", identity)
    return folder


def _unit(
    rows: Sequence[InputRow], edge: int, extras: Sequence[str], rejected: set[int], seed: int, gate: bool
) -> UnitBlob:
    good = [row for row in rows if row.ordinal not in rejected]
    numbers = np.array([row.ordinal for row in good])
    ratios = np.exp(-np.arange(WINDOW)[None] / (1.5 + numbers[:, None] % 3))
    arrays: dict[str, Any] = {
        "features": np.zeros((len(good), 4), np.float32),
        "samples": natural_pictures(len(good), edge, 10_000 * seed + rows[0].ordinal),
        "singular_values": np.sqrt(ratios),
        "residuals": np.full((len(good), WINDOW), 1e-3) * (1 + numbers[:, None]),
        "value_errors": np.zeros((len(good), WINDOW)),
        "converged": numbers % 7 != 0,
        "round_trip_error": 0.01 + 0.001 * numbers,
        "num_removed": 1 + numbers % 5,
        "elbow_margin": 0.5 / (1 + numbers),
        "ambiguous": numbers % 3 == 0,
        "num_products": np.full(len(good), 48),
        "norm_ratio": np.full(len(good), 0.99),
    }
    for i, name in enumerate(extras):
        arrays[f"{name}/samples"] = np.roll(arrays["samples"], 3 * (i + 1), axis=2)  # others, at no cost
        arrays[f"{name}/features"] = arrays["features"]
    known = ("key", "id", "source", "label", "class_name", "prompt", "image_key")
    records = [
        {name: getattr(row, name) for name in known}
        | (
            {"status": "rejected", "reason": "truncated"}
            if row.ordinal in rejected
            else {"status": "ok", "reason": None}
        )
        for row in rows
    ]
    results = [{"status": "ok", "reason": None, "elbow_method": "kneed"} | _gate(row.ordinal, gate) for row in good]
    return merge_results(UnitBlob({}, records), arrays, results)


def _gate(ordinal: int, gate: bool) -> dict[str, str]:
    """Return a verdict of the quality gate: each fourth sample was made again, each fifth flagged, where it was on."""
    if not gate:
        return {}
    if ordinal % 4 == 0:
        return {"gate": "retried", "gate_faults": "class", "gate_remedy": "elbow.share 0.5"}
    flagged = ordinal % 5 == 0
    return {"gate": "flagged" if flagged else "accepted", "gate_faults": "class artefact" * flagged, "gate_remedy": ""}
