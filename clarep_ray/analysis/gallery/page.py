"""One self-contained HTML file: styles, scripts and data inside, and a policy that forbids everything else."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

from clarep_ray import __version__
from clarep_ray.data.inside import write_inside
from clarep_ray.data.plain_json import without_nan

PACKAGE = "clarep_ray.analysis.gallery"
CHARTS = ("vendor/echarts.min.js", "static/charts.js")
"""Scripts of every page: ECharts as published, and how our charts look."""


def render(template: str, scripts: Sequence[str], payload: Mapping[str, Any], **context: Any) -> str:
    """Return a page: a template of this package, its scripts, and `payload` as JSON for them.

    Everything that comes from data is escaped, as text by the template and as JSON for the scripts. The page's
    Content-Security-Policy runs the scripts of this package alone, by their hashes, and loads nothing from anywhere,
    so that markup in a class or file name could do nothing even if an escape were missed.
    """
    environment = Environment(
        loader=PackageLoader(PACKAGE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["figure"] = figure
    sources = [_text(name) for name in (*CHARTS, *scripts)]
    return environment.get_template(template).render(
        **context,
        payload=htmlsafe_json_dumps(without_nan(payload), dumps=json.dumps, allow_nan=False, separators=(",", ":")),
        style=Markup(_text("static/page.css")),  # our own files: nothing of the data is in them
        scripts=[Markup(source) for source in sources],
        policy="; ".join(
            (
                "default-src 'none'",
                "img-src data:",
                "style-src 'unsafe-inline'",
                f"script-src {' '.join(_hash(source) for source in sources)}",
                "base-uri 'none'",
                "form-action 'none'",
            )
        ),
        version=__version__,
    )


def figure(value: float | None) -> str:
    """Return a number with three decimals, or three digits where those say more; a dash for nothing."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.3f}" if value == 0 or 0.01 <= abs(value) < 1000 else f"{value:.3g}"


def _text(name: str) -> str:
    return files(PACKAGE).joinpath(name).read_text(encoding="utf-8")


def _hash(source: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"


def write(page: str, path: Path) -> None:
    """Write a page in one step, so that a browser never sees half of it."""
    write_inside(path.parent, path.name, page.encode())
