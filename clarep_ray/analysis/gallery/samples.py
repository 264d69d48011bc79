"""What the page says about each sample, class and reject of an extraction, and what each number means."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow.compute as pc

from clarep_ray.analysis.outputs import ExtractionOutput
from clarep_ray.data.clarep_index import read_index
from clarep_ray.data.class_list import display_name
from clarep_ray.data.records import RejectReason
from clarep_ray.data.units import GATE_FIELDS
from clarep_ray.models.quality_gate import FLAGGED, RETRIED

FLAGS = {
    "ambiguous": ("ambiguous elbow", "the margin is within the solver's error or elbow.ambiguous_margin"),
    "chord_fallback": ("no kneed elbow", "kneed found no elbow, so the chord rule chose k"),
    "degenerate": ("flat spectrum", "the spectrum is too short or too flat for an elbow; k is 1"),
    "not_converged": ("not converged", "singular vectors missed the tolerance within the budget of products"),
    "noise_outside": ("inverted noise off", "its noise is of another scale than a right model and clock lead to"),
    "gate_flagged": ("flagged by the gate", "failed the quality gate, and nothing that was tried helped"),
    "gate_retried": ("made again", "failed the quality gate at first; made again by the remedy below, it passes"),
}
"""Flag -> its name on the page and, in one phrase, what it means."""

NUMBERS = {
    "k": ("k", "directions removed from the latent at t_e"),
    "method": ("elbow rule", "what chose k"),
    "margin": ("elbow margin", "smallest slack of the comparisons that chose k, as a share of EVR at rank 1"),
    "residual": ("residual", "largest relative residual of a singular triplet, ‖JᵀJv − s²v‖ / s²"),
    "ratio": ("norm ratio", "‖x_t projected by Eq. 2‖ / ‖x_t‖: how much shorter the latent becomes"),
    "error": ("round-trip error", "relative distance of the latent after unguided inversion and decoding"),
    "noise": ("inverted noise", "standard deviation of (x_t − α x_0) / σ at t_e; about 1 where noise prevails"),
    "products": ("products", "vectors multiplied by JᵀJ until the sample converged"),
    "gate": ("quality gate", "accepted as made, retried, or flagged"),
    "faults": ("gate's findings", "which checks the sample failed as first made"),
    "remedy": ("gate's remedy", "the setting with which the sample was made again"),
}
"""Number of a sample -> its name on the page and, in one phrase, what it means."""

GATE = ("gate", "faults", "remedy")
"""Numbers above that come from the columns `GATE_FIELDS` of the index."""

PICTURES = {
    "input": "the image as it was read: decoded, resized and cropped",
    "original": "the image as the model holds it, decode(encode(image)); that of a model of pixels is the input itself",
    "reconstruction": "inverted to t_e and decoded without guidance: what the model can give back",
    "guidance": "decoded from t_e with guidance and no projection: what guidance alone changes",
    "canonical": "the Canonical Sample: projected at t_e (Eq. 2), then decoded",
}
MODES = {
    "clarid": "projected by Eq. 2",
    "none": "nothing projected out",
    "random": "as many random directions projected out",
    "shrink": "nothing projected out, brought to CLARID's norm",
    "random_shrink": "random directions projected out, brought to CLARID's norm",
    "other_image": "another image's directions projected out",
    "unconditional": "directions of the null-label Jacobian projected out",
    "restore_norm": "projected by Eq. 2 and scaled back",
    "centred": "projected by Eq. 2 about the model's class centre",
}
REJECTS = {
    RejectReason.NONFINITE_INVERSION: "inversion gave numbers that are not finite",
    RejectReason.NONFINITE_JACOBIAN: "the Jacobian gave numbers that are not finite",
    RejectReason.NONFINITE_DECODING: "decoding gave numbers that are not finite",
    RejectReason.NONFINITE_FEATURES: "features are not finite",
    RejectReason.RANK_DEFICIENT: "the k-th singular value is zero: fewer directions than k",
    RejectReason.POISON: "killed or hung every process that worked on it, alone too; its neighbours do not",
    RejectReason.NO_OTHER_IMAGE: "the control needs another picture in the same unit, and there is none",
}
"""What a reason means where its name does not say it."""
MAX_LISTED = 200
"""Rejects listed by name; all of them are counted."""


def picture_meaning(name: str, guidance_scale: float) -> str:
    """Return in one phrase what a column shows: `original`, a run's own picture, or an extra such as `random@3`."""
    if name in PICTURES:
        return PICTURES[name]
    mode, _, scale = name.partition("@")
    known = MODES.get(mode, {"samples": "drawn from noise", "unprojected": MODES["none"]}.get(mode, name))
    return f"{known}; guidance {float(scale) if scale else guidance_scale:g}"


def sample_rows(output: ExtractionOutput, classes: list[str]) -> list[dict[str, Any]]:
    """Return one JSON record per shown sample, in the input's order; `class` is a position in `classes`."""
    rows = output.chosen.to_pylist()
    return [_row(row, s.record, classes) for row, s in zip(rows, output.each_sample(), strict=True)]


def _row(row: Mapping[str, Any], record: Mapping[str, Any], classes: list[str]) -> dict[str, Any]:
    found = {
        "key": row["key"],
        "id": row["id"],
        "class": classes.index(row["class_name"]),
        "prompt": record.get("prompt_text"),
        "error": row["round_trip_error"],
        "noise": row["noise_std"],
        **{name: row[column] or None for name, column in zip(GATE, GATE_FIELDS, strict=True)},
        "flags": [flag for flag, raised in _raised(row, record).items() if raised],
    }
    if row["num_removed"] is None:
        return found
    squares = np.square(np.asarray(record["singular_values"], dtype=np.float64))
    return found | {
        "k": row["num_removed"],
        "method": row["elbow_method"],
        "margin": row["elbow_margin"],
        "residual": row["max_residual"],
        "products": row["num_products"],
        "ratio": row["norm_ratio"],
        "evr": [float(f"{ratio:.4g}") for ratio in squares / max(squares.sum(), np.finfo(np.float64).tiny)],
    }


def _raised(row: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, bool]:
    return {
        "ambiguous": bool(row["ambiguous"]),
        "chord_fallback": row["elbow_method"] == "chord_fallback",
        "degenerate": row["elbow_method"] == "degenerate",
        "not_converged": not record.get("converged", True),
        "noise_outside": bool(row["noise_outside"]),
        "gate_flagged": row["gate"] == FLAGGED,
        "gate_retried": row["gate"] == RETRIED,
    }


def class_names(output: ExtractionOutput) -> list[str]:
    """Return the classes that have samples, by label."""
    pairs = {(row["label"], row["class_name"]) for row in output.index.select(["label", "class_name"]).to_pylist()}
    return list(dict.fromkeys(name for _, name in sorted(pairs)))


def k_counts(output: ExtractionOutput) -> list[tuple[int, int]]:
    """Return (k, number of samples with it) over the whole output; empty without spectra."""
    removed = Counter(output.index["num_removed"].drop_null().to_pylist())
    return sorted(removed.items())


def rejects(output: ExtractionOutput) -> dict[str, Any]:
    """Return the counts of rejects by reason, each with its meaning, and the first of them by name."""
    rows = read_index(output.folder).filter(pc.field("status") != "ok").select(["id", "class_name", "reason"])
    counts = Counter(rows["reason"].to_pylist())
    meant = [
        (reason, REJECTS.get(RejectReason(reason), reason.replace("_", " ")), count)
        for reason, count in counts.most_common()
    ]
    listed = [row | {"class_name": display_name(row["class_name"])} for row in rows.slice(0, MAX_LISTED).to_pylist()]
    return {"num": rows.num_rows, "reasons": meant, "listed": listed}
