"""The image: its Dockerfile, and that what it installs is what pyproject.toml asks for and these tests run with."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.deploy.pins import DEPENDENCIES, EXTRAS, group, pins

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
EXPORTS = {
    "requirements.txt": [*DEPENDENCIES, *EXTRAS["torchattacks"]],
    "requirements-build.txt": group("image-build"),
    "requirements-aws.txt": [Requirement("boto3")],
    "mlflow/requirements.txt": group("mlflow-server"),
}
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")


def entries(name: str) -> list[tuple[Requirement, list[str]]]:
    """Return every requirement of an exported file with its hashes; anything else in it is an error."""
    found = []
    for line in (DEPLOY / name).read_text().replace("\\\n", " ").splitlines():
        written, *hashes = re.split(r"\s+(?=--hash)", line.strip())
        assert all(HASH.fullmatch(item) for item in hashes), line
        found.append((Requirement(written), hashes))
    return found


@pytest.mark.parametrize("name", EXPORTS)
def test_every_requirement_is_pinned_and_hashed_and_names_no_host(name: str) -> None:
    pinned = entries(name)
    assert len(pinned) > len(EXPORTS[name])
    for requirement, hashes in pinned:
        assert hashes, requirement
        assert re.fullmatch(r"==[\w.+!]+", str(requirement.specifier)), requirement
        assert requirement.url is None


@pytest.mark.parametrize("name", EXPORTS)
def test_the_export_is_of_this_pyproject(name: str) -> None:
    """`deploy/export-requirements.sh` was run after the last change."""
    written = [item for item, _ in entries(name)]
    for asked in EXPORTS[name]:
        assert any(item.name == asked.name and str(item.specifier)[2:] in asked.specifier for item in written), asked
    if name != "requirements-aws.txt":  # for the head of a cluster alone, beside the rest
        different = [item for item in written if str(item.specifier)[2:] not in pins()[item.name]]
        assert different == [], "run deploy/export-requirements.sh"


@pytest.mark.parametrize("name", ["requirements.txt", "mlflow/requirements.txt"])
def test_what_is_tested_is_what_is_installed(name: str) -> None:
    here = [item for item, _ in entries(name) if item.marker is None or item.marker.evaluate()]
    assert len(here) > 50
    different = {str(item): version(item.name) for item in here if not item.specifier.contains(version(item.name))}
    assert different == {}, "run uv sync"


def test_hadolint_finds_nothing() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("hadolint"), "--no-color", DEPLOY / "Dockerfile"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def instructions() -> list[str]:
    lines = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_the_image_has_two_stages_no_root_no_default_base_and_a_health_check() -> None:
    steps = instructions()
    assert "ARG PYTHON_IMAGE" in steps  # without a default: nobody builds on an image that was not chosen by digest
    assert [step.split()[1] for step in steps if step.startswith("FROM ")] == ["${PYTHON_IMAGE}"] * 2
    last = steps[[index for index, step in enumerate(steps) if step.startswith("FROM ")][-1] :]
    assert [step for step in last if step.startswith("USER ")] == ["USER 10001:10001"]
    assert any(step.startswith("HEALTHCHECK ") for step in last)
    assert not any(step.startswith("ADD ") for step in steps)


def test_what_the_build_copies_exists_and_is_let_through() -> None:
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    for step in instructions():
        if step.startswith("COPY ") and "--from" not in step:
            for source in step.split()[1:-1]:
                assert (ROOT / source).exists(), source
                assert f"!{source}" in ignored, source
    scripts = {path.parent.name for path in ROOT.glob("*/*.py")} - {"clarep_ray", "tests", "outputs"}
    assert all(f"COPY {name} /opt/clarep-ray/{name}" in instructions() for name in scripts)


@pytest.mark.parametrize("image", ["", "python:3.11-slim", "python@sha256:abc", "python:3.11@sha256:" + "0" * 63])
def test_the_build_refuses_images_without_a_digest(image: str) -> None:
    done = subprocess.run([DEPLOY / "build.sh", image], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"error: image: {image!r} is not valid; valid: NAME@sha256:DIGEST" in done.stderr


def test_the_installation_refuses_a_folder_that_exists(tmp_path: Path) -> None:
    done = subprocess.run([DEPLOY / "install.sh", tmp_path], capture_output=True, text=True, check=False)
    assert (done.returncode, list(tmp_path.iterdir())) == (2, [])
    assert "is not valid; valid: one that does not exist yet" in done.stderr


@pytest.mark.nightly
@pytest.mark.parametrize(("name", "package"), [("requirements-build.txt", "pluggy"), ("requirements.txt", "idna")])
def test_a_wheel_of_another_hash_is_not_installed(name: str, package: str, tmp_path: Path) -> None:
    (tmp_path / "deploy").mkdir()
    for needed in ("install.sh", "requirements-build.txt"):
        shutil.copy(DEPLOY / needed, tmp_path / "deploy" / needed)
    (requirement,) = [str(item) for item, _ in entries(name) if item.name == package]
    (tmp_path / "deploy" / name).write_text(f"{requirement} --hash=sha256:{'0' * 64}\n")
    command = [tmp_path / "deploy" / "install.sh", tmp_path / "installed"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert re.search(r"hash", done.stderr, re.IGNORECASE), done.stderr
    assert not list((tmp_path / "installed").rglob(package))


@pytest.mark.nightly
@pytest.mark.timeout(1200)
def test_the_image_can_be_installed_and_plans_a_job() -> None:
    """Minutes, and gigabytes of wheels; run by root, it gives root up, whose own Python others may not read."""
    system = {"PATH": "/usr/bin:/bin"} if os.getuid() == 0 else {}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        command = [DEPLOY / "rehearse.sh", Path(folder) / "root"]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=1200, env=dict(os.environ) | system
        )
    assert done.returncode == 0, done.stderr
    assert "240 images in 10 classes" in done.stdout
