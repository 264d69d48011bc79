"""Sources whose pictures have numbers instead of files: the embedded set, CIFAR-10's python batches, and noise."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from clarep_ray.config import DataConfig
from clarep_ray.data.cifar10 import CIFAR10_NAMES, Cifar10Files
from clarep_ray.data.class_list import ClassList
from clarep_ray.data.pixels import encode_png
from clarep_ray.data.sources.listed import Labels, Listed, Source, root_folder
from clarep_ray.data.spurious_digits import CLASS_NAMES, SpuriousDigits


class EmbeddedDigits(Source):
    """The embedded `spurious_digits` pictures; their bytes are the raw uint8 pixels."""

    def __init__(self, config: DataConfig, known: ClassList | None, reader: str) -> None:
        super().__init__()
        self._known, self._reader = known, reader
        digits = config.digits
        self.pictures = SpuriousDigits(
            split=digits.split,
            count=digits.count,
            image_size=digits.image_size,
            correlation=digits.correlation,
            seed=digits.seed,
        )

    def find_labels(self) -> Labels:
        return Labels.of(ClassList(CLASS_NAMES), self._known, "data.source: 'spurious_digits'", self._reader)

    def rows(self) -> Iterator[Listed]:
        for number in range(len(self.pictures)):
            label, class_name = self.labels(self.pictures[number].label)
            yield Listed(
                id=f"{self.pictures.split}-{number:06d}",
                source="spurious_digits",
                offset=number,
                size=0,
                label=label,
                class_name=class_name,
            )

    def read(self, source: str, offset: int, size: int) -> bytes:
        return self.pictures[offset].image.tobytes()


class Cifar10(Source):
    """CIFAR-10's python batches; the bytes of a row are its picture as PNG."""

    def __init__(self, config: DataConfig, known: ClassList | None, reader: str) -> None:
        super().__init__()
        self._known, self._reader = known, reader
        self.root = root_folder(config)
        self._files = Cifar10Files(self.root, config.split or "train")
        if config.split is None:
            self.listing.chosen.append("split 'train', the default of cifar10")

    def find_labels(self) -> Labels:
        return Labels.of(ClassList(CIFAR10_NAMES), self._known, "data.source: 'cifar10'", self._reader)

    def rows(self) -> Iterator[Listed]:
        for name, number, stored in self._files.labels():
            label, class_name = self.labels(stored)
            yield Listed(
                id=f"{name}/{number:05d}",
                source=(self._files.root / name).relative_to(self.root).as_posix(),
                offset=number,
                size=0,
                label=label,
                class_name=class_name,
            )

    def read(self, source: str, offset: int, size: int) -> bytes:
        return encode_png(np.ascontiguousarray(self._files.batch(Path(source).name).images[offset]))


class Noise(Source):
    """No pictures: `data.per_class` numbers of every class the model knows, each of which becomes a fresh sample."""

    def __init__(self, config: DataConfig, known: ClassList | None, reader: str) -> None:
        super().__init__()
        self._known, self._per_class = known, config.per_class or 0

    def notes(self) -> list[str]:
        return []

    def find_labels(self) -> Labels:
        if self._known is None:
            raise ValueError(
                "data.source: 'noise' needs a model that says which classes it knows, and this one does not"
            )
        return Labels(self._known)

    def rows(self) -> Iterator[Listed]:
        for label, name in enumerate(self.classes.names):
            for number in range(self._per_class):
                yield Listed(
                    id=f"{name}-{number:06d}", source="noise", offset=number, size=0, label=label, class_name=name
                )

    def read(self, source: str, offset: int, size: int) -> bytes:
        return f"{source} {offset}".encode()
