"""Print what every file of `floods` costs its reader, as a table: python -m tests.hostile.table [WORDS OF A NAME]."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from tests.hostile import floods, judge


def main(words: str) -> None:
    """Print a row for each file whose name has the words, by a process that has read a good one before."""
    print("| file | reader | bytes | s | MiB | result |\n| --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        good = floods.good(Path(folder, "good"))
        for number, (name, flood) in enumerate(floods.corpus().items()):
            if words in name:
                path = floods.placed(Path(folder, str(number)), flood)
                cost = _cost(flood.reader, good.get(flood.reader), path)
                print(f"| {name} | {flood.reader} | {floods.size(path):,} | {cost} |", flush=True)


def _cost(reader: str, good: Path | None, path: Path) -> str:
    began = time.monotonic()
    try:
        verdict = judge.judge([*([(reader, good)] if good else []), (reader, path)])[-1]
    except AssertionError as error:
        return f"over {time.monotonic() - began:.0f} | | {str(error)[:60]}"  # and the process is gone
    if not verdict.within:
        judge.stop()  # its memory is not as it was
    return f"{verdict.cpu_s:.2f} | {verdict.growth >> 20} | {verdict.outcome}: {verdict.message[:100]!r}"


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]))
