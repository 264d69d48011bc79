"""Whether an image can be decoded, tried in another process before a run: one that kills or hangs ends only that."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence

from clarep_ray.data.class_list import UNKNOWN
from clarep_ray.data.pixels import FORMATS, MAX_PIXELS, MAX_SIDE
from clarep_ray.data.records import RejectedImage, RejectReason
from clarep_ray.data.sources import Listed, Source

TRIED, IMAGE_S, ALL_S = 64, 5.0, 20.0
"""How many images of an input are tried until one can be decoded, and how long [s] one and all may take."""
PROBE = """
import io, json, sys, warnings
from PIL import Image
formats, pixels, side = json.loads(sys.argv[1])
warnings.simplefilter("error", Image.DecompressionBombWarning)
image = Image.open(io.BytesIO(sys.stdin.buffer.read()), formats=formats)
if image.width * image.height > pixels[image.format] or max(image.size) > side:
    sys.exit(1)
image.load()
"""
"""Ends with 0 where the image on standard input can be decoded."""


def check_decodable(source: Source, rows: Sequence[Listed]) -> None:
    """Raise ValueError where nothing would come of an input: no image of a known class, or none that can be decoded.

    A spread of the rows is looked at, and one image that can be decoded is enough.
    """
    wrong = Counter(row.reason or RejectReason.UNKNOWN_CLASS.value for row in rows if _unusable(row))
    usable = [row for row in rows if not _unusable(row)]
    until = time.monotonic() + ALL_S
    for row in usable[:: max(1, len(usable) // TRIED)][:TRIED]:
        reason = _why_not(source, row)
        if not reason:
            return
        wrong[reason] += 1
        if time.monotonic() > until:
            break
    listed = ", ".join(f"{count} {reason}" for reason, count in wrong.most_common())
    raise ValueError(
        f"data.path: not one of {wrong.total()} images can be used ({listed}); valid: one and more that can be decoded "
        "and whose class the model knows"
    )


def _unusable(row: Listed) -> bool:
    return bool(row.reason) or row.label == UNKNOWN


def _why_not(source: Source, row: Listed) -> str:
    try:
        data = source.read(row.source, row.offset, row.size)
    except RejectedImage as rejected:
        return rejected.reason.value
    limits = json.dumps([FORMATS, MAX_PIXELS, MAX_SIDE])
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", PROBE, limits], input=data, capture_output=True, check=False, timeout=IMAGE_S
        )
    except subprocess.TimeoutExpired:
        return "hang their decoder"
    return "" if done.returncode == 0 else "kill their decoder" if done.returncode < 0 else "cannot be decoded"
