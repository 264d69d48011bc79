"""No file that would run code in a careless reader runs it in ours, and no reader looks a class up by name."""

import pickle
from pathlib import Path

import pytest

from tests.hostile import canaries, parquet
from tests.hostile.judge import judge
from tests.hostile.test_models import FOLDERS

READ = (
    "parquet image",
    "parquet beside",
    "parquet inside",
    "tar p",
    "tar P",
    "tar class",  # the name of a class that the model does not know
    "bin beside",
    "code beside",
    "pipeline of its own",
    "encoder",
    "tokenizer",
    "timm loads",
)
"""What is read in spite of the evil beside it, which nobody looks at."""


def test_no_canary_sings(tmp_path: Path) -> None:
    folders: dict[str, Path] = {}
    for family in ("class_unet", "stable_diffusion", "student", "timm"):
        folders[family] = tmp_path / "good" / family
        FOLDERS[family][0](folders[family])
    cases = canaries.write(tmp_path / "cases", folders)
    assert len(cases) >= 25
    verdicts = judge(list(cases.values()))
    assert list((tmp_path / "cases" / "canaries").iterdir()) == []
    wrong = [
        f"{name}: {verdict.line}"[:500]
        for name, verdict in zip(cases, verdicts, strict=True)
        if verdict.events
        or verdict.outcome == "broke"
        or (verdict.outcome == "read" and not name.startswith(READ))
        or (verdict.outcome == "refused" and "evil" not in verdict.message and verdict.reader != "npy")
    ]
    assert not wrong, "\n".join(wrong)


def test_parquet_canaries_would_sing_where_ray_data_is_imported(tmp_path: Path) -> None:
    canary, paths = tmp_path / "canary", list[Path]()
    for inside in (False, True):
        paths.append(tmp_path / f"{inside}.parquet")
        paths[-1].write_bytes(parquet.pickled(pickle.dumps(canaries.touch(canary)), inside))
    verdicts = judge([("plain pyarrow", path) for path in paths])
    assert [any("os.system" in event for event in verdict.events) for verdict in verdicts] == [True, True]
    assert canary.exists()


@pytest.mark.parametrize("name", [name for name in canaries.pickles(Path("x")) if name != "torch storage"])
def test_the_canaries_would_sing(name: str, tmp_path: Path) -> None:
    """In a plain unpickler; `torch storage` is one within torch's restricted one."""
    canary = tmp_path / "canary"
    try:
        found = pickle.loads(canaries.pickles(canary)[name])
    except Exception as error:
        found = error
    if name == "NEWOBJ":
        return  # a class is called without its options, and raises; it was looked up, which the audit hook sees
    if name == "getattr":
        found()
    assert canary.exists(), found
