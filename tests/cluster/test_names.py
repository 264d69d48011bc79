"""Images of any name, from every source, go all the way: plan, shards, index, training, other readers, page, repair."""

import io
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clarep_ray.analysis.outputs import ExtractionOutput
from clarep_ray.cluster.publish import extract_and_publish
from clarep_ray.cluster.repair import repair
from clarep_ray.cluster.report import write_report
from clarep_ray.config import DataConfig, ReportConfig
from clarep_ray.data.clarep_index import read_index
from clarep_ray.data.clarep_store import open_clareps
from clarep_ray.data.picture_rows import open_pictures
from clarep_ray.data.records import RejectReason
from clarep_ray.data.shards import read_shard
from clarep_ray.data.sources import open_source
from clarep_ray.data.verify import uncovered, verify
from tests.cluster.reference import given, small_config
from tests.data import trees
from tests.data.names import NAMES, write_names

BYTES = b"0/\xff\xfe.png"


def write_input(root: Path, names: tuple[str, ...]) -> Path:
    """Write a class folder with an image of every name, one whose name is no text, and three others of one image."""
    write_names(root / "0", [trees.picture_bytes(number, size=8) for number in range(4)], names)
    (root / BYTES.decode(errors="surrogateescape")).write_bytes(trees.picture_bytes(1))
    for number in (1, 2, 3):
        write_names(root / str(number), [trees.picture_bytes(number, size=8)], (f"{number}.png",))
    return root


@pytest.mark.usefixtures("without_ray")
@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.nightly)])
def test_images_of_any_name_go_all_the_way(every: int, weights: Path, tmp_path: Path) -> None:
    import webdataset
    from timm.data import create_dataset

    names = NAMES[::every]
    folder = write_input(tmp_path / "all", names)
    config = small_config(weights, folder, tmp_path / "out", engine__unit_size=20, engine__micro_batch=10)
    said: list[str] = []
    summary = extract_and_publish(config, "digits_smoke", said.append)
    out, listed = tmp_path / "out", list(open_source(config.data, None).rows())
    wanted = {row.id for row in listed if row.reason != RejectReason.NAME_NOT_UTF8}
    assert wanted == {f"0/{name}" for name in names if not name.startswith(".")} | {f"{n}/{n}.png" for n in (1, 2, 3)}
    assert (summary["num_ok"], summary["rejects"]) == (len(wanted), {"name_not_utf8": 1})
    assert verify(out) == []
    index = read_index(out).to_pylist()
    assert {row["id"] for row in index if row["status"] == "ok"} == wanted
    samples = [sample for path in sorted((out / "shards").iterdir()) for sample in read_shard(path)]
    assert [sample.record["id"] for sample in samples] == [row["id"] for row in index if row["status"] == "ok"]
    shards = sorted(str(path) for path in (out / "shards").iterdir())
    foreign = list(webdataset.WebDataset(shards, shardshuffle=False))
    assert [sample["__key__"] for sample in foreign] == [sample.key for sample in samples]
    assert {len(sample) for sample in foreign} == {len(foreign[0])}
    dataset = create_dataset("wds/clareps", root=str(out), split="train", is_training=False, batch_size=4)
    assert len(list(dataset)) == len(wanted)
    images = open_pictures(DataConfig(source="image_folder", path=str(_without_reject(folder, tmp_path))), None)
    rows = open_clareps(str(out)).own_rows(images.labels, images.keys)
    assert sorted(rows) == list(range(len(wanted)))
    page = write_report(ReportConfig(folder=out))
    assert page.stat().st_size > 100_000
    (out / "summary.json").write_bytes((out / "summary.json").read_bytes()[:700])
    Path(shards[1]).write_bytes(b"")
    assert repair(out, verify(out), given(weights, folder)) == [1]
    said.clear()
    again = extract_and_publish(config, "digits_smoke", said.append)
    assert (again["num_actors"], verify(out)) == (0, [])
    assert again["metrics"] == summary["metrics"]
    assert [line.partition(":")[0] for line in uncovered(out)] == ["attempts", "input_stamps.jsonl"]
    assert ExtractionOutput(out).index.num_rows == len(wanted)


def _without_reject(folder: Path, tmp_path: Path) -> Path:
    """Return links to the class folders without the file that a training refuses."""
    for number in ("1", "2", "3"):
        (tmp_path / "in" / number).parent.mkdir(exist_ok=True)
        (tmp_path / "in" / number).symlink_to(folder / number)
    (tmp_path / "in" / "0").mkdir()
    for path in (folder / "0").iterdir():
        if path.name.isprintable() or "\udcff" not in path.name:
            (tmp_path / "in" / "0" / path.name).hardlink_to(path)
    return tmp_path / "in"


def test_members_of_any_name_in_a_tar_and_paths_of_any_name_in_parquet_have_keys_of_their_own(tmp_path: Path) -> None:
    stems = sorted({f"d/{name.partition('.')[0]}" for name in NAMES if name.partition(".")[0].strip("~")})
    (tmp_path / "tars").mkdir()
    name = "\u00e9 $x$ #1.tar"
    with tarfile.open(tmp_path / "tars" / name, "w", format=tarfile.PAX_FORMAT) as tar:
        for number, stem in enumerate(stems):
            for suffix, data in (("png", trees.picture_bytes(number % 4, size=8)), ("cls", b"0")):
                info = tarfile.TarInfo(f"{stem}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    (tmp_path / "parquet").mkdir()
    column = [{"bytes": trees.picture_bytes(0, size=8), "path": stem} for stem in stems]
    pq.write_table(pa.table({"image": column, "label": [0] * len(stems)}), tmp_path / "parquet" / "a b'#.parquet")
    from clarep_ray.data.manifest import freeze

    for source in ("webdataset", "parquet"):
        path = tmp_path / ("tars" if source == "webdataset" else source)
        opened = open_source(DataConfig(source=source, path=str(path)), None)
        rows = freeze(opened, list(opened.rows()))
        assert len(rows) == len({row.key.casefold() for row in rows}) == len(stems)
        if source == "webdataset":
            assert [row.id for row in rows] == [f"{name}/{stem}" for stem in stems]
