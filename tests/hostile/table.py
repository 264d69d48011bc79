"""Print what every file of `floods` costs its reader, as a table: python -m tests.hostile.table [WORDS OF A NAME]."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from tests.hostile import floods, judge


def main(words: str) -> None:
    print("| file | reader | bytes | s | MiB | result |\n| --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, flood) in enumerate(floods.corpus().items()):
            if words in name:
                path = floods.placed(Path(folder, str(number)), flood)
                size = path.stat().st_size if path.is_file() else (path / "model.safetensors").stat().st_size
                print(f"| {name} | {flood.reader} | {size:,} | {_cost(flood.reader, path)} |", flush=True)
    judge.stop()


def _cost(reader: str, path: Path) -> str:
    began = time.monotonic()
    try:
        (verdict,) = judge.judge([(reader, path)])
    except AssertionError as error:
        return f"{time.monotonic() - began:.0f} | | {str(error)[:60]}"
    return f"{verdict.cpu_s:.2f} | {verdict.growth >> 20} | {verdict.outcome}: {verdict.message[:100]!r}"


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]))
