"""Which class each image of a flat folder has, by the file that came with it."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath

from clarep_ray.data.records import shown
from clarep_ray.data.sources.imagenet_devkit import STEM, devkit_file, read_devkit
from clarep_ray.data.untrusted import MAX_TEXT_BYTES, read_bounded

NAME_COLUMNS = frozenset(
    ("imageid", "image_id", "image", "images", "image_name", "imagename", "img", "filename", "file_name", "file")
) | {"name", "path", "filepath", "file_path", "id"}
LABEL_COLUMNS = (
    frozenset(("class_name", "classname", "label_name", "labelname", "wnid", "synset")),
    frozenset(("class", "label", "labels", "category", "target", "predictionstring")),
)
"""Columns of a header, in lower case; names of classes come before what may be their numbers."""
KAGGLE = ["imageid", "predictionstring"]
BOXES = re.compile(r"(n[0-9]{8})(?: +-?[0-9.]+){4}( .*)?")
"""Kaggle's PredictionString: a WordNet id, a box, and so on."""
MAX_FIRST_LINE = 100_000
"""Bytes of the first line that say what separates columns."""
MAX_LINES, MAX_LINE = 2_000_000, 262_144
"""Lines of a file, and characters of one; ImageNet's training set has 1.28 million images."""
DELIMITERS = ",\t;"


@dataclass(frozen=True)
class ImageLabels:
    """{image: class} of a file, and the line that says so.

    An image is named by its path, by its file name, or by that without suffix. Where `complete_for` is set, every
    image whose name starts so is in it.
    """

    classes: dict[str, str]
    lines: dict[str, int]
    where: str
    complete_for: str | None = None
    """Of names without suffix."""

    @cached_property
    def folders(self) -> frozenset[str]:
        """The folders that names start with."""
        return frozenset(name.partition("/")[0] for name in self.classes if "/" in name)

    def of_files(self, files: Collection[str], where: str) -> dict[str, str]:
        """Return {path: class} of the files that are named.

        Raises ValueError where an image that has a class is missing, where one should have a class and has none,
        where a name fits several files, or where two lines give one file two classes.
        """
        index = _Index.of(files)
        found: dict[str, str] = {}
        by: dict[str, str] = {}
        missing: list[str] = []
        for name, class_name in self.classes.items():
            paths = index.find(name)
            if not paths:
                missing.append(name)
            elif len(paths) > 1:
                several = ", ".join(repr(shown(path)) for path in paths[:3])
                raise ValueError(f"{self.where}, line {self.lines[name]}: {shown(name)!r} is several files: {several}")
            elif found.setdefault(paths[0], class_name) != class_name:
                self._contradict(by[paths[0]], name)
            by.setdefault(paths[0] if paths else name, name)
        if missing:
            raise ValueError(f"{where} lacks {len(missing)} named images, first: {shown(min(missing))!r}")
        prefix = self.complete_for
        nameless = [path for path in files if path not in found and prefix and path.startswith(prefix)]
        if nameless:
            raise ValueError(
                f"{self.where}: it has {len(found)} lines for {len(found) + len(nameless)} images of {where}; "
                f"first without one: {shown(PurePosixPath(min(nameless)).stem)!r}"
            )
        return found

    def add(self, name: str, class_name: str, line: int) -> None:
        """Add a line; ValueError where an earlier one says something else of the image."""
        if self.classes.setdefault(name, class_name) != class_name:
            self._contradict(name, name, line)
        self.lines.setdefault(name, line)

    def _contradict(self, one: str, other: str, line: int | None = None) -> None:
        classes = repr(shown(self.classes[one]))
        raise ValueError(
            f"{self.where}, lines {self.lines[one]} and {line or self.lines[other]}: {shown(other)!r} has two classes, "
            f"first: {classes}"
        )


@dataclass
class _Index:
    """Files by path, by file name and by that without suffix."""

    paths: Collection[str]
    names: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    stems: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    @staticmethod
    def of(paths: Collection[str]) -> _Index:
        index = _Index(paths)
        for path in paths:
            name = path.rpartition("/")[2]
            index.names[name].append(path)
            index.stems[PurePosixPath(name).stem].append(path)
        return index

    def find(self, name: str) -> Sequence[str]:
        base = name.rpartition("/")[2]
        if name in self.paths:
            return (name,)
        return self.names.get(base) or self.stems.get(base) or self.stems.get(PurePosixPath(base).stem) or ()


def read_image_labels(path: str | None) -> ImageLabels:
    """Return the classes of a CSV such as Kaggle's `LOC_val_solution.csv`, or of ImageNet's devkit.

    The devkit is named by its folder, or by its ground-truth file with meta.mat beside it. Raises ValueError naming
    the file and what is wrong.
    """
    where = f"data.labels_file: {path!r}"
    devkit = devkit_file(Path(path or ""))
    if devkit is None:
        return _read_csv(path, where)
    classes = read_devkit(devkit)
    return ImageLabels(classes, {name: line for line, name in enumerate(classes, 1)}, where, STEM)


def _read_csv(path: str | None, where: str) -> ImageLabels:
    """Return the labels of a CSV, separated by commas, tabs or semicolons, with or without a header."""
    try:
        data = read_bounded(Path(path or ""), MAX_TEXT_BYTES)
    except (OSError, ValueError) as error:
        raise ValueError(f"{where} cannot be read: {error}") from None
    if data.count(b"\n") + data.count(b"\r") > 2 * MAX_LINES:
        raise ValueError(f"{where} has more than {MAX_LINES} lines")
    reader = csv.reader(_lines(data, where), delimiter=_delimiter(data))
    found, header, columns = ImageLabels({}, {}, where), list[str](), (0, 1)
    stems: dict[str, str] = {}
    try:
        for row in reader:
            line, row = reader.line_num, [value.strip() for value in row]
            if not any(row):
                continue
            if not found.lines and not header:
                header = [value.lower() for value in row]
                chosen = _columns(header, where)
                if chosen is not None:
                    columns = chosen
                    continue
                header = ["name", "class"]
            name, class_name = _entry(row, len(header), columns, f"{where}, line {line}", header == KAGGLE)
            found.add(name, class_name, line)
            first = stems.setdefault(name.removesuffix(PurePosixPath(name).suffix), name)
            if found.classes[first] != class_name:  # im0.jpg and im0.png: which of them is there decides nothing
                found.add(first, class_name, line)
    except csv.Error as error:
        raise ValueError(f"{where}, line {reader.line_num}: {error}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{where} cannot be read: {path!r} is not UTF-8") from None
    return found


def _lines(data: bytes, where: str) -> Iterator[str]:
    """Yield the lines of a text in UTF-8, each made when it is asked for; ValueError for one that is too long."""
    with io.TextIOWrapper(io.BytesIO(data), encoding="utf-8-sig", newline="") as text:
        for number, line in enumerate(iter(lambda: text.readline(MAX_LINE + 1), ""), 1):
            if len(line) > MAX_LINE:
                raise ValueError(f"{where}, line {number}: it has more than {MAX_LINE} characters")
            yield line


def _delimiter(data: bytes) -> str:
    text = data.removeprefix(codecs.BOM_UTF8).lstrip()[:MAX_FIRST_LINE].decode(errors="replace")
    first = next(iter(text.splitlines()), "")
    tried = {delimiter: next(csv.reader([first], delimiter=delimiter), []) for delimiter in DELIMITERS}
    headers = [
        delimiter for delimiter, row in tried.items() if len(row) > 1 and NAME_COLUMNS & {row[0].strip().lower()}
    ]
    several = [delimiter for delimiter, row in tried.items() if len(row) > 1]
    return (headers or several or [","])[0]


def _columns(header: Sequence[str], where: str) -> tuple[int, int] | None:
    """Return the columns of image and class that a header names; None for a row that is none."""
    names = [number for number, value in enumerate(header) if value in NAME_COLUMNS]
    for known in LABEL_COLUMNS:
        labels = [number for number, value in enumerate(header) if value in known]
        if names and len(labels) > 1:
            several = ", ".join(header[number] for number in labels)
            raise ValueError(f"{where}: its header has the columns {several}; valid: one of classes")
        if names and labels:
            return names[0], labels[0]
    return None


def _entry(row: Sequence[str], width: int, columns: tuple[int, int], where: str, kaggle: bool) -> tuple[str, str]:
    """Return (image, class) of a row; ValueError for one of another shape."""
    if len(row) != width or not row[columns[0]] or not row[columns[1]]:
        raise ValueError(f"{where}: {shown(str(list(row)))}; valid: NAME,CLASS")
    name, class_name = row[columns[0]].replace("\\", "/").removeprefix("./"), row[columns[1]]
    boxes = BOXES.fullmatch(class_name)
    first = class_name.split()[0]
    if boxes or (kaggle and re.fullmatch("n[0-9]{8}", first)):
        class_name = first
    return name, class_name
