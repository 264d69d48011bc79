"""A CLIP tokenizer from a folder of somebody else's: its files are counted before a library builds anything of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from clarep_ray.data.records import shown
from clarep_ray.data.untrusted import read_json_object, read_lines
from clarep_ray.models.weight_files import check_runs_nothing

CLASSES = (None, "CLIPTokenizer", "CLIPTokenizerFast")
MAX_MERGES_BYTES = 8 * 2**20
"""CLIP's 48,894 merges have half a megabyte."""
MAX_TOKENS = 200_000
"""Of a vocabulary; CLIP's has 49,408."""
MAX_SETTINGS = 5_000
"""Values beside the vocabulary: an added token has six, and the library takes time by the square of their number."""


def load_tokenizer(folder: Path) -> Any:
    """Return the CLIPTokenizer of a folder; ValueError naming the folder and what is wrong with it."""
    from transformers import CLIPTokenizer

    try:
        for path in sorted(folder.glob("*.json")):
            _check(path)
        if (folder / "merges.txt").exists():
            read_lines(folder / "merges.txt", MAX_MERGES_BYTES)
        tokenizer = CLIPTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        tokenizer(["a"])  # what does not fit together says so when it is used
    except Exception as error:  # whatever the tokenizer's own reader objects to
        raise ValueError(f"model.weights: {str(folder)!r} is no tokenizer: {shown(str(error))}") from None
    return tokenizer


def _check(path: Path) -> None:
    """Raise ValueError for a file that holds no JSON object, asks for code, or has more in it than a tokenizer."""
    stored = read_json_object(path)
    model = stored.pop("model", None) if path.name == "tokenizer.json" else None
    vocabulary = stored if path.name == "vocab.json" else model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, dict) and len(cast("dict[str, Any]", vocabulary)) > MAX_TOKENS:
        raise ValueError(f"{path.name} has {len(vocabulary)} tokens; valid: at most {MAX_TOKENS}")
    if path.name == "vocab.json":
        return
    check_runs_nothing(stored, path.name)
    if stored.get("tokenizer_class") not in CLASSES:
        found = shown(repr(stored["tokenizer_class"]))
        raise ValueError(f"{path.name}: tokenizer_class is {found}; valid: {CLASSES[1]}")
    if (count := _count(stored)) > MAX_SETTINGS:
        raise ValueError(f"{path.name} has {count} values; valid: at most {MAX_SETTINGS}")


def _count(value: object) -> int:
    """Return the number of values that are no containers."""
    if isinstance(value, dict):
        return sum(map(_count, cast("dict[str, object]", value).values()))
    return sum(map(_count, cast("list[object]", value))) if isinstance(value, list) else 1
