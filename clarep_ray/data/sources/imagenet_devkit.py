"""ImageNet's devkit: validation classes as devkit ids, and the map from those ids to WordNet ids.

Devkit ids 1..1000 are not the order of sorted WordNet ids that models are trained on; `data/meta.mat` holds the map.
"""

from __future__ import annotations

import re
import zlib
from pathlib import Path
from typing import Any

from clarep_ray.data.processes import run_within_limits
from clarep_ray.data.records import shown
from clarep_ray.data.untrusted import parse_json, read_bounded, read_lines

GROUND_TRUTH, META = "ILSVRC2012_validation_ground_truth.txt", "meta.mat"
STEM = "ILSVRC2012_val_"
LAYOUT = f"valid: the devkit's folder with data/{GROUND_TRUTH} and data/{META}"
MAX_BYTES = 4 * 2**20
"""Of the map as a file; the true one has a tenth of it."""
MAX_INFLATED_BYTES = 16 * 2**20
MAX_CPU_S = 10
HEADER_BYTES, COMPRESSED = 128, 15
READER = """
import io, json
try:
    from scipy.io import loadmat
    synsets = loadmat(io.BytesIO(sys.stdin.buffer.read()), squeeze_me=True, variable_names=["synsets"])["synsets"]
    if synsets.dtype.names is None or not {"ILSVRC2012_ID", "WNID", "num_children"} <= set(synsets.dtype.names):
        raise ValueError("its synsets have no ILSVRC2012_ID, WNID and num_children")
    leaves = [row for row in synsets.reshape(-1) if int(row["num_children"]) == 0]
    print(json.dumps([(int(row["ILSVRC2012_ID"]), str(row["WNID"])) for row in leaves]))
except BaseException as error:  # scipy raises many kinds for damaged bytes
    print(json.dumps(f"{type(error).__name__}: {error}"[:500]))
"""
"""Writes (devkit id, WordNet id) of every leaf as JSON, or a text that says what is wrong."""


def devkit_file(path: Path) -> Path | None:
    """Return the ground-truth file that a path stands for: itself, or that of a devkit folder; None for another file.

    Raises ValueError for a folder without one.
    """
    if not path.is_dir():
        return path if path.suffix == ".txt" else None
    found = [file for file in (path / "data" / GROUND_TRUTH, path / GROUND_TRUTH) if file.is_file()]
    if not found:
        raise ValueError(f"data.labels_file: {str(path)!r} has no {GROUND_TRUTH}; {LAYOUT}")
    return found[0]


def read_devkit(ground_truth: Path) -> dict[str, str]:
    """Return {`ILSVRC2012_val_00000001`: WordNet id, ...}, the map read from the meta.mat beside the file.

    Raises ValueError naming a line that is no id of the map, or a map that is missing or of another shape.
    """
    meta = ground_truth.with_name(META)
    if not meta.is_file():
        raise ValueError(f"data.labels_file: {str(ground_truth)!r} has no {META} beside it; {LAYOUT}")
    wordnet_ids = read_meta(meta)
    try:
        lines = read_lines(ground_truth)
    except (OSError, ValueError) as error:
        raise ValueError(f"data.labels_file: {str(ground_truth)!r} cannot be read: {error}") from None
    classes: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not re.fullmatch(r"[0-9]{1,4}", line.strip(), re.ASCII) or int(line) not in wordnet_ids:
            raise ValueError(
                f"data.labels_file: {str(ground_truth)!r}, line {number}: {line[:40]!r}; "
                f"valid: a devkit id 1..{len(wordnet_ids)}"
            )
        classes[f"{STEM}{number:08d}"] = wordnet_ids[int(line)]
    return classes


def read_meta(path: Path) -> dict[int, str]:
    """Return {devkit id: WordNet id} of the leaf classes, ids 1..n without a gap.

    scipy's reader makes arrays and never runs code of the file (MATLAB functions and objects stay bytes); a few bytes
    can ask it for any number of them, so that it works in a process of its own, within limits. Raises ValueError,
    naming the file, for one that is too large, damaged, or without `synsets` of the known fields.
    """
    try:
        leaves = _leaves(read_bounded(path, MAX_BYTES))
        found = dict(leaves)
        odd = [name for name in found.values() if not re.fullmatch(r"n[0-9]{8}", name)]
        if odd or not found or sorted(found) != list(range(1, len(leaves) + 1)):
            raise ValueError(f"its classes are not numbered 1..{len(leaves)} with WordNet ids")
    except (OSError, ValueError) as error:
        raise ValueError(f"data.labels_file: {str(path)!r} is no ImageNet class map: {error}") from None
    return found


def _leaves(data: bytes) -> list[tuple[int, str]]:
    """Return (devkit id, WordNet id) of every leaf in a MAT file; ValueError for anything else."""
    _check_inflated(data)
    done = run_within_limits(READER, data, MAX_CPU_S)
    if done.returncode:
        raise ValueError(f"its reader ends with {done.returncode}")
    found: Any = parse_json(done.stdout)
    if isinstance(found, str):
        raise ValueError(shown(found))
    return [(int(number), str(name)) for number, name in found]


def _check_inflated(data: bytes) -> None:
    """Raise ValueError where the compressed parts of a MAT file would become too large in memory."""
    order = "little" if data[HEADER_BYTES - 2 : HEADER_BYTES] == b"IM" else "big"
    position, total = HEADER_BYTES, 0
    while position + 8 <= len(data):
        kind, size = (int.from_bytes(data[position + i : position + i + 4], order) for i in (0, 4))
        if kind == COMPRESSED:
            try:
                packed = data[position + 8 : position + 8 + size]
                total += len(zlib.decompressobj().decompress(packed, MAX_INFLATED_BYTES))
            except zlib.error as error:
                raise ValueError(str(error)) from None
        if total >= MAX_INFLATED_BYTES:
            raise ValueError(f"it inflates to more than {MAX_INFLATED_BYTES} bytes")
        position += 8 + size
