import pytest

from clarep_ray.measured import Spread, Table


def test_a_table_prints_and_records_the_same_rows() -> None:
    rows = [("ours", 3, 0.123456, Spread.of([3.0, 1.0, 2.0])), ("theirs", 40, None, Spread.of([5.0]))]
    table = Table({"way": "", "calls": "d", "s": ".2f", "ratio": ".1f"}, rows, ["a note", "another"], "speed")
    assert table.markdown().splitlines() == [
        "| way | calls | s | ratio |",
        "| --- | --- | --- | --- |",
        "| ours | 3 | 0.12 | 2.0 (1.0 to 3.0) |",
        "| theirs | 40 | - | 5.0 |",
        "",
        "a note",
        "",
        "another",
    ]
    first, second = table.records()
    ratio = {"value": 2.0, "low": 1.0, "high": 3.0}
    assert first == {"table": "speed", "way": "ours", "calls": 3, "s": 0.123456, "ratio": ratio}
    assert second["s"] is None


def test_a_row_has_a_cell_for_every_column() -> None:
    with pytest.raises(ValueError, match=r"rows: \('ours',\) has 1 cells; valid: 2"):
        Table({"way": "", "s": ".2f"}, [("ours",)])
