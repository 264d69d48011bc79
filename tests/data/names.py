"""File names that people have, and those that tools trip over; each is one of a picture, no two are the same bytes."""

from pathlib import Path

LONG = "\u00e9" * 127  # 254 bytes of the 255 that a name may have
NAMES = (
    *("x" * 82, "x" * 200, "x" * 255, "X" * 255, LONG, "x" * 57, "x" * 58),
    *("\u00e9.png", "e\u0301.png", "\U0001f436.png", "\u05d0\u05d1\u05d2.png", "a\u200bb.png", "ab.png"),
    *("\u202egnp.exe", "a\uff0fb.png"),
    *("a\nb.png", "a\tb.png", "'", '"', "`id`.png", "#.png", "%2e%2e.png", "%s.png", "{0}.png", "a\\b.png", "a;b.png"),
    *("..png", "...", "a..png", "-rf", "--help.png", "-", "_", "__init__", "_info", "_info.json"),
    *("trailing ", " leading"),
    *("trailing.", "x.tar", "a.b.c.jpg", "a__b", "a_b", "A_B", "a b", "a-b", "a+b", "a,b", "a=b", "a&b", "a|b", "<b>"),
    *("con", "CON", "nul.png", "aux", "com1", "lpt9", "img-0123456789", "img-" + 32 * "a", "img-" + 32 * "A"),
    *("0", "00"),
    *("$100k_$.png", "=1+1.png", "@SUM.png", "*.png", "?.png", "~", "[a].png", "$HOME", "\x7f.png", "\x1b[31m.png"),
    *("MANIFEST.json", "index.parquet", "null", "None", "nan", "true", "1e5", "\uff0e\uff0e", "\u2044etc"),
    *("K.png", "\u212a.png"),
)  # fmt: skip


def write_names(folder: Path, pictures: list[bytes], names: tuple[str, ...] = NAMES) -> None:
    """Write a file of each name; the pictures come in turn."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        (folder / name).write_bytes(pictures[number % len(pictures)])
