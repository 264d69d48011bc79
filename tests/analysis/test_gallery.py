"""The pages as files: what is in them, how large they are, what is refused; names may hold anything."""

import hashlib
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from clarep_ray.analysis import gallery
from clarep_ray.analysis.figures import contact_sheet
from clarep_ray.analysis.gallery import write_extraction_page
from clarep_ray.analysis.gallery.k_steps import k_step_folder
from clarep_ray.analysis.gallery.samples import MODES
from clarep_ray.analysis.gallery.thumbnails import Picture, ThumbnailSize, make_thumbnails, thumbnail_sizes
from clarep_ray.analysis.outputs import ExtractionOutput
from clarep_ray.config import PROJECTION_MODES
from clarep_ray.data.clarep_index import read_root
from clarep_ray.data.pixels import encode_png
from clarep_ray.data.verify import verify
from tests.analysis.made_output import EXTRAS, WINDOW, made_output, natural_pictures

HOSTILE = '</script><script>alert("class")</script><img src=x onerror=alert(1)>'
VENDOR = Path(gallery.__file__).parent / "vendor"


class Elements(HTMLParser):
    """Collects the tags of a page with their attributes, and the text of its data block."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, Any]]] = []
        self.data = ""
        self._in_data = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._in_data = dict(attrs).get("id") == "data"

    def handle_endtag(self, tag: str) -> None:
        self._in_data = False

    def handle_data(self, data: str) -> None:
        if self._in_data:
            self.data += data


def data_of(page: Path) -> dict[str, Any]:
    return json.loads(Elements(page.read_text()).data)


def with_step(folder: Path, k: int, **how: Any) -> Path:
    """Write a finished decoding of an output at a fixed k."""
    root = {"spectrum_root_sha256": read_root(folder)["root_sha256"]}
    return made_output(k_step_folder(folder, k), extras=(), fields=root, seed=k + 1, **how)


def test_every_sample_has_its_pictures_spectrum_and_flags(tmp_path: Path) -> None:
    folder = made_output(tmp_path / "out", count=30, rejected=[4])
    data = data_of(write_extraction_page(folder))
    assert [column["name"] for column in data["columns"]] == [*EXTRAS, "canonical"]
    assert len(data["samples"]) == 29
    sample = next(sample for sample in data["samples"] if sample["id"] == "sample-0009")
    assert (sample["k"], sample["flags"], data["classes"][sample["class"]]) == (5, ["ambiguous"], "0")
    assert len(sample["evr"]) == WINDOW
    assert sum(sample["evr"]) == pytest.approx(1, abs=1e-3)
    assert sample["evr"] == sorted(sample["evr"], reverse=True)
    assert all(sample["pictures"])
    assert next(s for s in data["samples"] if s["id"] == "sample-0007")["flags"] == ["not_converged"]
    assert sum(count for _, count in data["kCounts"]) == 29


def test_verdicts_of_the_quality_gate_are_flags_with_their_reason(tmp_path: Path) -> None:
    gated = data_of(write_extraction_page(made_output(tmp_path / "gated", count=6, gate=True)))["samples"]
    assert (gated[4]["flags"], gated[4]["faults"], gated[4]["remedy"]) == (["gate_retried"], "class", "elbow.share 0.5")
    assert (gated[5]["flags"], gated[5]["faults"], gated[5]["gate"]) == (["gate_flagged"], "class artefact", "flagged")
    assert (gated[1]["flags"], gated[1]["faults"], gated[1]["gate"]) == ([], None, "accepted")
    plain = data_of(write_extraction_page(made_output(tmp_path / "plain", count=6)))["samples"]
    assert {sample["gate"] for sample in plain} == {None}


def test_the_page_leaves_the_output_as_verify_wants_it(tmp_path: Path) -> None:
    folder = made_output(tmp_path / "out", count=6)
    with_step(folder, 2, count=6)
    write_extraction_page(folder)
    assert verify(folder) == []


def test_classes_are_named_for_people_and_notes_on_labels_stand_on_the_page(tmp_path: Path) -> None:
    folder = made_output(tmp_path / "out", count=6, classes=("n01440764", "x" * 300, "cat"), rejected=[1])
    note = "2 classes matched by number: nothing <b>names</b> them"
    (folder / "summary.json").write_text(json.dumps({"input": [note], "metrics": {}}))
    page = write_extraction_page(folder)
    classes = data_of(page)["classes"]
    assert classes == ["tench (n01440764)", f"{'x' * 79}\u2026", "cat"]
    text = page.read_text()
    assert "matched by number: nothing &lt;b&gt;names" in text
    assert "x" * 100 not in text  # the reject's class too
    sheet = contact_sheet(ExtractionOutput(folder))
    assert [axis.get_ylabel() for axis in sheet.axes if axis.get_ylabel()] == classes


def test_markup_in_names_stays_text(tmp_path: Path) -> None:
    folder = made_output(tmp_path / "out", count=4, classes=(HOSTILE, "plain"), ids=(HOSTILE,), rejected=[1])
    page = write_extraction_page(folder)
    text = page.read_text()
    found = Elements(text)
    scripts = [attributes for tag, attributes in found.tags if tag == "script"]
    assert [attributes.get("type") for attributes in scripts] == ["application/json"] + [None] * (len(scripts) - 1)
    assert not [tag for tag in found.tags if "onerror" in tag[1]]
    assert HOSTILE not in text
    assert json.loads(found.data)["samples"][0]["id"] == HOSTILE
    policy = next(attributes["content"] for tag, attributes in found.tags if "http-equiv" in attributes)
    assert "default-src 'none'" in policy
    assert "script-src 'sha256-" in policy
    assert not re.search(r"script-src[^;]*unsafe", policy)


def test_nothing_in_the_page_points_outside(tmp_path: Path) -> None:
    page = write_extraction_page(made_output(tmp_path / "out", count=4))
    for tag, attributes in Elements(page.read_text()).tags:
        for name in ("src", "href", "srcset", "action", "poster"):
            assert attributes.get(name, "#").startswith(("#", "data:")), (tag, attributes)
        assert attributes.get("alt") != "" or tag != "img"
    assert not re.search(r"@import|url\(", Path(gallery.__file__).with_name("static").joinpath("page.css").read_text())


def test_steps_become_the_slider_and_a_reject_at_one_k_is_none(tmp_path: Path) -> None:
    folder = made_output(tmp_path / "out", count=6)
    with_step(folder, 10, count=6, rejected=[2])
    with_step(folder, 3, count=6)
    data = data_of(write_extraction_page(folder))
    assert (data["steps"], data["columns"][data["own"]]["name"]) == ([3, 10], "canonical")
    assert [[shown is None for shown in sample["steps"]] for sample in data["samples"]] == [
        [False, i == 2] for i in range(6)
    ]


def test_steps_of_another_extraction_are_refused(tmp_path: Path) -> None:
    folder = made_output(tmp_path / "out", count=6)
    with_step(folder, 3, count=6)
    made_output(tmp_path / "other", count=7)
    shutil.copytree(folder / "k_steps", tmp_path / "other" / "k_steps")
    with pytest.raises(ValueError, match="decoded from an earlier extraction"):
        write_extraction_page(tmp_path / "other")


def test_pictures_shrink_until_the_page_fits(tmp_path: Path) -> None:
    folder = made_output(tmp_path / "out", count=24, edge=128)
    sharp, small = write_extraction_page(folder, max_mb=20).read_text(), write_extraction_page(folder, max_mb=1.45)
    assert "128 px, WebP quality" in sharp
    assert len(sharp) > 1.45e6 > small.stat().st_size > 1.2e6
    with pytest.raises(ValueError, match=r"max_mb: 1\.2 is not valid; valid: more than 1\.2"):
        write_extraction_page(folder, max_mb=1.2)


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_a_thousand_samples_of_256_pixels_with_four_steps_stay_below_20_mb(tmp_path: Path) -> None:
    folder = made_output(tmp_path / "out", count=1000, edge=256)
    for k in (0, 4, 8, 12):
        with_step(folder, k, count=1000, edge=256)
    page = write_extraction_page(folder)
    assert 13e6 < page.stat().st_size < 20e6
    assert len(data_of(page)["samples"]) == 1000


def test_fewer_samples_are_spread_over_the_input_and_the_page_says_so(tmp_path: Path) -> None:
    page = write_extraction_page(made_output(tmp_path / "out", count=30), max_samples=4)
    assert [sample["id"][-2:] for sample in data_of(page)["samples"]] == ["00", "10", "19", "29"]
    assert "Shown: 4, evenly spread" in page.read_text()


def test_an_output_without_extras_shows_what_it_has(tmp_path: Path) -> None:
    data = data_of(write_extraction_page(made_output(tmp_path / "out", count=3, extras=())))
    assert [column["name"] for column in data["columns"]] == ["canonical"]


def test_controls_follow_the_canonical_picture_and_say_what_they_are(tmp_path: Path) -> None:
    data = data_of(write_extraction_page(made_output(tmp_path / "out", count=3, extras=("random@2", "original"))))
    assert [(column["name"], column["meaning"]) for column in data["columns"]][1:] == [
        ("canonical", "the Canonical Sample: projected at t_e (Eq. 2), then decoded"),
        ("random@2", "as many random directions projected out; guidance 2"),
    ]
    assert data["own"] == 1


def test_every_projection_mode_is_described() -> None:
    assert set(MODES) == set(PROJECTION_MODES)


def test_what_is_no_finished_extraction_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no extraction was finished there"):
        write_extraction_page(tmp_path)
    folder = made_output(tmp_path / "out", count=3, rejected=[0, 1, 2])
    with pytest.raises(ValueError, match="rejects alone"):
        write_extraction_page(folder)


def test_a_damaged_shard_is_not_shown(tmp_path: Path) -> None:
    folder = made_output(tmp_path / "out", count=3)
    shard = next((folder / "shards").iterdir())
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match=r"damaged; run: uv run jobs/verify\.py"):
        write_extraction_page(folder)


def test_a_calibration_of_another_model_is_refused(tmp_path: Path) -> None:
    folder = made_output(tmp_path / "out", count=3)
    file = tmp_path / "calibration.json"
    file.write_text("{}")
    with pytest.raises(ValueError, match=r"is no calibration\.json"):
        write_extraction_page(folder, calibration=file)
    record = {"version": 1, "settings": {}, "fingerprint": "", "notes": [], "curves": {}}
    file.write_text(json.dumps(record | {"model": {"name": "digits_dit", "weights_sha256": "another"}}))
    with pytest.raises(ValueError, match="another model"):
        write_extraction_page(folder, calibration=file)


def test_thumbnails_never_enlarge_and_keep_small_pictures_exact() -> None:
    assert thumbnail_sizes(16)[0] == ThumbnailSize(16, None)
    assert thumbnail_sizes(100)[0] == ThumbnailSize(100, 75)
    assert {size.edge for size in thumbnail_sizes(100)} == {100, 96, 80, 64, 48}
    picture = Picture("original", "a", encode_png(natural_pictures(1, 100, 0)[0]))
    assert make_thumbnails(lambda: [picture], 1, 100, 100) is None


def test_echarts_is_the_published_file() -> None:
    about = (VENDOR / "README.md").read_text()
    source = (VENDOR / "echarts.min.js").read_bytes()
    assert f"`{hashlib.sha256(source).hexdigest()}`" in about
    assert {"LICENSE", "NOTICE", "LICENSE-d3"} <= {path.name for path in VENDOR.iterdir()}
