"""Outputs of other people: `verify` names what is not as it says, and no manifest reaches beyond its folder."""

import hashlib
import json
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clarep_ray.data.clarep_index import INDEX, ROOT, ROOT_SEAL, Unaccounted, finish
from clarep_ray.data.manifest import write_manifest
from clarep_ray.data.owner import OutputInUse
from clarep_ray.data.records import InputRow, printable
from clarep_ray.data.sealed import sealed
from clarep_ray.data.shards import shard_bytes
from clarep_ray.data.store import RUN, DamagedUnit, OutputStore
from clarep_ray.data.verify import Damage, verify, withdraw
from clarep_ray.dotted import fingerprint
from clarep_ray.models.checkpoints import load_newest
from tests.data.trees import picture_bytes
from tests.hostile import planted, tars
from tests.hostile.settings import CORRUPT


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """A finished output of two units, made by hand."""
    store = OutputStore(tmp_path / "out")
    store.prepare()
    rows = [
        InputRow(
            ordinal=i, id=f"s{i}", key=f"s{i}", source="a", offset=i, size=1, sha256="0" * 64, label=0, class_name="c"
        )
        for i in range(4)
    ]
    manifest = write_manifest(rows, store.root / "input.parquet", 2)
    fields = {"label_map_sha256": "1"}
    store.write_run(fields, {})
    for unit in range(2):
        keys = [row.key for row in rows[2 * unit : 2 * unit + 2]]
        shard = shard_bytes({key: {"png": picture_bytes(0), "cls": b"0", "json": b"{}"} for key in keys})
        listed = [{"key": key, "status": "ok", "reason": None} for key in keys]
        store.commit(unit, {"shards": shard}, {"rows": listed, "num_ok": 2})
    finish(store, manifest, "train", {"fingerprint": fingerprint(fields), **fields})
    assert verify(store.root) == []
    return store.root


def rewritten(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the root manifest and give it a right hash, as somebody would who means harm."""
    root = json.loads((folder / ROOT).read_bytes())
    change(root)
    (folder / ROOT).write_bytes(sealed(root, ROOT_SEAL))


@pytest.mark.parametrize("name", [ROOT, RUN, INDEX, "input.parquet", "_info.json", "units/000000.json"])
@pytest.mark.parametrize("label", CORRUPT)
def test_verify_names_whatever_is_corrupt(name: str, label: str, output: Path) -> None:
    (output / name).write_bytes(CORRUPT[label])
    found = verify(output)
    assert found, "nothing was found"
    assert any(Path(name).name in damage.what or damage.unit == 0 for damage in found)


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/passwd", "shards/../../x.tar", "shards/a b.tar", "shards", 7]
)
def test_a_manifest_cannot_name_files_elsewhere(name: object, output: Path) -> None:
    path = output / "units" / "000000.json"
    manifest = json.loads(path.read_bytes())
    manifest["files"]["shards"]["name"] = name
    path.write_text(json.dumps(manifest))

    def agree(root: dict[str, Any]) -> None:
        root["unit_sha256"][0] = hashlib.sha256(path.read_bytes()).hexdigest()

    rewritten(output, agree)
    found = [damage for damage in verify(output) if damage.unit == 0]
    assert found
    assert "is no manifest of a unit" in found[0].what


@pytest.mark.parametrize("label", ["files", "unit_sha256", "fingerprint", "input_sha256", "index_sha256"])
@pytest.mark.parametrize("value", [None, 7, "x", [], {}, [None], {"a": 1}])
def test_a_root_of_other_kinds_of_values_is_damaged(label: str, value: object, output: Path) -> None:
    rewritten(output, lambda root: root.update({label: value}))
    found = verify(output)
    assert found
    assert all(printable(damage.what) for damage in found)


def test_taking_out_a_stray_file_takes_out_that_file(output: Path) -> None:
    """A name may begin as that of a shard that somebody needs."""
    shard = next((output / "shards").iterdir())
    stray = shard.with_name(f"{shard.name} x\x1b[2J")
    stray.write_bytes(b"")
    (output / "shards" / "folder").mkdir()
    found = verify(output)
    assert [damage.unit for damage in found] == [None]
    withdraw(output, found)
    assert shard.is_file()
    assert not stray.exists()
    assert verify(output) == []


def test_a_shard_that_is_no_tar_is_named(output: Path) -> None:
    """Its hashes are right: whoever wrote it wrote them too."""
    path = output / "units" / "000001.json"
    manifest = json.loads(path.read_bytes())
    evil = tars.block(tars.BASE256) + tars.END
    sha = hashlib.sha256(evil).hexdigest()
    name = f"shards/000001-{sha[:12]}.tar"
    (output / name).write_bytes(evil)
    manifest["files"]["shards"] = {"name": name, "sha256": sha, "bytes": len(evil)}
    path.write_text(json.dumps(manifest))

    def agree(root: dict[str, Any]) -> None:
        root["unit_sha256"][1] = hashlib.sha256(path.read_bytes()).hexdigest()

    rewritten(output, agree)
    assert any(damage.unit == 1 and "is no shard" in damage.what for damage in verify(output))


class Untouched:
    """A training that nothing may be put into."""

    step = 0

    def parts(self) -> dict[str, Any]:
        return {}

    def notes(self) -> dict[str, Any]:
        return {}

    def restore(self, parts: Any, notes: Any) -> None:
        raise AssertionError("a damaged checkpoint was taken over")


@pytest.mark.parametrize("label", CORRUPT)
def test_a_checkpoint_with_a_corrupt_record_is_passed_over_and_none_is_an_error(label: str, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints" / "step-00000001"
    folder.mkdir(parents=True)
    (folder / "state.json").write_bytes(CORRUPT[label])
    with (
        pytest.warns(UserWarning, match="step-00000001 is damaged"),
        pytest.raises(ValueError, match="has checkpoints, but all are damaged"),
    ):
        load_newest(Untouched(), tmp_path / "checkpoints", "mark")


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One sound output of every kind."""
    base = tmp_path_factory.mktemp("golden")
    for kind, make in planted.MAKERS.items():
        make(base / kind)
        planted.GOLDEN[kind] = base / kind
    return planted.GOLDEN


def said_by(reader: Callable[[Path], object], folder: Path) -> str:
    """Return what a reader said in the end, one line; an error that a job does not end with in one line is a fault."""
    told = list[str]()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            found = reader(folder)
            told += [damage.what for damage in found if isinstance(damage, Damage)] if isinstance(found, list) else []
        except (ValueError, OSError, DamagedUnit, OutputInUse, Unaccounted) as error:
            told.append(str(error))
    told += [str(item.message) for item in caught if item.category is UserWarning]
    assert all("\n" not in line and len(line) < 2000 for line in told)
    return " ".join(told)


@pytest.mark.parametrize("kind", planted.MAKERS)
def test_a_sound_output_is_read_by_everything(kind: str, golden: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(golden[kind], tmp_path / "out", symlinks=True)
    for name, reader in planted.READERS[kind].items():
        assert said_by(reader, tmp_path / "out") == "", name


@pytest.mark.parametrize(
    "case",
    [pytest.param(name, marks=[pytest.mark.nightly] if case.nightly else []) for name, case in planted.cases().items()],
)
@pytest.mark.timeout(120)
def test_a_strangers_output_is_only_data(case: str, golden: dict[str, Path], tmp_path: Path) -> None:
    """Whatever was planted: each job that reads it ends, in one line, and nothing outside is read or written."""
    planned = planted.cases()[case]
    output, victim = tmp_path / "out", tmp_path / "victim"
    shutil.copytree(golden[planned.kind], output, symlinks=True)
    victim.mkdir()
    (victim / "kept.txt").write_text(planted.CANARY)
    planned.plant(output, victim)
    before, told = planted.tree_hash(victim), list[str]()
    for reader in planted.READERS[planned.kind].values():
        told.append(said_by(reader, output))
    assert planted.tree_hash(victim) == before
    assert re.search(planned.says, " ".join(told)), told
    assert planted.CANARY not in " ".join(told)
    files = [path for path in output.rglob("*") if path.is_file() and not path.is_symlink()]
    assert not [path for path in files if planted.CANARY.encode() in path.read_bytes()]


@pytest.mark.parametrize("kind", planted.MAKERS)
def test_the_folder_that_the_user_names_may_be_a_link(kind: str, golden: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(golden[kind], tmp_path / "elsewhere", symlinks=True)
    (tmp_path / "out").symlink_to(tmp_path / "elsewhere")
    for name, reader in planted.READERS[kind].items():
        assert said_by(reader, tmp_path / "out") == "", name
