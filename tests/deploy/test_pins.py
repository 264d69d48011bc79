"""Every clone installs the same versions, and other projects can install this one without our settings for uv."""

import os
import re
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from clarep_ray.cluster.guards import FLOORS
from clarep_ray.robustness.torchattacks_as_published import REQUIREMENT
from tests.deploy.pins import CONSTRAINTS, DEPENDENCIES, EXTRAS, PROJECT, group, needed, pins

ROOT = Path(__file__).parents[2]
TORCHATTACKS = EXTRAS["torchattacks"]


def unmet(asked: list[Requirement]) -> dict[str, list[str]]:
    """Return what the exact versions do not satisfy, by package, and who asks for it; nothing is overridden."""
    exact, found = pins(), dict[str, list[str]]()
    for asker, item in needed(asked):
        name = canonicalize_name(item.name)
        if not any(item.specifier.contains(one, prereleases=True) for one in exact.get(name, ())):
            found.setdefault(name, []).append(f"{asker} asks for {item}")
    return found


def test_a_pin_is_one_version_and_names_no_host() -> None:
    written = [Requirement(text) for text in CONSTRAINTS]
    assert len(written) > 200
    for item in written:
        assert re.fullmatch(r"==[\w.+!]+", str(item.specifier)), item
        assert (item.url, item.extras, item.name) == (None, set(), canonicalize_name(item.name))
    names = [item.name for item in written]
    assert all(names.count(item.name) == 1 or item.marker for item in written)
    assert names == sorted(names)
    assert not [text for text in (ROOT / "pyproject.toml").read_text().splitlines() if "://" in text]


def test_everything_the_tests_run_with_is_pinned_and_installed_so() -> None:
    """Developers' tools and all they ask for included: `uv sync` brings what is written, whatever the index has."""
    asked = [*DEPENDENCIES, *group("dev"), *TORCHATTACKS]
    names = {canonicalize_name(item.name) for _, item in needed(asked)}
    assert len(names) > 150
    assert names - pins().keys() == set(), "run deploy/export-requirements.sh"
    different = {name: version(name) for name in names if version(name) not in pins()[name]}
    assert different == {}, "run uv sync"


def test_what_builds_the_wheel_is_pinned() -> None:
    built = [Requirement(text) for text in PROJECT["tool"]["uv"]["build-constraint-dependencies"]]
    assert {item.name for item in built} >= {Requirement(text).name for text in PROJECT["build-system"]["requires"]}
    assert {item.name: str(item.specifier)[2:] for item in built}.items() <= {
        name: exact[0] for name, exact in pins().items()
    }.items()


def test_the_dependencies_hold_together_without_overrides() -> None:
    """The metadata of what is installed, asked without an index: the exact versions are one solution for everybody."""
    assert unmet(DEPENDENCIES) == {}


def test_the_override_is_for_torchattacks_alone() -> None:
    assert unmet([*DEPENDENCIES, *TORCHATTACKS]) == {"requests": ["torchattacks asks for requests~=2.25.1"]}
    (override,) = PROJECT["tool"]["uv"]["override-dependencies"]
    assert Requirement(override).specifier.contains(pins()["requests"][0])
    assert [str(item) for item in TORCHATTACKS] == [REQUIREMENT]


def test_dependencies_are_ranges_from_floors_that_the_guards_let_through() -> None:
    floors: dict[str, str] = {}
    for item in DEPENDENCIES:
        (only,) = item.specifier
        assert only.operator == ">=", item
        assert item.specifier.contains(pins()[item.name][0]), item
        floors[item.name] = only.version
    assert FLOORS.keys() <= floors.keys()
    assert {name: floors[name] for name, floor in FLOORS.items() if Version(floors[name]) < Version(floor)} == {}


def uv(*arguments: str | Path, folder: Path) -> str:
    """Return what uv prints in a folder that knows nothing of this checkout."""
    command = os.environ.get("UV") or shutil.which("uv")
    assert command, "uv is not on PATH"
    hidden = {"VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT", "UV_FROZEN", "UV_LOCKED"}
    clean = {name: value for name, value in os.environ.items() if name not in hidden}
    done = subprocess.run([command, *arguments], cwd=folder, env=clean, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def stranger(tmp_path: Path) -> Path:
    """An empty project of somebody else's."""
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "stranger"\nversion = "0"\nrequires-python = ">=3.11,<3.14"\n'
    )
    return tmp_path


@pytest.mark.nightly
@pytest.mark.parametrize("resolution", ["highest", "lowest-direct"])
@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_the_dependencies_alone_resolve(resolution: str, python: str, stranger: Path) -> None:
    (stranger / "asked.txt").write_text("".join(f"{item}\n" for item in DEPENDENCIES))
    options = ("--quiet", "--no-header", "--no-annotate", "--python-version", python, "--resolution", resolution)
    found = {
        Requirement(line).name for line in uv("pip", "compile", *options, "asked.txt", folder=stranger).splitlines()
    }
    assert {item.name for item in DEPENDENCIES} <= found
    assert "torchattacks" not in found


@pytest.mark.nightly
def test_another_project_can_add_the_checkout(stranger: Path) -> None:
    uv("add", "--no-sync", "--quiet", ROOT, folder=stranger)
    assert 'name = "clarep-ray"' in (stranger / "uv.lock").read_text()


@pytest.mark.nightly
def test_a_clone_locks_what_is_pinned(tmp_path: Path) -> None:
    """With the index as it is today, for every platform and Python."""
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    uv("lock", "--quiet", folder=tmp_path)
    options = ("--frozen", "--quiet", "--no-hashes", "--no-annotate", "--no-header", "--no-emit-project")
    written = uv("export", *options, "--all-extras", "--all-groups", folder=tmp_path).splitlines()
    locked = {(item.name, str(item.specifier)[2:]) for item in map(Requirement, written)}
    assert locked == {(name, one) for name, several in pins().items() for one in several}


@pytest.mark.nightly
def test_the_wheel_has_what_the_package_needs(tmp_path: Path) -> None:
    """Every file of the package that git knows: weights, cards and templates too."""
    import zipfile

    uv("build", "--quiet", "--wheel", "--out-dir", tmp_path, ROOT, folder=tmp_path)
    (wheel,) = tmp_path.glob("clarep_ray-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if name.startswith("clarep_ray/")}
    known = subprocess.run(["git", "ls-files", "clarep_ray"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert inside == set(known.stdout.split())
