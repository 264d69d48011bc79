"""Tables as CSV and Markdown whose cells are data: names of classes, folders and files come from other people.

Spreadsheets run a cell that begins with `= + - @` as a formula, and pages follow links and HTML in Markdown.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence

GUARD = "'"
"""What spreadsheets take as: the rest is text."""
BLANK = r"\s\x00-\x1f\x7f\xad\u200b-\u200f\u2028-\u202e\u2060-\u2064\ufeff"
"""What spreadsheets drop or do not show in front of a formula."""
FORMULA = re.compile(
    rf"['\"\u2018\u2019\u201c\u201d{BLANK}]*[=+\-@\uff1d\uff0b\uff0d\uff20\u2212\ufe62\ufe63\ufe66\ufe6b|%]|'*[\t\r\n]"
)
"""Also in full width and small forms, behind blanks and quotes; and behind a tab or a line break, which some drop."""
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?(inf|nan)", re.ASCII | re.IGNORECASE)
LINK, TAG = re.compile(r"\](?=\s*[(\[])"), re.compile(r"<(?=[A-Za-z/!?])")


def csv_text(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table as CSV: numbers as they are, texts that a spreadsheet would run behind a quotation mark."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    for row in (header, *rows):
        writer.writerow([guarded(cell) if isinstance(cell, str) else cell for cell in map(_plain_type, row)])
    return buffer.getvalue()


def guarded(text: str) -> str:
    """Return a text that no spreadsheet runs; a number stays one."""
    return GUARD + text if FORMULA.match(text) and not NUMBER.fullmatch(text) else text


def unguarded(text: str) -> str:
    """Return what `guarded` was given."""
    return text[1:] if text.startswith(GUARD) and guarded(text[1:]) == text else text


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table as Markdown, one line a row, whatever is in its cells."""
    first, *others = (f"| {' | '.join(map(markdown, line))} |" for line in (header, *rows))
    return "\n".join((first, "|---" * len(header) + "|", *others))


def markdown(text: str) -> str:
    """Return a text that Markdown shows as it is, on one line: no cell, code, link, image or HTML begins in it."""
    for mark in ("\\", "|", "`"):
        text = text.replace(mark, f"\\{mark}")
    text = TAG.sub("&lt;", LINK.sub(r"]\\", text))
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def _plain_type(cell: object) -> object:
    """Return other objects, such as tuples of texts, as the text that csv would make of them."""
    return cell if cell is None or isinstance(cell, str | int | float) else str(cell)
