"""Which of our own modules can change a byte of a result, and one hash over what they do.

The modules are computed: everything that the ones which make the bytes import, at the top or within a function, and so
on. What they do is their syntax tree, without comments, docstrings and layout.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parent.parent


@dataclass(frozen=True)
class _Import:
    """`from LEVEL-DOTS module import name as known_as`, or without a name `import module`."""

    level: int
    module: str
    name: str | None
    known_as: str
    at_top: bool


@dataclass(frozen=True)
class _Source:
    """What a file does, and what it imports."""

    sha256: str
    imports: tuple[_Import, ...]


@cache
def code_sha256(entries: tuple[str, ...], alone: tuple[str, ...] = ()) -> str:
    """Return one sha256 over modules (`cluster.stages`) of this package and all they import from it.

    Of the modules `alone`, drivers that also start and watch workers, only what they do themselves counts.
    """
    return sha256_of(PACKAGE, entries, alone)


def sha256_of(package: Path, entries: Sequence[str], alone: Sequence[str] = ()) -> str:
    """Return `code_sha256` of the package in a folder, as its files are now."""
    found = import_closure(package, entries)
    found |= {module: _file(package, module) for module in alone}
    total = hashlib.sha256()
    for module, path in sorted(found.items()):
        total.update(f"{module}\0{_read(path.read_bytes()).sha256}\0".encode())
    return total.hexdigest()


def import_closure(package: Path, entries: Sequence[str]) -> dict[str, Path]:
    """Return {module: file} of the entry modules and of what they import from the package, directly or not.

    A name that a package's `__init__` merely hands on counts as an import of the module that defines it; the
    `__init__` itself counts where it defines what is imported. Imports for type checkers alone do not count. Raises
    ValueError for an entry that is no module.
    """
    found: dict[str, Path] = {}
    waiting = list(entries)
    while waiting:
        module = waiting.pop()
        if module not in found:
            found[module] = _file(package, module)
            waiting += [imported for each in _imports(package, module) for imported in _defining(package, *each[:2])]
    return found


@cache
def _file(package: Path, module: str) -> Path:
    """Return the file of a module, of a package its `__init__`; the empty name is the whole package's."""
    path = package.joinpath(*module.split(".")) if module else package
    for file in (path / "__init__.py", path.with_suffix(".py")):
        if file.is_file():
            return file
    raise ValueError(f"{module!r} is no module of {package.name}")


@cache
def _is_module(package: Path, module: str) -> bool:
    try:
        return _file(package, module).is_file()
    except ValueError:
        return False


def _defining(package: Path, module: str, name: str | None) -> list[str]:
    """Return the module behind `from module import name`; without a name, behind `import module`."""
    if name is None:
        return [module]
    inner = f"{module}.{name}" if module else name
    if _is_module(package, inner):
        return [inner]
    if _file(package, module).name == "__init__.py":
        for imported, handed_on, known_as, at_top in _imports(package, module):
            if at_top and known_as == name:
                return _defining(package, imported, handed_on)
    return [module]


def _imports(package: Path, module: str) -> Iterator[tuple[str, str | None, str, bool]]:
    """Yield (module, name there or None, name here, whether at the top) of all that a module takes from the package."""
    path = _file(package, module)
    for each in _read(path.read_bytes()).imports:
        parts = each.module.split(".") if each.module else []
        if each.level:
            here = module.split(".") if module else []
            parts = here[: len(here) - each.level + (path.name == "__init__.py")] + parts
        elif parts[:1] == [package.name]:
            parts = parts[1:]
        else:
            continue
        yield ".".join(parts), each.name, each.known_as, each.at_top


@cache
def _read(source: bytes) -> _Source:
    tree = ast.parse(source)
    imports = tuple(_statements(tree))
    for node in ast.walk(tree):
        body: Any = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [line for line in body if not _is_text(line)] or [ast.Pass()]  # type: ignore[attr-defined]
    return _Source(hashlib.sha256(ast.dump(tree).encode()).hexdigest(), imports)


def _is_text(line: ast.stmt) -> bool:
    return isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant) and isinstance(line.value.value, str)


def _statements(tree: ast.Module) -> Iterator[_Import]:
    """Yield every import of a file, wherever it stands but under `if TYPE_CHECKING`."""
    waiting: list[tuple[ast.AST, bool]] = [(node, True) for node in tree.body]
    while waiting:
        node, at_top = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            waiting += [(inner, False) for inner in node.orelse]
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield _Import(0, alias.name, None, alias.asname or alias.name, at_top)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield _Import(node.level, node.module or "", alias.name, alias.asname or alias.name, at_top)
        else:
            waiting += [(inner, False) for inner in ast.iter_child_nodes(node)]
