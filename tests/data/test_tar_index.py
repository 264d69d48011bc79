"""Untrusted tars: what is plain is indexed, everything else is refused quickly."""

import io
import tarfile
import time
from pathlib import Path

import pytest

from clarep_ray.data.tar_index import DamagedTar, tar_index


def make_tar(path: Path, members: dict[str, bytes], **options: object) -> Path:
    with tarfile.open(path, "w", **options) as tar:  # type: ignore[call-overload]
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            info.mtime = 1.5 if options.get("format") == tarfile.PAX_FORMAT else 0  # a float makes pax headers
            tar.addfile(info, io.BytesIO(data))
    return path


MEMBERS = {"a.png": b"x" * 700, "a.cls": b"3", "sub/b.png": b"", "sub/b.cls": b"4"}


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_index_agrees_with_tarfile(tmp_path: Path, kind: int) -> None:
    path = make_tar(tmp_path / "a.tar", MEMBERS, format=kind)
    data = path.read_bytes()
    found = {m.name: data[m.offset : m.offset + m.size] for m in tar_index(path)}
    assert found == MEMBERS


def test_long_ustar_names_use_the_prefix(tmp_path: Path) -> None:
    name = f"{'d' * 90}/{'f' * 60}.png"
    path = make_tar(tmp_path / "a.tar", {name: b"1"}, format=tarfile.USTAR_FORMAT)
    assert [m.name for m in tar_index(path)] == [name]


def test_every_cut_is_noticed(tmp_path: Path) -> None:
    whole = make_tar(tmp_path / "a.tar", {f"{i}.png": b"p" * 600 for i in range(16)}).read_bytes()
    end = len(whole.rstrip(b"\0")) // 512 * 512 + 512  # first block after the last with content
    cut = tmp_path / "cut.tar"
    for length in range(0, end + 512 + 1, 64):
        cut.write_bytes(whole[:length])
        with pytest.raises(DamagedTar):
            tar_index(cut)


def header_with(size_field: bytes, kind: bytes = b"0", name: bytes = b"a.png") -> bytes:
    block = bytearray(512)
    block[: len(name)] = name
    block[124 : 124 + len(size_field)] = size_field
    block[156:157] = kind
    block[257:265] = b"ustar\x0000"
    block[148:156] = b" " * 8
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    return bytes(block)


@pytest.mark.parametrize(
    "block",
    [
        header_with(b"\x80" + (2**40).to_bytes(11, "big")),
        header_with(b"77777777777\0"),
        header_with(b"-0000000001\0"),
        header_with(b"00000000000\0", kind=b"2"),
        header_with(b"00000000000\0", kind=b"1"),
        header_with(b"00000000000\0", kind=b"L"),
        header_with(b"00000000000\0", kind=b"S"),
        header_with(b"00000000000\0", name=b"../../etc/passwd"),
        header_with(b"00000000000\0", name=b"/etc/passwd"),
        header_with(b"00000000000\0", name=b"\xff\xfe"),
        b"\x1f\x8b" + b"\0" * 510,
        b"\xfd7zXZ" + b"\0" * 507,
    ],
)
def test_hostile_headers_are_refused_at_once(tmp_path: Path, block: bytes) -> None:
    path = tmp_path / "evil.tar"
    path.write_bytes(block + b"\0" * 1024)
    began = time.monotonic()
    with pytest.raises(DamagedTar):
        tar_index(path)
    assert time.monotonic() - began < 1


def test_pax_headers_that_rename_are_refused(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "a.tar", {"x" * 300 + ".png": b"1"}, format=tarfile.PAX_FORMAT)
    with pytest.raises(DamagedTar, match="renames or resizes"):
        tar_index(path)


def test_a_flipped_header_bit_is_noticed(tmp_path: Path) -> None:
    data = bytearray(make_tar(tmp_path / "a.tar", MEMBERS, format=tarfile.USTAR_FORMAT).read_bytes())
    data[3] ^= 4
    (tmp_path / "a.tar").write_bytes(bytes(data))
    with pytest.raises(DamagedTar, match="checksum"):
        tar_index(tmp_path / "a.tar")
