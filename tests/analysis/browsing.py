"""A headless Chromium on a page of the gallery; whatever it complains about or asks the network for is an error."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome on PATH")


@contextmanager
def opened(file: Path, width: int = 1280, height: int = 900, scheme: Any = "light", at: str = "") -> Iterator[Any]:
    """Yield a page on a file; on leaving, fail on any console message, error or request to a network."""
    from playwright.sync_api import sync_playwright

    heard: list[str] = []
    with sync_playwright() as playwright:
        sandbox = [] if os.geteuid() else ["--no-sandbox"]  # Chromium refuses a sandbox to root
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=sandbox)
        page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
        page.on("console", lambda message: heard.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: heard.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (heard.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: heard.append(request.url) if is_foreign(request.url) else None)
        page.goto(file.resolve().as_uri() + at)
        yield page
        browser.close()
    assert not heard, "; ".join(heard)


def is_foreign(url: str) -> bool:
    return not url.startswith(("file:", "data:"))


def no_sideways_scroll(page: Any) -> bool:
    """Say whether the page fits the width of its window."""
    return page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
