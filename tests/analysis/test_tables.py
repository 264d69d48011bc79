import csv
import io

from clarep_ray.analysis.tables import SeedTable, mean_std

TABLE = SeedTable("mode", ("nmi", "kept"), {"clarid": {"nmi": [0.1, 0.3], "kept": [1.0, 1.0]}})


def test_markdown_gives_mean_and_sample_standard_deviation() -> None:
    assert TABLE.markdown().splitlines() == [
        "| mode | nmi | kept |",
        "|---|---|---|",
        "| clarid | 0.200 +- 0.141 | 1.000 +- 0.000 |",
    ]


def test_csv_has_every_value() -> None:
    rows = list(csv.DictReader(io.StringIO(TABLE.csv())))
    assert [(row["column"], row["seed"], float(row["value"])) for row in rows] == [
        ("nmi", "0", 0.1),
        ("nmi", "1", 0.3),
        ("kept", "0", 1.0),
        ("kept", "1", 1.0),
    ]


def test_what_was_not_measured_is_a_dash() -> None:
    table = SeedTable("mode", ("kept",), {"clarid": {"kept": [float("nan")] * 2}})
    assert table.markdown().splitlines()[-1] == "| clarid | - |"


def test_one_seed_has_no_deviation() -> None:
    assert mean_std([2.5]) == (2.5, 0.0)
