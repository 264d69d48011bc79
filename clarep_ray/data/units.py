"""A work unit's way through the engine: decode its rows, carry them as one blob, write them as one shard."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from clarep_ray.config import DataConfig
from clarep_ray.data.pixels import MAX_BYTES, decode_image, encode_png
from clarep_ray.data.records import InputRow, RejectedImage, RejectReason
from clarep_ray.data.shards import json_bytes, npy_bytes, shard_bytes
from clarep_ray.data.sources import Source
from clarep_ray.data.store import SHARDS, SPECTRA
from clarep_ray.errors import InputChanged

Arrays = Mapping[str, NDArray[Any]]
OK = "ok"
SPECTRUM_ARRAYS = (
    "x_t",
    "round_trip_error",
    "singular_values",
    "right_vectors",
    "residuals",
    "value_errors",
    "num_products",
    "converged",
    "finite",
)
"""What a spectrum side-car holds: everything that is needed to decode again without a new SVD."""
GATE_FIELDS = ("gate", "gate_faults", "gate_remedy")
"""What a record says where the quality gate was on (`models/quality_gate.py`)."""
GATE_INPUT = "gate_input_votes"
"""And where it had classifiers: the share of them that read the class in the input itself."""


NO_POISON: Mapping[int, str] = {}
STAND_IN = 128
"""Grey level of the picture that takes a poisonous one's place, so that the others keep theirs."""


@dataclass(frozen=True)
class UnitBlob:
    """Arrays and JSON records of one unit, as they travel between stages."""

    arrays: dict[str, NDArray[Any]]
    records: list[dict[str, Any]]

    def to_bytes(self) -> bytes:
        return _safetensors(self.arrays, {"records": json.dumps(self.records)})

    @staticmethod
    def from_bytes(data: bytes) -> UnitBlob:
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        return UnitBlob(load(data), json.loads(header["__metadata__"]["records"]))


def decode_unit(
    source: Source,
    rows: Sequence[InputRow],
    image_size: int,
    config: DataConfig,
    poison: Mapping[int, str] = NO_POISON,
) -> UnitBlob:
    """Return the pictures of the rows that can be read, and a record for every row.

    Rows of `poison`, each with how it killed the decoder, are not opened; stand-ins are their pictures. Raises
    InputChanged where a row's bytes are not those of the manifest.
    """
    images: list[NDArray[np.uint8]] = []
    records: list[dict[str, Any]] = []
    for number, row in enumerate(rows):
        record: dict[str, Any] = {"key": row.key, "id": row.id, "source": row.source, "label": row.label}
        record |= {"class_name": row.class_name, "status": OK, "reason": None}
        record |= {"prompt": row.prompt, "image_key": row.image_key}
        try:
            if number in poison:
                record |= _poison(poison[number])
                images.append(np.full((image_size, image_size, 3), STAND_IN, np.uint8))
            else:
                images.append(decode_row(source, row, image_size, config))
        except RejectedImage as rejected:
            record |= {"status": "rejected", "reason": rejected.reason.value}
        records.append(record)
    stacked = np.stack(images) if images else np.zeros((0, image_size, image_size, 3), np.uint8)
    return UnitBlob({"images": stacked}, records)


def decode_row(source: Source, row: InputRow, image_size: int, config: DataConfig) -> NDArray[np.uint8]:
    """Return the picture of one row; RejectedImage with the reason, InputChanged where its bytes changed."""
    _reject_unread(row)
    data = source.read(row.source, row.offset, row.size)
    if hashlib.sha256(data).hexdigest() != row.sha256:
        raise InputChanged(f"{row.id!r} changed after the input was frozen; restore it, or start a new output")
    return decode_picture(data, image_size, config)


def decode_picture(data: bytes, image_size: int, config: DataConfig) -> NDArray[np.uint8]:
    """Return the picture (size, size, 3) of what a source read; RejectedImage with the reason."""
    if config.source == "noise":  # nothing is read, and nobody looks at it
        return np.zeros((image_size, image_size, 3), np.uint8)
    if config.source == "spurious_digits":  # its bytes are pixels
        return np.frombuffer(data, np.uint8).reshape(image_size, image_size, 3)
    return decode_image(data, image_size)


def _reject_unread(row: InputRow) -> None:
    """Raise RejectedImage where the manifest alone says that the row is none of ours, however large its file is."""
    if row.reason:
        raise RejectedImage(RejectReason(row.reason))
    if row.label < 0:
        raise RejectedImage(RejectReason.UNKNOWN_CLASS)
    if row.size > MAX_BYTES:
        raise RejectedImage(RejectReason.TOO_MANY_BYTES)


def has_picture(record: Mapping[str, Any]) -> bool:
    """Say whether a row has a place in the arrays: its picture, or a stand-in for one that kills."""
    return record["status"] == OK or record["reason"] == RejectReason.POISON


def some_of(blob: UnitBlob, pictures: Collection[int]) -> UnitBlob:
    """Return some pictures of a decoded unit, by their place in its arrays; of none, the first as a stand-in."""
    places = sorted(pictures) or list(range(len(blob.arrays["images"])))[:1]
    held = [record for record in blob.records if has_picture(record)]
    part = UnitBlob({name: array[places] for name, array in blob.arrays.items()}, [held[place] for place in places])
    return part if pictures else with_stand_ins(part, dict.fromkeys(range(len(places)), ""))


def with_stand_ins(blob: UnitBlob, poison: Mapping[int, str]) -> UnitBlob:
    """Return a decoded unit with stand-ins for some pictures, by their place in its arrays, each with how it killed."""
    images, records = blob.arrays["images"].copy(), list(blob.records)
    rows = [row for row, record in enumerate(records) if has_picture(record)]
    for place, how in poison.items():
        images[place] = STAND_IN
        records[rows[place]] = records[rows[place]] | _poison(how)
    return UnitBlob({**blob.arrays, "images": images}, records)


def _poison(how: str) -> dict[str, str]:
    return {"status": "rejected", "reason": RejectReason.POISON.value, "how": how}


def merge_results(decoded: UnitBlob, arrays: Arrays, results: Sequence[Mapping[str, Any]]) -> UnitBlob:
    """Return the unit after the model: result arrays, and the records of every row, rejects included.

    Rows that were decoded keep their place in the arrays; each of their records names it as `slot`.
    """
    remaining = iter(enumerate(results))
    records = []
    for record in decoded.records:
        if has_picture(record):
            slot, result = next(remaining)
            record = {**record, **(result if record["status"] == OK else {}), "slot": slot}
        records.append(record)
    return UnitBlob(dict(arrays), records)


def unit_files(
    blob: UnitBlob, provenance: Mapping[str, Any], extras: Sequence[str], keep_spectrum: bool
) -> dict[str, bytes]:
    """Return the files a unit is committed as: its shard and, if wanted and there is one, its spectrum side-car."""
    kept = [record for record in blob.records if record["status"] == OK]
    samples = {record["key"]: _members(blob.arrays, record, provenance, extras) for record in kept}
    files = {SHARDS: shard_bytes(samples)}
    if keep_spectrum and blob.arrays:  # no side-car where not one picture of the unit could be decoded
        files[SPECTRA] = _spectrum_bytes(blob)
    return files


def unit_manifest(blob: UnitBlob, identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a unit's manifest says about its run and its rows."""
    rows = [_index_entry(blob.arrays, record) for record in blob.records]
    return {**identity, "rows": rows, "num_ok": sum(row["status"] == OK for row in rows)}


def _members(
    arrays: Arrays, record: Mapping[str, Any], provenance: Mapping[str, Any], extras: Sequence[str]
) -> dict[str, bytes]:
    slot = record["slot"]
    members = {
        "cls": str(record["label"]).encode(),
        "json": json_bytes({**provenance, **_sample_record(arrays, record)}),
        "feature.npy": npy_bytes(arrays["features"][slot]),
    }
    if "samples" in arrays:
        members["png"] = encode_png(arrays["samples"][slot])
    if "null_features" in arrays:
        members["null_feature.npy"] = npy_bytes(arrays["null_features"][slot])
    for name in extras:
        members[f"{name}.png"] = encode_png(arrays[f"{name}/samples"][slot])
        members[f"{name}.feature.npy"] = npy_bytes(arrays[f"{name}/features"][slot])
        if f"{name}/null_features" in arrays:
            members[f"{name}.null_feature.npy"] = npy_bytes(arrays[f"{name}/null_features"][slot])
    return members


def _sample_record(arrays: Arrays, record: Mapping[str, Any]) -> dict[str, Any]:
    slot = record["slot"]
    known = {name: record[name] for name in ("id", "source", "label", "class_name")}
    if "prompt_text" in record:
        known |= {name: record[name] for name in ("prompt", "prompt_text")}
    if "singular_values" in arrays:
        known |= {name: _floats(arrays[name][slot]) for name in ("singular_values", "residuals", "value_errors")}
        known["converged"] = bool(arrays["converged"][slot])
    return {**known, **_statistics(arrays, record)}


def _index_entry(arrays: Arrays, record: Mapping[str, Any]) -> dict[str, Any]:
    entry = {name: record[name] for name in ("key", "status", "reason")}
    return entry | _statistics(arrays, record) if record["status"] == OK else entry


def _statistics(arrays: Arrays, record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a sample's numbers, of the inversion and of the spectrum where there was one."""
    slot = record["slot"]
    found: dict[str, Any] = {name: record[name] for name in (*GATE_FIELDS, GATE_INPUT) if name in record}
    if "round_trip_error" in arrays:
        found["round_trip_error"] = _float(arrays["round_trip_error"][slot])
    if "noise_std" in arrays:
        found["noise_std"] = _float(arrays["noise_std"][slot])
        found["noise_outside"] = bool(arrays["noise_outside"][slot])
    if "num_removed" in arrays:
        found |= {
            "num_removed": int(arrays["num_removed"][slot]),
            "elbow_method": record["elbow_method"],
            "elbow_margin": _float(arrays["elbow_margin"][slot]),
            "ambiguous": bool(arrays["ambiguous"][slot]),
            "max_residual": _float(arrays["residuals"][slot].max()),
            "num_products": int(arrays["num_products"][slot]),
            "norm_ratio": _float(arrays["norm_ratio"][slot]),
        }
    return found


def _spectrum_bytes(blob: UnitBlob) -> bytes:
    decoded = [record["key"] for record in blob.records if "slot" in record]
    return _safetensors({name: blob.arrays[name] for name in SPECTRUM_ARRAYS}, {"keys": json.dumps(decoded)})


def _safetensors(arrays: Arrays, metadata: dict[str, str]) -> bytes:
    # safetensors writes a transposed array's memory as it lies, silently scrambled.
    return save({name: np.ascontiguousarray(array) for name, array in arrays.items()}, metadata=metadata)


def _float(value: Any) -> float:
    """Return a number with nine significant digits: enough to give a float32 back."""
    return float(f"{float(value):.9g}")


def _floats(values: NDArray[Any]) -> list[float]:
    return [_float(value) for value in values]
