"""Hostile tars, Parquet files and pickles of arrays: a typed error that names the file, in time and within memory."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.hostile import parquet, tars
from tests.hostile.judge import Verdict, judge

READ_BY_INDEX = {"label only", "picture only", "label is text", "sample in two places", "member twice"}
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
