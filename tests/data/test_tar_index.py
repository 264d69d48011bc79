"""Untrusted tars: what is plain is indexed, everything else is refused quickly."""

import bz2
import gzip
import io
import lzma
import tarfile
import time
from collections.abc import Callable
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


@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("name", ["x" * 300 + ".png", "k\u00e4tzchen.png", "d" * 120 + "/" + "f" * 120 + ".png"])
def test_long_names_of_gnu_and_pax_are_those_of_tarfile(tmp_path: Path, kind: int, name: str) -> None:
    path = make_tar(tmp_path / "a.tar", {name: b"1", "b.png": b"2"}, format=kind)
    assert [(member.name, member.size) for member in tar_index(path)] == [(name, 1), ("b.png", 1)]


def pax_header(body: bytes) -> bytes:
    return header_with(f"{len(body):011o}\0".encode(), kind=b"x") + body + b"\0" * (-len(body) % 512)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (pax_header(b"20 path=/etc/passwd\n"), "leaves the tar"),
        (pax_header(b"16 path=a/../b\n"), "malformed header"),
        (pax_header(b"15 path=a/../b\n"), "leaves the tar"),
        (pax_header(b"9 size=9\n"), "resizes"),
        (pax_header(b"22 GNU.sparse.major=1\n"), "resizes"),
        (pax_header(b"no record"), "malformed header"),
        (pax_header(b"12 path=x\0y\n"), "without a name"),
        (header_with(b"00000000013\0", kind=b"L") + b"/etc/passwd".ljust(512, b"\0"), "leaves the tar"),
    ],
)
def test_a_header_that_renames_is_checked_as_a_name(tmp_path: Path, header: bytes, words: str) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(header + header_with(b"00000000000\0") + b"\0" * 1024)
    with pytest.raises(DamagedTar, match=words):
        tar_index(path)


def test_content_behind_the_end_mark_is_refused(tmp_path: Path) -> None:
    one = make_tar(tmp_path / "a.tar", MEMBERS).read_bytes()
    (tmp_path / "two.tar").write_bytes(one + one)
    with pytest.raises(DamagedTar, match=r"more behind the end mark at byte .*--ignore-zeros"):
        tar_index(tmp_path / "two.tar")
    (tmp_path / "long.tar").write_bytes(one + bytes(100_000))
    assert tar_index(tmp_path / "long.tar") == tar_index(tmp_path / "a.tar")


@pytest.mark.parametrize(
    ("compress", "kind"), [(gzip.compress, "gzip"), (bz2.compress, "bzip2"), (lzma.compress, "xz")]
)
def test_a_compressed_tar_is_named_as_such(tmp_path: Path, compress: Callable[[bytes], bytes], kind: str) -> None:
    data = make_tar(tmp_path / "a.tar", MEMBERS).read_bytes()
    (tmp_path / "a.tar").write_bytes(compress(data))
    with pytest.raises(DamagedTar, match=f"is no plain tar but {kind}; unpack it first"):
        tar_index(tmp_path / "a.tar")


def test_a_flipped_header_bit_is_noticed(tmp_path: Path) -> None:
    data = bytearray(make_tar(tmp_path / "a.tar", MEMBERS, format=tarfile.USTAR_FORMAT).read_bytes())
    data[3] ^= 4
    (tmp_path / "a.tar").write_bytes(bytes(data))
    with pytest.raises(DamagedTar, match="checksum"):
        tar_index(tmp_path / "a.tar")
