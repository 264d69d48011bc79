"""CLAReps by row from a finished output: names, hashes, partners, bounded memory. No model is needed."""

import io
import itertools
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clarep_ray.data import clarep_members, clarep_rows
from clarep_ray.data.clarep_index import finish
from clarep_ray.data.clarep_store import draw_partners, open_clareps
from clarep_ray.data.class_list import ClassList
from clarep_ray.data.manifest import write_manifest
from clarep_ray.data.parquet_files import check_written
from clarep_ray.data.pixels import encode_png
from clarep_ray.data.records import InputRow, prompt_id, safe_key
from clarep_ray.data.shards import npy_bytes, shard_bytes
from clarep_ray.data.store import OutputStore
from clarep_ray.data.verify import verify

CLASSES = ("wolf", "ant", "cat")
PER_CLASS, UNIT, DIM = 5, 4, 6
COUNT = len(CLASSES) * PER_CLASS


def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def picture(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)


def feature(number: int) -> np.ndarray:
    return np.random.default_rng(1000 + number).normal(size=DIM).astype(np.float32)


def write_output(
    folder: Path, extras: tuple[str, ...] = ("original",), pictures: bool = True, count: int = COUNT, prompts: int = 1
) -> Path:
    """Write what an extraction would: samples of three classes in units of four; the sixth input is a reject."""
    store = OutputStore(folder)
    store.prepare()
    rows = [
        InputRow(
            ordinal=number,
            id=prompt_id(f"image{number % count}", number // count),
            key=safe_key(prompt_id(f"image{number % count}", number // count)),
            source="none",
            offset=0,
            size=0,
            sha256=f"{number:064x}",
            label=number % count % len(CLASSES),
            class_name=CLASSES[number % count % len(CLASSES)],
            prompt=number // count,
        )
        for number in range(count * prompts)
    ]
    manifest = write_manifest(rows, folder / "input.parquet", UNIT)
    for unit in range(manifest.num_units):
        good = [row for row in manifest.unit_rows(unit) if row.ordinal != 5]
        samples = {row.key: members(row.ordinal, extras, pictures) for row in good}
        entries = [
            {
                "key": row.key,
                "status": "ok" if row in good else "rejected",
                "reason": None if row in good else "corrupt",
            }
            for row in manifest.unit_rows(unit)
        ]
        store.commit(unit, {"shards": shard_bytes(samples)}, {"rows": entries, "num_ok": len(good)})
    finish(store, manifest, "train", {"fingerprint": "f" * 64})
    return folder


def members(number: int, extras: tuple[str, ...], pictures: bool) -> dict[str, bytes]:
    found = {"cls": b"0", "json": b"{}", "feature.npy": npy_bytes(feature(number))}
    found |= {"png": encode_png(picture(number))} if pictures else {}
    for place, name in enumerate(extras, 1):
        found[f"{name}.png"] = encode_png(picture(number + 100 * place))
        found[f"{name}.feature.npy"] = npy_bytes(feature(number + 100 * place))
        found[f"{name}.null_feature.npy"] = npy_bytes(feature(number)[:2])
    return found


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_output(tmp_path_factory.mktemp("out"), ("original", "shrink@1"))


def test_rows_are_the_samples_in_the_order_of_the_input(output: Path) -> None:
    store = open_clareps(str(output))
    kept = [number for number in range(COUNT) if number != 5]
    assert store.source_keys == tuple(f"image{number}" for number in kept)
    assert store.class_names == CLASSES
    assert store.labels.tolist() == [number % 3 for number in kept]
    np.testing.assert_array_equal(store.features([3, 0, 7]), np.stack([feature(kept[i]) for i in (3, 0, 7)]))
    np.testing.assert_array_equal(store.images([13, 2]), np.stack([picture(kept[13]), picture(kept[2])]))
    assert (store.features([1]).dtype, store.images(np.array([1])).shape) == (np.float32, (1, 8, 8, 3))
    assert (store.feature_dim, len(store), len(store.sha256)) == (DIM, COUNT - 1, 64)


def test_extras_come_with_their_own_features(output: Path) -> None:
    store = open_clareps(str(output), pictures="shrink@1")
    np.testing.assert_array_equal(store.images([0])[0], picture(200))
    np.testing.assert_array_equal(store.features([0])[0], feature(200))
    with pytest.raises(ValueError, match=r"'guidance' is not in .*; valid: canonical, original, shrink@1"):
        open_clareps(str(output), pictures="guidance")


def test_classes_go_by_name_and_never_by_number(output: Path) -> None:
    store = open_clareps(str(output), class_names=("ant", "wolf"))
    assert store.class_names == ("ant", "wolf")
    assert {int(key.removeprefix("image")) % 3 for key in np.array(store.source_keys)[store.labels == 0]} == {1}
    assert len(store) == 10
    with pytest.raises(ValueError, match="come twice"):
        open_clareps(str(output), class_names=("ant", "ant"))


def test_classes_go_by_synonym_and_a_list_without_names_by_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.data.test_clarep_store.CLASSES", ("n01443537", "tench", "n01514668"))
    folder = str(write_output(tmp_path / "out"))
    store = open_clareps(folder, class_names=ClassList(("hen", "cock", "goldfish", "n01440764")), allow_missing=True)
    pairs = zip(store.source_keys, store.labels.tolist(), strict=True)
    kinds = {int(key.removeprefix("image")) % 3: label for key, label in pairs}
    assert kinds == {0: 2, 1: 3, 2: 1}
    assert pickle.loads(pickle.dumps(store)).labels.tolist() == store.labels.tolist()
    by_number = open_clareps(folder, class_names=ClassList.of_count(3))
    assert (by_number.match.by, by_number.labels.tolist()) == ("number", [i % 3 for i in range(COUNT) if i != 5])
    with pytest.raises(ValueError, match="none is in both"):
        open_clareps(folder, class_names=("bus", "tram"), allow_missing=True)
    monkeypatch.setattr("tests.data.test_clarep_store.CLASSES", ("n01440764", "tench", "hen"))
    doubled = str(write_output(tmp_path / "doubled"))
    with pytest.raises(ValueError, match="'n01440764' and 'tench' are both 'tench, Tinca tinca'"):
        open_clareps(doubled, class_names=("hen", "tench, Tinca tinca"))


def test_a_fraction_is_stratified_seeded_and_nested(output: Path) -> None:
    shares = [set(open_clareps(str(output), fraction=part, seed=3).source_keys) for part in (0.01, 0.4, 0.8, 1.0)]
    assert [len(share) for share in shares] == [3, 6, 11, COUNT - 1]  # the class of the reject has four
    assert all(small < large for small, large in itertools.pairwise(shares))
    seeds = {frozenset(open_clareps(str(output), fraction=0.4, seed=seed).source_keys) for seed in range(8)}
    assert len(seeds) > 4
    some = open_clareps(str(output), fraction=0.4, seed=3)
    assert pickle.loads(pickle.dumps(some)).source_keys == some.source_keys
    assert sorted(some.labels.tolist()) == [0, 0, 1, 1, 2, 2]
    with pytest.raises(ValueError, match=r"fraction: 0 is not valid; valid: more than 0, at most 1"):
        open_clareps(str(output), fraction=0)


def test_a_class_without_clareps_is_named_unless_allowed(output: Path) -> None:
    names = ("ant", *(f"bird{i}" for i in range(9)))
    with pytest.raises(
        ValueError, match=r"9 of 10 classes .* bird0, bird1, bird2, bird3, bird4, \.\.\.; it has 'wolf'"
    ):
        open_clareps(str(output), class_names=names)
    store = open_clareps(str(output), class_names=names, allow_missing=True)
    with pytest.raises(ValueError, match=r"1 classes of the batch have no CLARep in .*: bird3"):
        draw_partners(store, [0, 4], (), "random", rng())
    with pytest.raises(ValueError, match="none is in both"):
        open_clareps(str(output), class_names=("bird",), allow_missing=True)


def test_random_partners_are_of_the_class_and_follow_the_generator(output: Path) -> None:
    store = open_clareps(str(output))
    labels = np.tile(np.arange(3), 400)
    rows = draw_partners(store, labels, (), "random", rng())
    assert (store.labels[rows] == labels).all()
    np.testing.assert_array_equal(rows, draw_partners(open_clareps(str(output)), labels, (), "random", rng()))
    counts = np.bincount(rows[labels == 0], minlength=len(store))[store.rows_of(0)]
    assert counts.min() > 0.6 * 400 / len(store.rows_of(0))
    with pytest.raises(ValueError, match="labels: 3 is not a class; valid: 0 to 2"):
        draw_partners(store, [3], (), "random", rng())


def test_an_image_is_paired_with_its_own_clarep(output: Path) -> None:
    store = open_clareps(str(output))
    rows = draw_partners(store, [1, 0], ["image4", "image0"], "same_image", rng())
    assert [store.source_keys[row] for row in rows] == ["image4", "image0"]
    with pytest.raises(ValueError, match=r"1 images have no CLARep in .*, first: 'image5'"):
        draw_partners(store, [1, 2], ["image4", "image5"], "same_image", rng())
    with pytest.raises(ValueError, match=r"'image4' is of class 'ant' in .* and of 'cat' in training"):
        draw_partners(store, [2], ["image4"], "same_image", rng())
    with pytest.raises(ValueError, match="pairing: 'best' is not valid; valid: random, same_image, nearest"):
        draw_partners(store, [1], ["image4"], "best", rng())  # type: ignore[arg-type]


@pytest.mark.parametrize("extras", [("original",), ()])
def test_the_nearest_partner_is_the_closest_of_another_image(extras: tuple[str, ...], tmp_path: Path) -> None:
    store = open_clareps(str(write_output(tmp_path, extras)))
    keys = ("image0", "image3", "image12")
    rows = draw_partners(store, [0, 0, 0], keys, "nearest", rng())
    numbers = [0, 3, 6, 9, 12]
    for key, row in zip(keys, rows, strict=True):
        own = int(key.removeprefix("image"))
        query = feature(own + 100 * len(extras))
        distances = {n: np.linalg.norm(query - feature(n)) for n in numbers if n != own}
        assert store.source_keys[row] == f"image{min(distances, key=lambda n: distances[n])}"
    with pytest.raises(ValueError, match="first: 'walrus'"):
        draw_partners(store, [0], ["walrus"], "nearest", rng())


def test_the_only_clarep_of_a_class_is_its_own_neighbour(tmp_path: Path) -> None:
    store = open_clareps(str(write_output(tmp_path, count=4)))
    assert draw_partners(store, [1], ["image1"], "nearest", rng()).tolist() == [1]


def test_several_prompts_are_clareps_of_one_image(tmp_path: Path) -> None:
    store = open_clareps(str(write_output(tmp_path, count=4, prompts=2)))
    assert store.source_keys == ("image0", "image1", "image2", "image3", "image0", "image2", "image3")
    assert draw_partners(store, [0], ["image3"], "same_image", rng()).tolist() == [3]
    (row,) = draw_partners(store, [0], ["image3"], "nearest", rng())
    assert store.source_keys[row] == "image0"


@pytest.mark.parametrize("what", ["shard", "unit", "index", "root", "missing"])
def test_damage_is_refused_with_the_command_that_repairs_it(what: str, tmp_path: Path) -> None:
    write_output(tmp_path)
    shard = sorted((tmp_path / "shards").iterdir())[1]
    path = {
        "shard": shard,
        "missing": shard,
        "unit": tmp_path / "units" / "000001.json",
        "index": tmp_path / "index.parquet",
        "root": tmp_path / "MANIFEST.json",
    }[what]
    if what == "missing":
        path.unlink()
    else:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(bytes(data))
    with pytest.raises(
        ValueError, match=rf"{path.name} is missing or damaged; run: uv run jobs/verify\.py .* --repair"
    ):
        open_clareps(str(tmp_path))
    assert not (tmp_path / "members.parquet").exists()


def test_an_unfinished_output_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no extraction was finished there"):
        open_clareps(str(tmp_path))


def test_a_second_opening_reads_no_shard_and_a_changed_one_is_checked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_output(tmp_path)
    first = open_clareps(str(tmp_path))
    with monkeypatch.context() as patched:
        patched.setattr(clarep_members, "sha256_file", lambda path: pytest.fail(f"{path} was read again"))
        again = open_clareps(str(tmp_path), pictures="original")
    assert again.source_keys == first.source_keys
    shard = sorted((tmp_path / "shards").iterdir())[0]
    data = bytearray(shard.read_bytes())
    data[600] ^= 1
    shard.write_bytes(bytes(data))
    with pytest.raises(ValueError, match="is missing or damaged"):
        open_clareps(str(tmp_path))


def test_a_damaged_note_of_the_first_opening_costs_a_second_check_only(tmp_path: Path) -> None:
    write_output(tmp_path)
    open_clareps(str(tmp_path))
    for name in ("members.parquet", "members.sha256"):
        (tmp_path / name).write_bytes(b"nothing")
        assert len(open_clareps(str(tmp_path))) == COUNT - 1
    check_written(tmp_path / "members.parquet", (tmp_path / "members.sha256").read_text())


def test_an_opened_output_is_still_whole(tmp_path: Path) -> None:
    write_output(tmp_path)
    open_clareps(str(tmp_path))
    assert not [damage for damage in verify(tmp_path) if "run.json" not in damage.what]


def test_features_too_large_for_memory_are_read_by_row(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = open_clareps(str(output))
    monkeypatch.setattr(clarep_rows, "FEATURES_IN_MEMORY", 0)
    streamed = open_clareps(str(output))
    rows = [0, 9, 4, 4]
    np.testing.assert_array_equal(streamed.features(rows), whole.features(rows))


def test_pictures_are_decoded_once_and_kept_within_bounds(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[int] = []
    plain = Image.open

    def counting(file: io.BytesIO, **options):
        opened.append(1)
        return plain(file, **options)

    monkeypatch.setattr(clarep_rows, "PICTURES_IN_MEMORY", 3 * 8 * 8 * 3)
    monkeypatch.setattr(clarep_rows, "OPEN_SHARDS", 1)
    monkeypatch.setattr(Image, "open", counting)
    store = open_clareps(str(output))
    store.images([0, 1, 2])
    store.images([2, 1, 0])
    assert len(opened) == 3
    store.images([9])
    store.images([2])  # the least recently used one went
    assert len(opened) == 5


def test_features_alone_have_no_pictures(tmp_path: Path) -> None:
    store = open_clareps(str(write_output(tmp_path, (), pictures=False)))
    np.testing.assert_array_equal(store.features([2])[0], feature(2))
    with pytest.raises(ValueError, match="keeps features alone, and no png"):
        store.images([0])


def test_a_pickled_store_is_opened_again(output: Path) -> None:
    store = open_clareps(str(output), pictures="original", class_names=("cat", "wolf", "dog"), allow_missing=True)
    again = pickle.loads(pickle.dumps(store))
    assert (again.class_names, again.sha256, again.source_keys) == (store.class_names, store.sha256, store.source_keys)
    np.testing.assert_array_equal(again.images([3]), store.images([3]))
