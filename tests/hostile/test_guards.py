"""Old libraries and an environment that lets data run code are refused at every start, with one line."""

import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from clarep_ray import cli
from clarep_ray.cluster import guards

BELOW = {"ray": "2.55.9", "mlflow": "3.17.1", "diffusers": "0.42.0", "transformers": "5.2.0", "pillow": "12.2.9"}
READ_NOTHING = {"toy.py", "train_classifiers.py"}
BELOW |= {"torch": "2.9.1+cu130"}


def test_what_is_installed_is_new_enough() -> None:
    guards.check_versions()


@pytest.mark.parametrize("name", guards.FLOORS)
def test_a_library_below_its_floor_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards, "version", lambda asked: BELOW[name] if asked == name else version(asked))
    with pytest.raises(ValueError, match=rf"^{name}: {BELOW[name].replace('+', '.')} is not valid, .* or later$"):
        guards.check_versions()


def test_a_library_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(guards, "version", missing)
    with pytest.raises(ValueError, match="ray: it is not installed"):
        guards.check_versions()


@pytest.mark.parametrize("value", ["1", "true", "0 "])
@pytest.mark.parametrize("name", [*guards.ANY_VALUE, *guards.SWITCHES])
def test_variables_that_let_data_run_code_end_a_job(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, value)
    off = name in guards.SWITCHES and value == "0 "
    if off:
        with cli.exit_codes():
            return
    with pytest.raises(SystemExit) as ended, cli.exit_codes():
        raise AssertionError("the job began")
    assert ended.value.code == 2
    assert f"error: environment: {name} is set; unset it" in capsys.readouterr().err


@pytest.mark.parametrize("job", sorted({path.name for path in Path("jobs").glob("*.py")} - READ_NOTHING))
def test_every_job_asks(job: str) -> None:
    """The line that asks is in `exit_codes`, which every job that reads anything enters."""
    text = (Path("jobs") / job).read_text()
    assert "cli.exit_codes()" in text or "cli.parse(" in text


def test_asking_costs_nothing() -> None:
    code = "import sys; from clarep_ray.cluster import guards; guards.check_start(); print(len(sys.modules))"
    code += "; assert not {'torch', 'ray', 'numpy', 'mlflow'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
