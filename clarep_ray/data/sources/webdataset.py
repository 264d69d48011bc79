"""WebDataset: plain tars of images and class numbers, read at known offsets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from clarep_ray.config import DataConfig
from clarep_ray.data.class_list import ClassList
from clarep_ray.data.sources.listed import Labels, Listed, Source, files_below, root_folder
from clarep_ray.data.tar_index import Member, tar_index

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


class WebDataset(Source):
    """Plain .tar files below the root; a sample is a run of members that share a key: KEY.jpg|png|webp, KEY.cls."""

    def __init__(self, config: DataConfig, known: ClassList | None, reader: str) -> None:
        self.root = root_folder(config)
        self._known = known

    def files(self) -> list[Path]:
        return files_below(self.root, ".tar")

    def find_labels(self) -> Labels:
        if self._known is not None:
            return Labels(self._known)
        numbers = (
            _class_number(self._slice(path, members[".cls"]), f"{str(path)!r}: sample {key!r}")
            for path in self.files()
            for key, members in _samples(path)
            if ".cls" in members
        )
        return Labels(ClassList.of_count(1 + max(numbers, default=-1)))

    def rows(self) -> Iterator[Listed]:
        for path in self.files():
            source = path.relative_to(self.root).as_posix()
            for key, members in _samples(path):
                image = next((members[s] for s in IMAGE_SUFFIXES if s in members), None)
                if image is None or ".cls" not in members:
                    raise ValueError(f"{str(path)!r}: sample {key!r} lacks an image (.jpg .png .webp) or .cls")
                label, class_name = self.labels(
                    _class_number(self._slice(path, members[".cls"]), f"{str(path)!r}: sample {key!r}")
                )
                yield Listed(
                    id=f"{source}/{key}",
                    source=source,
                    offset=image.offset,
                    size=image.size,
                    label=label,
                    class_name=class_name,
                )

    def read(self, source: str, offset: int, size: int) -> bytes:
        return self._slice(self.root / source, Member("", offset, size))

    @staticmethod
    def _slice(path: Path, member: Member) -> bytes:
        with path.open("rb") as file:
            file.seek(member.offset)
            return file.read(member.size)


def _samples(path: Path) -> Iterator[tuple[str, dict[str, Member]]]:
    """Yield each run of members with one key: (key, {".suffix": member})."""
    seen: set[str] = set()
    key, members = None, dict[str, Member]()
    for member in tar_index(path):
        folder, _, base = member.name.rpartition("/")
        stem, dot, suffix = base.partition(".")
        current = f"{folder}/{stem}" if folder else stem
        if current != key:
            if key is not None:
                yield key, members
            if current in seen:
                raise ValueError(f"{str(path)!r}: sample {current!r} appears twice, not in one run")
            seen.add(current)
            key, members = current, {}
        if (dot + suffix).lower() in members:
            raise ValueError(f"{str(path)!r}: sample {current!r} has several members {(dot + suffix).lower()!r}")
        members[(dot + suffix).lower()] = member
    if key is not None:
        yield key, members


def _class_number(data: bytes, where: str) -> int:
    try:
        return int(data.decode().strip())
    except (ValueError, UnicodeDecodeError):
        raise ValueError(f"{where}: .cls is {data[:20]!r}; valid: a whole number") from None
