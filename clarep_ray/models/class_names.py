"""What a folder of weights says of its classes, in whichever of its files and in whichever of the usual words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from clarep_ray.data.class_list import ClassList, ClassMismatch, match_all
from clarep_ray.data.untrusted import read_json

NAMES = "class_names.json"
"""A list of names, or {label: name}: written by a training here, and the place for what a released folder lacks."""
FILES = (NAMES, "model_index.json", "config.json", "transformer/config.json", "unet/config.json")
KEYS = ("id2label", "label_names", "class_names")
"""Of transformers and diffusers, of timm, and of students trained here; null, as timm has it, names nothing."""


def read_classes(folder: Path, count: int | None, field: str = "model.weights") -> ClassList:
    """Return what the `count` labels of a folder's network stand for; without names as `ClassList.by_convention`.

    A network that has none (None) is for its reader to refuse. Raises ValueError, naming the field and the file, where
    names are not for labels 0 to `count` - 1, or where two files contradict each other.
    """
    if not isinstance(count, int):
        return ClassList.of_count(0)
    found: dict[str, ClassList] = {}
    for name in FILES:
        for classes in _named(folder / name, field):
            where = f"{field}: {str(folder / name)!r}"
            if len(classes) != count:
                raise ValueError(f"{where} names {len(classes)} classes; valid: {count}, as many as the network has")
            for other, earlier in found.items():
                if earlier.named and classes.named and not match_all(classes, earlier, where, f"its {other}").same:
                    raise ClassMismatch(f"{where} has the classes {classes}, its {other} {earlier}; valid: one order")
            found[name] = classes
    named = (classes for classes in found.values() if classes.named)
    return next(named, ClassList.by_convention(count))


def without_names(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config.json without what it says of classes: the sizes alone."""
    return {key: value for key, value in config.items() if key not in KEYS}


def _named(path: Path, field: str) -> Iterator[ClassList]:
    """Yield every list of names in a file."""
    if not path.is_file():
        return
    try:
        stored = read_json(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{field}: {str(path)!r} cannot be read: {error}") from None
    if path.name == NAMES:
        yield _list_of(stored, f"{field}: {str(path)!r}")
        return
    for record in (stored, stored.get("pretrained_cfg") if isinstance(stored, dict) else None):
        if isinstance(record, dict):
            known = cast("dict[str, Any]", record)
            for key in KEYS:
                if known.get(key) is not None:
                    yield _list_of(known[key], f"{field}: {key} of {str(path)!r}")


def _list_of(names: object, where: str) -> ClassList:
    """Return the list of names, or of {label: name}; ValueError for anything else."""
    if isinstance(names, dict) and "class_names" in names:  # with more about the classes beside them
        return _list_of(cast("dict[str, object]", names)["class_names"], where)
    try:
        if isinstance(names, dict):
            return ClassList.of_labels(cast("dict[str, object]", names))
        if not isinstance(names, list) or not all(isinstance(name, str | int) for name in cast("list[object]", names)):
            raise ValueError("it is no list of names")
        return ClassList.of_names(cast("list[object]", names))
    except ValueError as error:
        raise ValueError(f"{where}: {error}; valid: a list of names, or {{label: name}}") from None
