"""The resume guard: the hash follows every module that can change a byte, and nothing else."""

import ast
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from clarep_ray.cluster import calibrate, code_hash, evaluate, identity, sweep_cadistill
from clarep_ray.cluster.code_hash import PACKAGE, code_sha256, import_closure, sha256_of

ENTRIES = identity.OUTPUT_MODULES
EVERY: dict[str, tuple[str, ...]] = {
    "extract": ENTRIES,
    "evaluate": evaluate.CODE,
    "calibrate": calibrate.CALIBRATION_CODE,
    "sweep": sweep_cadistill.TRAINING_CODE,
}


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("code") / PACKAGE.name
    shutil.copytree(PACKAGE, folder, ignore=lambda _, names: [n for n in names if not n.endswith(".py") and "." in n])
    return folder


def with_another_constant(source: str) -> str:
    """Return a module with its last number or text changed that is no docstring; else with one more assignment."""
    tree = ast.parse(source)
    alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    constants: list[Any] = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and id(node) not in alone and type(node.value) in (int, float, str)
    ]
    inside_text = {id(value) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for value in node.values}
    free = [node for node in constants if id(node) not in inside_text]
    if not free:
        return f"{source}\nCHANGED = 1\n"
    free[-1].value = free[-1].value + ("x" if isinstance(free[-1].value, str) else 1)
    return ast.unparse(tree)


@pytest.mark.parametrize("job", sorted(EVERY))
def test_another_constant_in_any_file_of_the_closure_is_seen_and_in_no_other(job: str, copied: Path) -> None:
    entries = EVERY[job]
    known, closure = sha256_of(copied, entries), set(import_closure(copied, entries).values())
    assert 60 < len(closure) < 130
    paths = sorted(copied.rglob("*.py"))
    for path in paths if job == "extract" else paths[::4]:
        source = path.read_text()
        if not source.strip():
            continue
        path.write_text(with_another_constant(source))
        changed = sha256_of(copied, entries) != known
        path.write_text(source)
        assert changed == (path in closure), path.relative_to(copied)
    assert sha256_of(copied, entries) == known == code_sha256(entries)


def test_comments_docstrings_and_layout_are_not_seen(copied: Path) -> None:
    known = sha256_of(copied, ENTRIES)
    for path in import_closure(copied, ENTRIES).values():
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Expr)
                and isinstance(node.value, ast.Constant)
                and isinstance(node.value.value, str)
            ):
                node.value.value = "said otherwise"
        path.write_text(f'"""Another one."""\n# a comment\n\n\n{ast.unparse(tree)}')
    assert sha256_of(copied, ENTRIES) == known


def test_the_closure_holds_what_makes_bytes_and_nothing_beside_it() -> None:
    closure = import_closure(PACKAGE, ENTRIES)
    makes_bytes = "cluster.provenance config.projection config.extract clarid.svd models.stable_diffusion models.hub"
    makes_bytes += (
        " data.units data.manifest data.pixels data.sources.parquet dotted seeding models.quality_gate models"
    )
    assert set(makes_bytes.split()) <= closure.keys()
    beside = "data.owner tracking cluster.plan cluster.runtime cluster.publish cluster.extract config.distill cli"
    assert not set(beside.split()) & closure.keys()
    assert not [name for name in closure if name.startswith(("analysis", "tracking", "presets", "robustness", "cadis"))]


def test_what_is_loaded_while_a_unit_is_made_is_in_the_closure() -> None:
    """The interpreter's own list of modules, not the one that was computed."""
    program = """
import sys, numpy as np
from clarep_ray.cluster import provenance, stages
from clarep_ray.config import ExtractConfig
from clarep_ray import dotted
from clarep_ray.models.extractor import UnitExtractor
config = dotted.override(ExtractConfig(), {"spectrum.num_directions": 2, "inversion.num_steps": 5})
UnitExtractor(config).run(np.zeros((1, 16, 16, 3), np.uint8), [0], ["a"])
print(*sorted(name for name in sys.modules if name.startswith("clarep_ray.")))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert done.returncode == 0, done.stderr
    loaded = {name.removeprefix("clarep_ray.") for name in done.stdout.split()}
    closure = import_closure(PACKAGE, ENTRIES)
    # A package's __init__ is loaded with any of its modules, and what config/__init__ hands on with it.
    passed_through = {name for name in loaded - closure.keys() if (PACKAGE / name.replace(".", "/")).is_dir()}
    assert {name for name in loaded - closure.keys() - passed_through if not name.startswith("config.")} == set()


def write(folder: Path, **files: str) -> Path:
    package = folder / "mine"
    for name, source in files.items():
        path = package.joinpath(*name.split("__"))
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / "__init__.py").touch()
        path.with_suffix(".py").write_text(source)
    (package / "__init__.py").touch()
    return package


def test_imports_of_every_form_are_followed(tmp_path: Path) -> None:
    package = write(
        tmp_path,
        a="import mine.sub.b\nfrom . import c\nfrom .sub import d\ndef f():\n    from mine.sub.e import x\n",
        sub__b="import os, numpy.g",
        c="class C:\n    def f(self):\n        try:\n            from .h import z as y\n        finally: ...\n",
        sub__d="from .. import i\nfrom ..j import one\nfrom elsewhere.k import two",
        sub__e="import typing\nif typing.TYPE_CHECKING:\n    from mine.k import t\nelse:\n    import mine.l",
        **dict.fromkeys(("h", "i", "j", "k", "l", "g", "sub__b2"), "x = 1"),
        pack__one="ONE = 1",
        pack__two="TWO = 2",
        m="from mine.pack import ONE as one, THREE",
    )
    (package / "pack" / "__init__.py").write_text("from mine.pack.one import ONE\nfrom .two import TWO\nTHREE = 3\n")
    found = set(import_closure(package, ["a"]))
    assert found == {"a", "sub.b", "c", "sub.d", "sub.e", "h", "i", "j", "l"}
    assert set(import_closure(package, ["m"])) == {"m", "pack.one", "pack", "pack.two"}
    (package / "m.py").write_text("from mine.pack import ONE as one")
    assert set(import_closure(package, ["m"])) == {"m", "pack.one"}
    with pytest.raises(ValueError, match="'nowhere' is no module of mine"):
        import_closure(package, ["nowhere"])


def test_it_costs_little_and_once() -> None:
    code_hash._read.cache_clear()  # pyright: ignore[reportPrivateUsage]
    started = time.perf_counter()
    sha256_of(PACKAGE, ENTRIES)
    assert time.perf_counter() - started < 5  # 0.3 s on a quiet machine
    assert code_sha256(ENTRIES) == code_sha256(ENTRIES)
    assert code_sha256.cache_info().hits
