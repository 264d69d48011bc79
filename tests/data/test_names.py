"""Any name, any two names: keys are distinct and fit, and outputs of earlier versions are read as they are."""

import random
import re
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from clarep_ray.analysis.gallery import write_extraction_page
from clarep_ray.cluster import plan
from clarep_ray.config import PROJECTION_MODES, DataConfig, ExtractConfig, parse_extra
from clarep_ray.config.projection import MAX_EXTRA_LENGTH
from clarep_ray.data import manifest
from clarep_ray.data.clarep_index import read_index, read_root
from clarep_ray.data.clarep_store import open_clareps
from clarep_ray.data.manifest import InputManifest, digest_of, freeze, with_legacy_keys
from clarep_ray.data.records import MAX_KEY_LENGTH, InputRow, legacy_key, safe_key
from clarep_ray.data.shards import MAX_MEMBER_NAME, longest_suffix, read_shard
from clarep_ray.data.sources import open_source
from clarep_ray.data.tar_index import tar_index
from clarep_ray.data.verify import verify
from clarep_ray.dotted import override
from tests.analysis.made_output import made_output
from tests.data import trees
from tests.data.names import NAMES, write_names

COLLIDING = ("a/^?*%#!^!,=* ", "a/??^+~%@ !%??")
"""Two ids of one legacy key, found among 2.5 million in 10 s."""
LONGEST = "random_shrink@1.23457e-05"


def test_keys_are_safe_and_distinct_even_without_case() -> None:
    ids = [
        *NAMES,
        *(f"0/{name}" for name in NAMES),
        *COLLIDING,
        "",
        "\udcff",
        "\udcfe",
        "a/b.png",
        "a_b.png",
        "a/b png",
    ]
    keys = [safe_key(name) for name in ids]
    assert len(set(ids)) == len(ids) == len({key.casefold() for key in keys})
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", key) and len(key) <= MAX_KEY_LENGTH for key in keys)
    assert not {key.casefold() for key in keys} & {"con", "nul", "aux", "com1", "lpt9", "_info"}
    assert safe_key("plain-1") == "plain-1"
    assert safe_key("x" * 57) == "x" * 57
    for key in keys:  # an id that looks like a key of another is none
        assert safe_key(key) == key if "-" not in key else safe_key(key) not in {*keys} - {key}


def test_ids_that_were_made_to_have_one_key_are_two_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len({legacy_key(name) for name in COLLIDING}) == 1
    folder = made_output(tmp_path / "out", count=2, classes=("0",), ids=COLLIDING)
    (shard,) = (folder / "shards").iterdir()
    assert [sample.record["id"] for sample in read_shard(shard)] == list(COLLIDING)
    write_names(tmp_path / "in" / "a", [trees.picture_bytes(0)], tuple(name[2:] for name in COLLIDING))
    source = open_source(DataConfig(source="image_folder", path=str(tmp_path / "in")), None)
    listed = list(source.rows())
    rows = freeze(source, listed)
    assert len({row.key for row in rows}) == 2
    monkeypatch.setattr(manifest, "safe_key", legacy_key)
    with pytest.raises(ValueError, match=r"one key, 'a_-747c1a5671': .*\?\?\^.* of .* and .*\^\?\*%.* of ") as refused:
        freeze(source, listed)
    assert "\n" not in str(refused.value)
    with pytest.raises(ValueError, match="one key, 'a_-747c1a5671'"):
        with_legacy_keys(rows)


def test_random_ids_have_keys_of_their_own() -> None:
    draw = random.Random(0)
    keys = Counter(safe_key(draw.randbytes(draw.randint(1, 40)).decode("latin1")) for _ in range(30_000))
    seen = Counter(len(key) <= MAX_KEY_LENGTH for key in keys)
    assert seen == {True: len(keys)}
    assert len({key.casefold() for key in keys}) == len(keys) > 29_000


def test_the_longest_member_fits_the_plainest_tar(tmp_path: Path) -> None:
    longest = max(len(f"{mode}@") for mode in PROJECTION_MODES) + len("1.23457e-05")
    assert len(LONGEST) == longest == MAX_EXTRA_LENGTH
    assert parse_extra(LONGEST) is not None
    assert MAX_KEY_LENGTH + longest_suffix([LONGEST]) == MAX_MEMBER_NAME
    folder = made_output(tmp_path / "out", count=2, ids=("x" * 57, "0/" + "x" * 255), extras=(LONGEST,))
    (shard,) = (folder / "shards").iterdir()
    assert max(len(member.name) for member in tar_index(shard)) == MAX_MEMBER_NAME - len("null_")
    with tarfile.open(shard) as tar:
        assert tar.pax_headers == {}
        assert all(len(member.name) <= MAX_MEMBER_NAME and not member.pax_headers for member in tar)


@pytest.mark.parametrize(
    "name", ["clarid@nan", "clarid@inf", "clarid@1e999", "clarid@ 1", "clarid@\uff11", "clarid@1_0", LONGEST + "0"]
)
def test_an_extra_that_is_no_number_or_makes_members_too_long_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"output.extras: .* is not valid; valid: input, .* at most 25 characters"):
        parse_extra(name)


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """A finished output of the version before `safe_key`: keys of 40 bits, among them one of an id of 56 characters."""
    with tarfile.open(Path(__file__).parent / "earlier_output.tar.gz") as tar:
        tar.extractall(tmp_path / "earlier", filter="data")
    return tmp_path / "earlier"


def test_an_output_of_an_earlier_version_is_read(earlier: Path) -> None:
    import webdataset

    assert verify(earlier) == []
    index = read_index(earlier).to_pylist()
    assert (
        [row["key"] for row in index]
        == [legacy_key(row["id"]) for row in index]
        != [safe_key(row["id"]) for row in index]
    )
    assert write_extraction_page(earlier).stat().st_size > 10_000
    shards = [str(path) for path in (earlier / "shards").iterdir()]
    samples = list(webdataset.WebDataset(shards, shardshuffle=False))
    kept = [row for row in index if row["status"] == "ok"]
    assert [sample["__key__"] for sample in samples] == [row["key"] for row in kept]
    clareps = open_clareps(str(earlier))
    keys = [safe_key(row["id"]) for row in kept]  # as a training names its images
    assert clareps.own_rows(clareps.labels, keys).tolist() == list(range(5))
    assert np.isfinite(clareps.features(range(5))).all()
    assert verify(earlier) == []


def test_spectra_of_an_earlier_version_are_found_under_its_keys(earlier: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frozen = list(InputManifest(earlier / "input.parquet", read_root(earlier)["input_file_sha256"]).rows())
    fresh = [InputRow(**{**{n: getattr(row, n) for n in row.__slots__}, "key": safe_key(row.id)}) for row in frozen]
    config = override(ExtractConfig(), {"output.from_spectrum": str(earlier)})
    kept = {"input_sha256": digest_of(frozen)}
    monkeypatch.setattr(plan, "_spectrum_fields", lambda _: kept)
    assert plan._with_kept_keys(fresh, config) == frozen
    assert plan._with_kept_keys(fresh, override(config, {"output.from_spectrum": None})) == fresh
    kept["input_sha256"] = digest_of(fresh)
    assert plan._with_kept_keys(fresh, config) == fresh
    kept["input_sha256"] = digest_of(frozen[:1])
    assert plan._with_kept_keys(fresh, config) == fresh
    kept["input_sha256"] = digest_of(frozen)
    with pytest.raises(ValueError, match=r"output.extras: .*n01440764/xxx.* exceed the 100 characters"):
        plan._with_kept_keys(fresh, override(config, {"output.extras": (LONGEST,)}))


def test_the_images_behind_prompts_are_those_of_the_rows_own_version() -> None:
    row = {"ordinal": 0, "source": "s", "offset": 0, "size": 1, "sha256": "", "label": 0, "class_name": "c"}
    for key in (safe_key, legacy_key):
        first, second = (
            InputRow(**row, id=f"a/b{end}", key=key(f"a/b{end}"), prompt=n) for n, end in ((0, ""), (1, "#1"))
        )
        assert first.image_key == second.image_key == key("a/b")
