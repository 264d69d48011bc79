"""Names in tables: no spreadsheet runs them, no page follows them, and numbers stay numbers."""

import csv
import io
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

from clarep_ray.analysis.calibration_findings import as_csv
from clarep_ray.analysis.gallery.sweep_table import read_sweep
from clarep_ray.analysis.paired import difference_table
from clarep_ray.analysis.tables import SeedTable
from clarep_ray.cluster.sweep_rows import Row, trials_csv
from clarep_ray.data.text_tables import csv_text, guarded, markdown, markdown_table, unguarded
from clarep_ray.robustness.statistics import Figure, ResultTable

ATTACKS = (
    '=HYPERLINK("http://evil.example","click")',
    "=cmd|' /C calc'!A0",
    "+1+cmd|' /C calc'!A0",
    "-2+3+cmd|' /C calc'!A0",
    "@SUM(1+9)*cmd|' /C calc'!A0",
    "\t=1+1",
    "\r=1+1",
    "\n=1+1",
    " =1+1",
    "\u00a0=1+1",
    "\u200b=1+1",
    "\ufeff=1+1",
    "\u202e=1+1",
    "\u3000=1+1",
    "\x00=1+1",
    "\uff1d1+1",
    "\uff0b1",
    "\uff0d1+1",
    "\uff20SUM(1)",
    "\u22121+1",
    '"=1+1"',
    "'=1+1",
    "''=1+1",
    '" =1+1',
    "\u201c=1+1\u201d",
    "|cmd",
    "%0A=1",
    "--",
    "-a",
    "+",
    "=",
    "@",
    "\tcat",
    "\rcat",
)
PLAIN = (
    *("cat", "great white shark", "n01440764", "", "'", "'quoted'", '"quoted"', "a=b", "x+y", "a-b", "a@b", "a\tb"),
    *("it's", "-", "0", "猫", "\U0001f408", "a\nb", "a,b", 'a"b', "(1, 2)", "1e3", "C:\\x"),
)
NUMBERS = ("-1", "+1", "-0.5", "1e-05", "-1e-05", "-.5", "3.", "-inf", "inf", "nan", "-1234567.89")


def dangerous(cell: str) -> bool:
    """Say whether a spreadsheet could run a cell; written again here, by another way than the product's."""
    dropped = dict.fromkeys((0, 0xA0, 0x200B, 0xFEFF, 0x202E, 0x3000))
    shown = cell.translate(dropped).lstrip(' \t\r\n"\u201c')
    return cell[:1] in tuple("\t\r\n") or shown[:1] in tuple("=+-@\uff1d\uff0b\uff0d\uff20\u2212|%")


@pytest.mark.parametrize("text", ATTACKS, ids=ascii)
def test_a_cell_of_words_is_no_formula_and_reads_back(text: str) -> None:
    assert guarded(text) == f"'{text}"
    assert unguarded(guarded(text)) == text
    ((cell,),) = csv.reader(io.StringIO(csv_text((text,), ()), newline=""))
    assert not dangerous(cell)
    assert unguarded(cell) == text


@pytest.mark.parametrize("text", [text for text in PLAIN if text != "-"], ids=ascii)
def test_other_words_stay_as_they_are(text: str) -> None:
    assert guarded(text) == text == unguarded(text)


@pytest.mark.parametrize("text", NUMBERS)
def test_numbers_stay_numbers(text: str) -> None:
    assert guarded(text) == text == unguarded(text)
    ((cell, other, third),) = csv.reader([csv_text((), [(text, float(text), None)]).splitlines()[1]])
    assert (cell, third) == (text, "")
    assert other == repr(float(text))


def test_whatever_is_written_reads_back() -> None:
    generator = np.random.default_rng(0)
    letters = list("=+-@'\"\t\r\n |%ab1.,e\u00a0\uff1d\u200b")
    for _ in range(20_000):
        text = "".join(generator.choice(letters, generator.integers(0, 6)))
        assert unguarded(guarded(text)) == text
        assert not dangerous(guarded(text)) or re.fullmatch(r"[+-][\d.e+-]+", text)


@pytest.mark.parametrize("name", ATTACKS, ids=ascii)
def test_no_table_that_a_job_writes_holds_a_formula(name: str) -> None:
    """Every CSV that is written, with a name at each place where a name can stand."""
    seeds = SeedTable(name, (name,), {name: {name: [-0.5, 1.0]}}).csv()
    results = ResultTable(name, (name,), {name: {name: Figure((-0.5,), 3)}}).csv()
    rows = as_csv([{"layer": name, f"accuracy {name}": -0.5, name: None}]).decode()
    row = Row(key="k", trial=name, seed=0, status="failed", point={"a": name}, metrics={name: -0.5}, reason=name)
    trials = trials_csv([row], ["a"])
    for text in (seeds, results, rows, trials):
        cells = [cell for line in csv.reader(io.StringIO(text, newline="")) for cell in line]
        assert [cell for cell in cells if dangerous(cell) and not is_number(cell)] == []
        assert name in map(unguarded, cells)
        assert any(is_number(cell) and float(cell) < 0 for cell in cells)


def is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


@pytest.mark.parametrize("name", ["=1+1", "'=1", "-0.5", "-a", "\t=x", "a\nb", "cat"], ids=ascii)
def test_a_sweep_reads_its_own_table_back(name: str, tmp_path: Path) -> None:
    rows = [
        Row(key=str(seed), trial="t", seed=seed, status="ok", point={"a": name}, metrics={"nmi": -0.25}, reason=name)
        for seed in (0, 1)
    ]
    (tmp_path / "trials.csv").write_bytes(trials_csv(rows, ["a"]).encode())
    about = {"name": "s", "metric": "nmi", "mode": "max", "fields": ["a"], "seeds": [0, 1]}
    (tmp_path / "sweep.json").write_text(json.dumps(about))
    (trial,) = read_sweep(tmp_path).trials
    assert trial.point == {"a": name}
    assert trial.reasons == (name,)
    assert trial.metrics["nmi"] == [-0.25, -0.25]


HOSTILE_MARKDOWN = (
    "a|b",
    "a\nb",
    "a\r\n\n# heading",
    "`code`",
    "``",
    "[x](http://evil.example)",
    "![x](http://evil.example/pixel.png)",
    "[x] (javascript:alert(1))",
    "[x][y]",
    "<img src=x onerror=alert(1)>",
    "<script>",
    "</table>",
    "<!-- x",
    "<http://evil.example>",
    "\\|",
    "a\\",
    "\x1b[2J",
    "\u202eevil",
    "a\u2028b",
)


@pytest.mark.parametrize("name", HOSTILE_MARKDOWN, ids=ascii)
def test_a_cell_of_markdown_is_only_text(name: str) -> None:
    text = markdown_table(("title", name), [(name, "1"), ("b", "2")])
    lines = text.split("\n")
    assert len(lines) == 4
    assert text.isprintable() or text.replace("\n", "").isprintable()
    for line in lines:
        assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) == 3
        assert not re.search(r"(?<!\\)(?:\\\\)*`", line)
        assert not re.search(r"\]\s*[(\[]", line)
        assert not re.search(r"<[A-Za-z/!?]", line)


def test_tables_of_plain_names_are_as_they_were() -> None:
    table = SeedTable("trial", ("a", "b [0, 1]"), {"r 1": {"a": [0.5, 1.5], "b [0, 1]": [1.0]}})
    assert table.markdown().splitlines() == [
        "| trial | a | b [0, 1] |",
        "|---|---|---|",
        "| r 1 | 1.000 +- 0.707 | 1.000 |",
    ]
    assert markdown("p < 0.05, k = 3 (of 5) [1, 2]") == "p < 0.05, k = 3 (of 5) [1, 2]"
    two = SeedTable("trial", ("a",), {"x|y": {"a": [0.5, 1.5]}, "z": {"a": [0.5, 1.4]}})
    assert difference_table(two, "x|y").splitlines()[0] == "| minus x\\|y | a |"
