"""What a benchmark measured: rows that print as a markdown table and are recorded under the same names."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field


@dataclass(frozen=True)
class Spread:
    """A figure of several turns: the middle one between the least and the greatest."""

    value: float
    low: float
    high: float

    @staticmethod
    def of(turns: Sequence[float]) -> Spread:
        """Return the spread of one figure for each turn; a single turn has none, and says so by its equal ends."""
        return Spread(statistics.median(turns), min(turns), max(turns))

    def text(self, how: str) -> str:
        shown = [f"{number:{how}}" for number in (self.value, self.low, self.high)]
        return shown[0] if self.low == self.high else f"{shown[0]} ({shown[1]} to {shown[2]})"


Cell = str | int | float | Spread | None
"""None: not measured here, printed as `-`."""


@dataclass(frozen=True)
class Table:
    """Rows of cells under named columns; `columns` says how the numbers of each are printed (a format spec)."""

    columns: Mapping[str, str]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str] = ()
    """Paragraphs below the table."""
    name: str = field(default="")
    """What tells the table from others of the same benchmark."""

    def __post_init__(self) -> None:
        wrong = [row for row in self.rows if len(row) != len(self.columns)]
        if wrong:
            raise ValueError(f"rows: {wrong[0]!r} has {len(wrong[0])} cells; valid: {len(self.columns)}")

    def markdown(self) -> str:
        formats = list(self.columns.values())
        lines = [list(self.columns), ["---"] * len(self.columns)]
        lines += [[_shown(cell, how) for cell, how in zip(row, formats, strict=True)] for row in self.rows]
        table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
        return "\n\n".join([table, *self.notes])

    def records(self) -> list[dict[str, object]]:
        """Return one dictionary for each row; a spread is a dictionary of its own."""
        named = {"table": self.name} if self.name else {}
        return [named | dict(zip(self.columns, map(_plain, row), strict=True)) for row in self.rows]


def _shown(cell: Cell, how: str) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, Spread):
        return cell.text(how)
    return cell if isinstance(cell, str) else f"{cell:{how}}"


def _plain(cell: Cell) -> object:
    return asdict(cell) if isinstance(cell, Spread) else cell
