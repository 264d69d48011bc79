"""Hostile tars, Parquet files and pickles of arrays: a typed error that names the file, in time and within memory."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clarep_ray.config import DataConfig
from clarep_ray.data import parquet_files
from clarep_ray.data.parquet_pages import unpacked_bytes
from clarep_ray.data.sources import open_source
from tests.hostile import floods, parquet, tars
from tests.hostile.judge import Verdict, judge

READ_BY_INDEX = {"label only", "picture only", "sample in two places", "member twice"}
"""Plain tars that only their meaning as a data set spoils."""


def placed(root: Path, corpus: Mapping[str, bytes], suffix: str) -> list[Path]:
    """Write each file into a folder of its own, under a name with control characters."""
    paths: list[Path] = []
    for name, data in corpus.items():
        folder = root / name.replace("/", " ")
        folder.mkdir(parents=True)
        paths.append(folder / f"\x1b[31mred\nline{suffix}")
        paths[-1].write_bytes(data)
    return paths


def unlike(verdicts: list[Verdict]) -> list[str]:
    """Return what is wrong: not refused, not in time, or a message that lacks the file or could write on a terminal."""
    wrong = [v for v in verdicts if v.outcome != "refused" or not v.within or not v.message.isprintable() or named(v)]
    return [f"{Path(v.path).parent.name}: {v.line}" for v in wrong]


def named(verdict: Verdict) -> bool:
    return "red\\nline" not in verdict.message


def test_every_tar_is_refused(tmp_path: Path) -> None:
    corpus = tars.corpus() | {"python's own": tars.python_made()}
    assert len(corpus) >= 30
    paths = placed(tmp_path, corpus, ".tar")
    (good,) = placed(tmp_path / "good", {"good": tars.good()}, ".tar")
    malformed = [path for path in paths if not path.parent.name.startswith(("label", *READ_BY_INDEX))]
    cases = [("webdataset", path) for path in paths] + [("tar_index", path) for path in malformed]
    first, second, *verdicts = judge([("webdataset", good), ("tar_index", good), *cases])
    assert (first.outcome, second.outcome) == ("read", "read")
    assert not unlike(verdicts), "\n".join(unlike(verdicts))


def test_every_parquet_file_is_refused(tmp_path: Path) -> None:
    corpus = parquet.corpus()
    assert len(corpus) >= 12
    paths = placed(tmp_path, {name: make() for name, make in corpus.items()}, ".parquet")
    (good,) = placed(tmp_path / "good", {"good": parquet.good()}, ".parquet")
    (bomb,) = placed(tmp_path / "bomb", {"bomb": parquet.dictionary_bomb()}, ".parquet")
    ours = [(reader, path) for reader in ("index", "input manifest", "verdicts") for path in [*paths, good]]
    cases = [("parquet", good), ("parquet", bomb), *(("parquet", path) for path in paths), *ours]
    first, second, *verdicts = judge(cases)
    assert first.outcome == "read", first.line
    assert second.outcome == "read", second.line
    assert second.within, second.line
    assert not unlike(verdicts), "\n".join(unlike(verdicts))


@pytest.mark.parametrize("suffix", [".tar", ".parquet"])
def test_a_pipe_is_refused_and_a_folder_passed_over(tmp_path: Path, suffix: str) -> None:
    import os

    made = tars.good() if suffix == ".tar" else parquet.good()
    (good,) = placed(tmp_path, {"in": made}, suffix)
    (good.parent / f"spark{suffix}").mkdir()
    reader = {".tar": "webdataset", ".parquet": "parquet"}[suffix]
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe" / f"red\nline{suffix}")
    read, refused = judge([(reader, good), (reader, tmp_path / "pipe" / "x")])
    assert read.outcome == "read", read.line
    assert not unlike([refused])


def test_no_bit_of_a_footer_ends_the_process(tmp_path: Path) -> None:
    """pyarrow aborts on some: such files are named by a reader in a process of its own."""
    data, paths = parquet.good(), list[Path]()
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    for place in range(footer, len(data)):
        paths.append(tmp_path / f"{place}.parquet")
        paths[-1].write_bytes(data[:place] + bytes([data[place] ^ 1 << place % 8]) + data[place + 1 :])
    left = list(paths)
    while True:
        try:
            parquet_files.check_footers(left)
            break
        except ValueError as error:
            (named,) = [path for path in left if repr(str(path)) in str(error)]
            left = left[left.index(named) + 1 :]
            paths.remove(named)
    for path in paths:
        with suppress(ValueError):
            parquet_files.open_parquet(path)  # would abort
    assert len(paths) > 500


def test_the_file_that_ends_the_reader_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = DataConfig(source="parquet", path=str(tmp_path))
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.parquet").write_bytes(parquet.good())
    deadly = parquet_files.PROBE.replace("    try:", "    if b'b.parquet' in name: os.abort()\n    try:")
    monkeypatch.setattr(parquet_files, "PROBE", deadly)
    with pytest.raises(ValueError, match=r"b\.parquet' cannot be read as Parquet: its footer ends the reader with sig"):
        list(open_source(config, None).rows())


@pytest.mark.parametrize("nightly", [False, pytest.param(True, marks=pytest.mark.nightly)])
def test_no_flood_of_rows_lines_or_instructions_takes_long_or_much(nightly: bool, tmp_path: Path) -> None:
    every = floods.containers() | floods.checkpoints()
    made = {name: flood for name, flood in every.items() if (name in floods.NIGHTLY) == nightly}
    assert len(made) > (5 if nightly else 20)
    faults = floods.faults(made, tmp_path)
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("compression", ["none", "snappy", "zstd", "gzip"])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("dictionary", [False, True])
def test_pages_are_counted_as_the_writer_counts_them(
    compression: str, version: str, dictionary: bool, tmp_path: Path
) -> None:
    """A footer's claim is what an honest writer adds up: pages and their headers."""
    column = pa.array([(b"a" * (number % 7000)) for number in range(2_000)])
    path = tmp_path / "a.parquet"
    pq.write_table(
        pa.table({"a": column, "b": list(range(2_000))}),
        path,
        compression=compression,
        data_page_version=version,
        use_dictionary=dictionary,
        data_page_size=10_000,
        write_batch_size=100,
        row_group_size=700,
    )
    about = pq.read_metadata(path)
    for group in range(about.num_row_groups):
        for number in range(2):
            chunk = about.row_group(group).column(number)
            unpacked, claimed = unpacked_bytes(path, chunk, 2**30), chunk.total_uncompressed_size
            assert 0.9 * claimed - 200 <= unpacked <= claimed
            if claimed > 1_000_000:
                assert unpacked_bytes(path, chunk, 100_000) < claimed  # it stops at its limit
