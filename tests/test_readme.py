"""Every command of README is one that its job takes, and following them in order meets no other run's output."""

import re
import shlex
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import tyro

from clarep_ray import cli
from clarep_ray.cluster.extract import TIMM_SPLIT
from clarep_ray.presets import CALIBRATE, DISTILL, EVALUATE, EXTRACT, TRAIN_CDM
from tests.analysis.made_output import made_output

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text().replace("\\\n", " ")
VARIABLES = dict(re.findall(r'^(\w+)="(.*)"$', README, re.MULTILINE))
FILLED = re.sub(r"\$(\w+)", lambda found: VARIABLES.get(found[1], found[0]), README)
COMMANDS = [shlex.split(line, comments=True) for line in re.findall(r"uv run ((?:jobs|tune)/\w+\.py[^\n`&]*)", FILLED)]
CONFIGURED = ("extract", "calibrate", "distill", "train_cdm", "clarid", "cadistill")
SUBCOMMANDS = ("benchmark", "convert")


class Parsed(Exception):
    """Ends a job once its command line is understood."""


def parsed(command: list[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return what a job makes of its command line, before it does anything; a calibration file is taken as empty."""
    found: list[Any] = []
    plain = tyro.cli

    def stop(*arguments: Any, **options: Any) -> None:
        found.append(plain(*arguments, **options))
        raise Parsed

    monkeypatch.setattr(tyro, "cli", stop)
    monkeypatch.setattr(cli, "start_of", lambda presets, name, *_: presets[name]())
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(Parsed):
        import_module(command[0].removesuffix(".py").replace("/", ".")).main()
    return found[0]


def written(command: list[str], monkeypatch: pytest.MonkeyPatch) -> tuple[str, Any] | None:
    """Return the output folder of a command and its config; None where it writes nothing or has no preset."""
    if Path(command[0]).stem not in CONFIGURED or {"--help", "--dry-run"} & set(command):
        return None
    with monkeypatch.context() as patch:
        config = parsed(command, patch).config
    return (config.output.path if hasattr(config.output, "path") else config.output), config


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_is_understood(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    if Path(command[0]).stem not in SUBCOMMANDS and "--help" not in command:
        parsed(command, monkeypatch)


def test_commands_of_other_settings_write_to_other_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(COMMANDS) > 30
    configs: dict[str, Any] = {}
    for command in COMMANDS:
        if (found := written(command, monkeypatch)) is not None:
            folder, config = found
            assert configs.setdefault(folder, config) == config, " ".join(command)


def test_presets_of_all_jobs_have_folders_of_their_own() -> None:
    extractions = [make().config.output.path for make in EXTRACT.values()]
    calibrations = [make().config.output for make in CALIBRATE.values()]
    folders = extractions + calibrations
    assert len(set(folders)) == len(folders)
    assert not set(folders) & {make().config.output for make in (DISTILL | TRAIN_CDM).values()}
    assert (extractions[0], calibrations[0]) == ("outputs/extract", "outputs/calibrate")
    assert EXTRACT["sd21"]().origins["output.path"] == "default"
    assert CALIBRATE["sd21"]().config.output == "outputs/calibrate_sd21"


def test_every_preset_that_a_page_names_exists() -> None:
    pages = [ROOT / "README.md", *ROOT.glob("deploy/*.md"), *ROOT.glob("deploy/benchmarks/*.md")]
    named = {name for page in pages for name in re.findall(r"--preset\s+([a-z]\w*)", page.read_text())}
    assert len(named) > 10
    assert named <= (CALIBRATE | DISTILL | EVALUATE | EXTRACT | TRAIN_CDM).keys()


def test_timm_reads_an_output_as_the_first_table_says(tmp_path: Path) -> None:
    from timm.data import create_dataset

    (row,) = re.findall(r"^\| `_info.json` \|.*$", README, re.MULTILINE)
    name, split, key = re.findall(r"`(wds/\w+)`|`split=(\w+)`|`input_key=\"([^\"]+)\"`", row)
    folder = made_output(tmp_path / "out", count=6, edge=8, extras=("original",))
    variants: list[dict[str, Any]] = [{}, {"input_key": key[2]}]
    for options in variants:
        pairs = list(
            create_dataset(name[0], root=str(folder), split=split[1], is_training=False, batch_size=2, **options)
        )
        assert sorted(label for _, label in pairs) == [0, 0, 1, 1, 2, 2]
        assert {image.size for image, _ in pairs} == {(8, 8)}
    assert split[1] == TIMM_SPLIT, "an extraction says the same, whatever its input was"
