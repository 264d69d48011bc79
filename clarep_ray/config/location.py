"""Where an output can lie: a folder, or s3://BUCKET/PREFIX."""

from __future__ import annotations

import re

BUCKET, SEGMENT = r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", r"(?!\.{1,2}(?:/|$))[\w.=+-]+"
VALID = "a folder, or s3://BUCKET/PREFIX of letters, digits and . _ - = + in place of one"


def is_url(path: str) -> bool:
    """Say whether a path is a URL, of whatever kind, and no folder; `s3:/` is one that lost a slash."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://|s3:/", path) is not None


def parse_s3(url: str) -> tuple[str, str] | None:
    """Return (bucket, prefix) of s3://BUCKET/PREFIX, else None: nothing in it is escaped or a password."""
    found = re.fullmatch(rf"s3://({BUCKET})/({SEGMENT}(?:/{SEGMENT})*)/?", url, re.ASCII)
    return (found[1], found[2]) if found else None
