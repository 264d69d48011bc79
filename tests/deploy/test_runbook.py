"""RUNBOOK.md: its arithmetic, its exit codes, and that what it names is there."""

import math
import re
from pathlib import Path

import pytest

from clarep_ray import errors
from tests.deploy import rules, sizing
from tests.deploy.pins import pins

ROOT = Path(__file__).parents[2]
RUNBOOK = (ROOT / "deploy" / "RUNBOOK.md").read_text()
IMAGES = 128_117
PEAKS = {"A100": (19.5, 312), "L40S": (91.6, 362), "H100": (67, 989)}
"""Published TFLOP/s of float32 and, dense, of bfloat16."""
SHARES = (0.6, 0.3)


def rows(header: str) -> list[list[str]]:
    """Return the cells of the table whose header begins so."""
    table = RUNBOOK[RUNBOOK.index(header) :].partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip().strip("`") for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in table]


COUNTED = {row[0]: tuple(map(float, row[1:])) for row in rows("| preset | GFLOP")}


@pytest.mark.parametrize("preset", COUNTED)
def test_the_sizing_tables_follow_from_each_other(preset: str) -> None:
    gflop, evaluations, tflop = COUNTED[preset]
    assert tflop == round(gflop * evaluations / 1000)
    rates = [
        share * peak / (gflop * evaluations / 1000)
        for peaks in PEAKS.values()
        for peak, share in zip(peaks, SHARES, strict=True)
    ]
    (written,) = [row[1:] for row in rows("| preset | A100") if row[0] == preset]
    for cell, rate in zip(written, rates, strict=True):
        images_per_s, hours = map(float, re.fullmatch(r"([\d.]+), (\d+) h", cell).groups())
        assert images_per_s == round(rate, 2)
        assert hours == pytest.approx(IMAGES / rate / 3600, abs=0.51)
    for gpu, peaks in PEAKS.items():
        assert f"{gpu} {peaks[0]:g} and {peaks[1]}" in RUNBOOK


def test_the_whole_of_imagenet_follows_from_the_rate_and_the_measured_driver() -> None:
    (rates,) = [row[1:] for row in rows("| preset | A100") if row[0] == "dit_xl_256"]
    unit_s = 64 / float(rates[-1].split(",")[0])
    measured = (ROOT / "deploy" / "benchmarks" / "scaling_cpu_202611.md").read_text()
    (driver_ms,) = re.findall(r"CPU time of the driver per unit \| ([\d.]+) ms", measured)
    units = math.ceil(1_281_167 / 64)
    assert f"{units:,}".replace(",", " ") in RUNBOOK
    for gpus, of_each, hours, share in rows("| GPUs | units"):
        rounds = math.ceil(units / int(gpus))
        assert int(of_each) == rounds
        assert float(hours) == pytest.approx(rounds * unit_s / 3600, rel=0.02)
        assert float(share.split()[0]) == pytest.approx(int(gpus) / unit_s * float(driver_ms) / 10, rel=0.1)


@pytest.mark.nightly
@pytest.mark.parametrize("preset", COUNTED)
def test_operations_and_evaluations_are_the_counted_ones(preset: str) -> None:
    gflop, evaluations, _ = COUNTED[preset]
    assert round(sizing.gflop_per_evaluation(preset)) == gflop
    assert round(sizing.evaluations(preset)) == evaluations


def test_every_exit_code_of_the_jobs_is_explained() -> None:
    codes = {int(row[0]) for row in rows("| code | you see")}
    assert set(errors.meanings()) == codes


@pytest.mark.parametrize("page", ["README.md", "deploy/RUNBOOK.md"])
def test_the_table_of_exit_codes_is_that_of_the_errors(page: str) -> None:
    assert f"\n\n{errors.table()}\n\n" in (ROOT / page).read_text()


def test_every_kind_of_fault_has_a_code_of_its_own() -> None:
    """What is raised in a Ray worker is known by its name alone, so a name or a code stands for one fault."""
    found = list(errors.kinds().values())
    assert len(found) == len({kind.__name__ for kind in found}) >= 15
    own = [kind for kind in found if "code" in vars(kind)]
    assert len({kind.code for kind in own} | set(errors.OTHERS)) == len(own) + len(errors.OTHERS)


def test_what_it_names_is_in_the_repository() -> None:
    named = set(re.findall(r"(?<![\w@/-])(?:deploy|jobs|kuberay|mlflow)/[\w./-]*\w", RUNBOOK))
    assert len(named) >= 15
    missing = {
        name
        for name in named
        if not any((ROOT / folder / name).exists() for folder in ("", "deploy", "deploy/kuberay"))
        and name not in ("deploy/kuberay/overlays/NAME", "kuberay/kuberay-operator")
    }
    assert missing == set()


def test_its_figures_are_those_of_the_files() -> None:
    assert f"{len(rules.RULES)} rules" in RUNBOOK
    (torch,) = pins()["torch"]
    assert f"torch {torch}" in RUNBOOK
