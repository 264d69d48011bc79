"""What a disk may hold after a power loss, from the trace of file operations before it.

The model is the pessimistic one that SQLite's crash tests use. A file's bytes are sure only after fsync of the file;
before, it may be empty, half written, whole, or as long as it should be and full of zeros. A name (created, linked,
moved or removed) is sure only after fsync of its folder; before, every subset of the changes may have reached the disk,
and the two names of a move are two changes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, combinations, product
from pathlib import Path

from clarep_ray.data.store import WORK
from tests.faults.shim import Op

Tree = dict[str, bytes | None]
"""What lies below a folder, by relative path: the bytes of files, None for folders."""
Change = tuple[str, "Inode | None", bool]
"""A name, what it leads to (None is a folder), and whether it came or went."""


@dataclass
class Inode:
    data: bytes = b""
    synced: bool = False

    def after_power_loss(self) -> list[bytes]:
        if self.synced:
            return [self.data]
        size = len(self.data)
        return list(dict.fromkeys([self.data, self.data[: size // 2], b"", bytes(size)]))


@dataclass
class Disk:
    """A disk below `base`, which is on it for good; operations are applied one after another."""

    base: Path
    names: dict[str, Inode | None] = field(default_factory=dict[str, Inode | None])
    """What the running system sees."""
    sure: dict[str, Inode | None] = field(default_factory=dict[str, Inode | None])
    pending: list[Change] = field(default_factory=list[Change])
    """Changes since the last fsync of their folder."""

    def apply(self, op: Op) -> None:
        path = self._relative(op.path)
        target = self._relative(op.target) if op.target else ""
        if op.kind == "create" and path in self.names:
            file = self._file(path)
            file.data, file.synced = b"", False
        elif op.kind == "create":
            self._name(path, Inode())
        elif op.kind == "write":
            file = self._file(path)
            file.data, file.synced = file.data + op.data, False
        elif op.kind == "fsync":
            self._file(path).synced = True
        elif op.kind == "mkdir" and path not in self.names:
            self._name(path, None)
        elif op.kind == "link" and target not in self.names:
            self._name(target, self._file(path))
        elif op.kind == "replace":
            file = self._file(path)
            self._unname(path)
            self._name(target, file)
        elif op.kind == "unlink" and path in self.names:
            self._unname(path)
        elif op.kind == "fsync_folder":
            self._sync(path)

    def _relative(self, path: Path) -> str:
        return "" if path == self.base else str(path)[len(str(self.base)) + 1 :]

    def _file(self, path: str) -> Inode:
        inode = self.names[path]
        assert inode is not None
        return inode

    def _name(self, path: str, inode: Inode | None) -> None:
        self.names[path] = inode
        self.pending.append((path, inode, True))

    def _unname(self, path: str) -> None:
        self.pending.append((path, self.names.pop(path), False))

    def _sync(self, folder: str) -> None:
        for change in self.pending:
            if _parent(change[0]) == folder:
                _change(self.sure, change)
        self.pending = [change for change in self.pending if _parent(change[0]) != folder]

    def after_power_loss(self) -> Iterator[Tree]:
        """Yield every tree that may be found.

        Nobody reads the work folder: of its changes none or all are taken, and its torn files are half there.
        """
        work = [change for change in self.pending if in_work(change[0])]
        others = [change for change in self.pending if not in_work(change[0])]
        subsets = chain.from_iterable(combinations(others, count) for count in range(len(others), -1, -1))
        for subset, leftovers in product(subsets, (work, [])):
            found = dict(self.sure)
            for change in (*subset, *leftovers):
                _change(found, change)
            yield from _torn(_reachable(found))


def in_work(path: str) -> bool:
    """Say whether a file lies in the work folder."""
    return _parent(path).endswith(f"/{WORK}")


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _change(names: dict[str, Inode | None], change: Change) -> None:
    path, inode, there = change
    if there:
        names[path] = inode
    else:
        names.pop(path, None)


def _reachable(found: dict[str, Inode | None]) -> dict[str, Inode | None]:
    """Leave out what lies in a folder that is not there."""
    kept: dict[str, Inode | None] = {}
    for path in sorted(found):  # a folder comes before what lies in it
        if _parent(path) in kept or not _parent(path):
            kept[path] = found[path]
    return kept


def _torn(found: dict[str, Inode | None]) -> Iterator[Tree]:
    folders: Tree = {path: None for path, inode in found.items() if inode is None}
    files = {path: inode for path, inode in found.items() if inode is not None}
    contents = [
        [inode.data[: len(inode.data) // 2]] if in_work(path) and not inode.synced else inode.after_power_loss()
        for path, inode in files.items()
    ]
    for chosen in product(*contents):
        yield folders | dict(zip(files, chosen, strict=True))


def crash_states(base: Path, ops: Sequence[Op], first: int = 0) -> Iterator[tuple[int, Tree]]:
    """Yield (operations done, tree) for a power loss before each operation from `first` on, and after the last."""
    disk = Disk(base)
    for number, op in enumerate(ops):
        if number >= first:
            for tree in disk.after_power_loss():
                yield number, tree
        disk.apply(op)
    for tree in disk.after_power_loss():
        yield len(ops), tree
