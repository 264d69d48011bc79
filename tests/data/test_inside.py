"""Files inside a folder of somebody else: no link on the way, no pipe, nothing outside."""

import os
from pathlib import Path

import pytest

from clarep_ray.data.inside import (
    NotInside,
    files_inside,
    has_file_inside,
    make_folders_inside,
    open_for_append,
    read_inside,
    write_inside,
)
from clarep_ray.data.store import SHARDS, SPECTRA, UNITS, WORK, OutputStore


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    folder = tmp_path / "victim"
    folder.mkdir()
    (folder / "kept.txt").write_text("kept")
    return folder


@pytest.fixture
def output(tmp_path: Path, victim: Path) -> Path:
    root = tmp_path / "output"
    (root / "folder").mkdir(parents=True)
    (root / "folder" / "file.txt").write_text("words")
    (root / "linked").symlink_to(victim)
    (root / "folder" / "link.txt").symlink_to(victim / "kept.txt")
    os.mkfifo(root / "pipe")
    return root


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "/etc/hostname", "../victim/kept.txt", "folder/../../victim/kept.txt", "folder//file.txt"),
        *("linked/kept.txt", "folder/link.txt", "linked", "pipe", "folder", "folder/file.txt/", "x\0y"),
    ],
)
def test_nothing_outside_is_read_or_written(name: str, output: Path, victim: Path) -> None:
    with pytest.raises((NotInside, OSError)):
        read_inside(output, name, 100)
    with pytest.raises((NotInside, OSError)):
        os.close(open_for_append(output, name))
    assert not (name not in {"folder"} and name and _holds(output, name))
    if name not in {"pipe", "folder/link.txt", "linked"}:  # these names are replaced, and not what they lead to
        with pytest.raises((NotInside, OSError)):
            write_inside(output, name, b"changed")
    else:
        write_inside(output, name, b"changed")
        assert read_inside(output, name, 100) == b"changed"
    assert [path.name for path in victim.iterdir()] == ["kept.txt"]
    assert (victim / "kept.txt").read_text() == "kept"


def _holds(output: Path, name: str) -> bool:
    try:
        return has_file_inside(output, name)
    except NotInside:
        return False


def test_files_inside_are_read_and_written_whole(output: Path) -> None:
    assert read_inside(output, "folder/file.txt", 5) == b"words"
    with pytest.raises(NotInside, match="more than 4 bytes"):
        read_inside(output, "folder/file.txt", 4)
    with pytest.raises(FileNotFoundError, match="missing"):
        read_inside(output, "folder/missing.txt", 4)
    write_inside(output, "a/b/new.txt", b"new")
    assert (output / "a/b/new.txt").read_bytes() == b"new"
    assert files_inside(output, "folder") == ["file.txt"]
    make_folders_inside(output, "a/c")
    with pytest.raises(NotInside, match="link"):
        make_folders_inside(output, "linked/c")
    assert not list(output.rglob(".tmp-*"))


@pytest.mark.parametrize("folder", [SHARDS, SPECTRA, UNITS, WORK])
def test_an_output_with_a_linked_folder_is_refused_and_nothing_there_touched(
    folder: str, victim: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / folder).symlink_to(victim)
    store = OutputStore(tmp_path / "out")
    for use in (
        lambda: store.names(folder),
        lambda: store.remove(folder, ["kept.txt"]),
        lambda: store.read(f"{folder}/kept.txt", 100),
        lambda: store.size(f"{folder}/kept.txt"),
        lambda: store.put_new(f"{folder}/new.txt", b""),
        lambda: store.put(f"{folder}/kept.txt", b""),
        store.prepare,
    ):
        with pytest.raises(NotInside, match="link"):
            use()
    assert [(path.name, path.read_text()) for path in victim.iterdir()] == [("kept.txt", "kept")]
