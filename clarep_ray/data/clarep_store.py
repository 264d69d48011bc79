"""CLAReps for training: a finished extraction, read by row at random, with partners drawn for a batch of images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray

from clarep_ray.data.clarep_members import locate_members
from clarep_ray.data.clarep_rows import Features, Pictures, ShardFiles
from clarep_ray.data.class_list import UNKNOWN, ClassList, Match, match
from clarep_ray.data.records import shown
from clarep_ray.seeding import draw_rank

Pairing = Literal["random", "same_image", "nearest"]
CANONICAL, ORIGINAL = "canonical", "original"
NAMED = 5


class ClarepStore:
    """The CLAReps of a finished extraction, one row each, in the order of its input; see `open_clareps`.

    Pictures are decoded when asked for. May be read by several threads, and by processes forked from this one; a
    pickled store is opened again where it arrives.
    """

    def __init__(self, folder: Path, sha256: str, table: pa.Table, found: Match, options: Mapping[str, Any]) -> None:
        self.folder, self.pictures, self.sha256 = folder, str(options["pictures"]), sha256
        self._options = options
        self.match, self.classes = found, found.ours
        """How the classes of the extraction became those of the store."""
        self.labels: NDArray[np.int64] = table["store_label"].to_numpy()
        self.source_keys: tuple[str, ...] = tuple(table["image_key"].to_pylist())
        self._order = np.argsort(self.labels, kind="stable")
        self._counts = np.bincount(self.labels, minlength=len(self.classes))
        self._starts = np.cumsum(self._counts) - self._counts
        files = ShardFiles(folder)
        self._pictures = Pictures(files, table, _member(self.pictures, "png"))
        self._features = Features(files, table, _member(self.pictures, "feature.npy"))
        self._open_originals = partial(Features, files, table, _member(ORIGINAL, "feature.npy"))
        self._has_originals = f"{ORIGINAL}.feature.npy:offset" in table.column_names
        self._neighbours = np.full(len(self.labels), -1, np.int64)

    def __len__(self) -> int:
        return len(self.labels)

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(open_clareps, str(self.folder), class_names=self.classes, **self._options), ()

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.classes.names

    @property
    def feature_dim(self) -> int:
        """Width D of the features."""
        return self._features.dim

    def images(self, rows: ArrayLike) -> NDArray[np.uint8]:
        """Return the pictures (b, h, w, 3) of rows.

        Raises ValueError where the run kept none, or a shard is no longer as it was.
        """
        return np.stack([self._pictures[row] for row in _rows(rows)])

    def features(self, rows: ArrayLike) -> NDArray[np.float32]:
        """Return the features (b, D) of rows: those of `pictures`, read with the label."""
        return self._features[_rows(rows)]

    def rows_of(self, label: int) -> NDArray[np.int64]:
        """Return the rows of one class, ascending."""
        return self._order[self._starts[label] : self._starts[label] + self._counts[label]]

    @cached_property
    def _row_of_key(self) -> dict[str, int]:
        return {key: row for row, key in reversed(list(enumerate(self.source_keys)))}

    @cached_property
    def _queries(self) -> Features:
        return self._open_originals() if self._has_originals else self._features

    def own_rows(self, labels: NDArray[np.int64], keys: Sequence[str]) -> NDArray[np.int64]:
        """Return the row of each image's own CLARep; ValueError naming the first image without one of its class."""
        missing = [key for key in keys if key not in self._row_of_key]
        if missing:
            raise ValueError(f"{len(missing)} images have no CLARep in {str(self.folder)!r}, first: {missing[0]!r}")
        rows = np.array([self._row_of_key[key] for key in keys], np.int64)
        for key, row, label in zip(keys, rows, labels, strict=True):
            if self.labels[row] != label:
                here, there = self.class_names[self.labels[row]], self.class_names[label]
                raise ValueError(f"{key!r} is of class {here!r} in {str(self.folder)!r} and of {there!r} in training")
        return rows

    def random_rows(self, labels: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int64]:
        """Return a row of each label's class, each of them equally likely, with replacement."""
        picks = generator.integers(0, self._counts[labels])
        return self._order[self._starts[labels] + picks]

    def neighbours(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the same-class row nearest to each row, as `draw_partners` defines it; found once per class."""
        for label in np.unique(self.labels[rows[self._neighbours[rows] < 0]]):
            members = self.rows_of(int(label))
            images = np.unique([self.source_keys[row] for row in members], return_inverse=True)[1]
            nearest = _nearest_other(self._queries[members], self._features[members], images)
            self._neighbours[members] = members[nearest]
        return self._neighbours[rows]


def open_clareps(
    folder: str,
    *,
    pictures: str = CANONICAL,
    class_names: ClassList | Sequence[str] = (),
    allow_missing: bool = False,
    fraction: float = 1.0,
    seed: int = 0,
) -> ClarepStore:
    """Open a finished extraction for training (Sec. 4), every shard's hash checked once.

    `pictures` is `canonical` or a name in the run's `output.extras`; its own features come with it. Labels follow
    `class_names` by meaning, whatever number or synonym a class had in the extraction, and classes that are not among
    them are left out; a list without names goes by the extraction's numbers. Without `class_names` they are the
    extraction's own classes in the order of their numbers. `fraction` in (0, 1] keeps that share of every class, at
    least one (Sec. K.7.1): which ones follows from the seed and each row's image, and a larger share holds the smaller
    ones. Raises ValueError for an unfinished or damaged output, for pictures that the run did not keep, where no class
    is in both or two of the extraction's are one of `class_names`, and, unless `allow_missing`, for a class without a
    CLARep.
    """
    root = Path(folder).absolute()
    manifest, table = locate_members(root)
    _check_pictures(root, pictures, table.column_names)
    given = class_names if isinstance(class_names, ClassList) else ClassList(tuple(class_names))
    labels, own = _classes(root, table, numbered=not given.named)
    wanted = given if len(given) else own
    if wanted.named and len(set(wanted.names)) < len(wanted):
        twice = [name for name in wanted.names if wanted.names.count(name) > 1]
        raise ValueError(f"class_names: {_first(twice)} come twice")
    found = match(own, wanted, f"the CLAReps in {str(root)!r}", "class_names")
    if found.unused and not allow_missing:
        raise ValueError(
            f"{len(found.unused)} of {len(wanted)} classes have no CLARep in {str(root)!r}: {_first(found.unused)}; "
            f"it has {own}"
        )
    store_labels = dict(zip(labels, found.labels, strict=True))
    column = pa.array([store_labels[label] for label in table["label"].to_pylist()], pa.int64())
    known = table.append_column("store_label", column).filter(pc.field("store_label") != UNKNOWN)
    kept = _share(known, fraction, seed)
    options = {"pictures": pictures, "allow_missing": allow_missing, "fraction": fraction, "seed": seed}
    return ClarepStore(root, manifest["root_sha256"], kept, found, options)


def _share(table: pa.Table, fraction: float, seed: int) -> pa.Table:
    """Return a share of every class's rows, in their order."""
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction: {fraction!r} is not valid; valid: more than 0, at most 1")
    if fraction == 1:
        return table
    by_class: dict[int, list[int]] = defaultdict(list)
    for row, label in enumerate(table["store_label"].to_pylist()):
        by_class[label].append(row)
    keys = table["image_key"].to_pylist()
    kept: list[int] = []
    for rows in by_class.values():
        count = max(1, round(fraction * len(rows)))
        kept += sorted(rows, key=lambda row: draw_rank(seed, keys[row]))[:count]
    return table.take(sorted(kept))


def draw_partners(
    store: ClarepStore,
    labels: ArrayLike,
    keys: Sequence[str],
    pairing: Pairing,
    generator: np.random.Generator,
) -> NDArray[np.int64]:
    """Return the row of a CLARep of its class for each image of a batch (Sec. 4).

    `random` draws with replacement from the class, as the paper does; `keys` are not looked at. `same_image` takes
    the image's own CLARep. `nearest` takes the CLARep of another image of the class whose feature is nearest (L2) to
    the image's own: the feature of its `original` where the run kept that extra, else that of its own CLARep; the
    only image of a class is its own neighbour. The last two draw nothing.

    Raises ValueError for a label without CLAReps, an image without a stored feature or CLARep, naming it, or an
    unknown pairing.
    """
    if pairing not in get_args(Pairing):
        raise ValueError(f"pairing: {pairing!r} is not valid; valid: {', '.join(get_args(Pairing))}")
    numbers = np.asarray(labels, np.int64)
    outside = numbers[(numbers < 0) | (numbers >= len(store.class_names))]
    if len(outside):
        raise ValueError(f"labels: {outside[0]} is not a class; valid: 0 to {len(store.class_names) - 1}")
    if pairing != "random":
        own = store.own_rows(numbers, keys)
        return own if pairing == "same_image" else store.neighbours(own)
    empty = [store.class_names[label] for label in np.unique(numbers) if not len(store.rows_of(int(label)))]
    if empty:
        raise ValueError(f"{len(empty)} classes of the batch have no CLARep in {str(store.folder)!r}: {_first(empty)}")
    return store.random_rows(numbers, generator)


def _nearest_other(
    queries: NDArray[np.float32], features: NDArray[np.float32], images: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the index of the feature of another image nearest to each query; its own where there is no other."""
    # |q - f|^2 without |q|^2, which no choice depends on; in float64, where equal pictures stay equal.
    distances = np.square(features, dtype=np.float64).sum(1) - 2 * queries.astype(np.float64) @ features.T
    distances[images[:, None] == images] = np.inf
    return np.where(np.isinf(distances).all(1), np.arange(len(queries)), distances.argmin(1))


def _check_pictures(root: Path, pictures: str, columns: Sequence[str]) -> None:
    suffixes = [name.removesuffix(":offset") for name in columns if name.endswith("feature.npy:offset")]
    names = [suffix.removesuffix("feature.npy").removesuffix(".") or CANONICAL for suffix in suffixes]
    if pictures not in names:
        raise ValueError(f"pictures: {pictures!r} is not in {str(root)!r}; valid: {', '.join(sorted(names))}")


def _classes(root: Path, table: pa.Table, numbered: bool) -> tuple[list[int], ClassList]:
    """Return the label numbers of an extraction's classes, ascending, and the classes: by number, or by name.

    Raises ValueError where a name stands for two numbers, or a number for two names.
    """
    pairs = table.group_by(["label", "class_name"]).aggregate([]).sort_by("label")
    labels: list[int] = pairs["label"].to_pylist()
    names: list[str] = pairs["class_name"].to_pylist()
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"{str(root)!r} has several classes of one name: {_first(twice)}; give the classes own names")
    several = [name for label, name in zip(labels, names, strict=True) if labels.count(label) > 1]
    if several:
        raise ValueError(f"{str(root)!r} has several names for one class: {_first(several)}")
    return labels, ClassList(tuple(map(str, labels)), named=False) if numbered else ClassList(tuple(names))


def _member(pictures: str, suffix: str) -> str:
    return suffix if pictures == CANONICAL else f"{pictures}.{suffix}"


def _first(names: Sequence[str]) -> str:
    return ", ".join(shown(name)[:40] for name in names[:NAMED]) + (", ..." if len(names) > NAMED else "")


def _rows(rows: ArrayLike) -> NDArray[np.int64]:
    return np.atleast_1d(np.asarray(rows, np.int64))
