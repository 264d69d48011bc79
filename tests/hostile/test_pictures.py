"""Hostile pictures end in a picture or a reject with its reason, within two seconds and 256 MiB."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from clarep_ray.data import pixels
from tests.hostile import floods, pictures
from tests.hostile.judge import Verdict, judge


def test_every_picture_is_read_or_rejected_in_time(tmp_path: Path) -> None:
    corpus = pictures.corpus()
    assert len(corpus) >= 60
    paths: dict[Path, str | None] = {}
    for number, (data, reason) in enumerate(corpus.values()):
        path = tmp_path / f"{number:03d}"
        path.write_bytes(data)
        paths[path] = reason
    names = list(corpus)
    large = [path for path, name in zip(paths, names, strict=True) if "large" in name or "px" in name]
    cases = [("decode_image", path) for path in paths] + [("open_rgb", path) for path in large]
    wrong = [verdict for verdict in judge(cases) if not right(verdict, paths[Path(verdict.path)])]
    assert not wrong, "\n".join(f"{names[int(Path(each.path).name)]}: {each.line}" for each in wrong)


@pytest.mark.parametrize("nightly", [False, pytest.param(True, marks=pytest.mark.nightly)])
def test_no_flood_of_parts_takes_long_or_much(nightly: bool, tmp_path: Path) -> None:
    """Scans, markers, chunks, profiles, pieces, EXIF: refused before they are decoded, or decoded within the limits."""
    made = {name: flood for name, flood in floods.images().items() if (name in floods.NIGHTLY) == nightly}
    assert len(made) > (2 if nightly else 30)
    faults = floods.faults(made, tmp_path)
    assert not faults, "\n".join(faults)


def right(verdict: Verdict, reason: str | None) -> bool:
    if reason is None:
        return verdict.within and verdict.outcome == "read"
    expected = verdict.message if reason == pictures.ANY else f"RejectedImage: {reason}"
    return verdict.within and verdict.outcome == "refused" and verdict.message == expected


@pytest.mark.parametrize("orientation", range(9))
def test_every_orientation_is_what_pillow_makes_of_it(orientation: int) -> None:
    data = pictures.encoded(pictures.noise().crop((0, 0, 40, 30)), "PNG", exif=pictures.exif(orientation))
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data), formats=("PNG",)))
    assert np.array_equal(np.asarray(pixels.open_rgb(data)), np.asarray(expected))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "I;16", "CMYK"])
def test_strips_give_the_same_picture_as_the_whole(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if mode == "I;16":
        picture = Image.fromarray(np.random.default_rng(0).integers(0, 2**16, (37, 41), np.uint16))
    else:
        picture = pictures.noise().convert("RGBA" if mode == "PA" else mode)
    kind = "JPEG" if mode == "CMYK" else "PNG"
    data = pictures.encoded(picture.quantize(16) if mode == "PA" else picture, kind)
    whole = np.asarray(pixels.open_rgb(data))
    monkeypatch.setattr(pixels, "STRIP_PIXELS", 100)
    assert np.array_equal(np.asarray(pixels.open_rgb(data)), whole)
    assert whole.std() > 10
