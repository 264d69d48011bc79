"""MLflow's own pages, in a headless Chromium, of what runs tell: as `uv run mlflow ui` shows them.

CLAREP_SCREENSHOTS=FOLDER keeps a screenshot of each page.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest

from clarep_ray.config import TrackingConfig
from clarep_ray.tracking import start_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
START_S, PAGE_MS = 120, 60_000
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome on PATH"),
]


@pytest.fixture(scope="module")
def store(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a sweep of two nested trainings, pictures of three epochs and a registered student."""
    folder = tmp_path_factory.mktemp("pages")
    store = Path(shutil.copy(empty_store, folder / "mlflow.db"))
    config = TrackingConfig(uri=f"sqlite:///{store}", experiment="clarep-ray")
    tags = {"preset": "digits", "method": "cadistill"}
    with start_run(config, "sweep of tau", folder / "sweep", job="sweep", fingerprint="a" * 64, tags=tags) as parent:
        parent.note("| tau | accuracy |\n|---|---|\n| 1 | 0.9 |")
        for number in (1, 2):
            options: dict[str, Any] = {"job": "distill", "fingerprint": f"{number}" * 64, "parent": parent.id}
            with start_run(config, f"tau {number}", folder / "sweep" / str(number), tags=tags, **options) as run:
                run.params({"loss.temperature": number})
                run.dataset("spurious_digits", "0123456789abcdef", "/data/digits", "training")
                for epoch in (0, 1, 2):
                    run.metrics({"loss": 1 / (epoch + number)}, step=epoch)
                    grey = np.full((64, 64, 3), 60 * epoch + 60, np.uint8)
                    run.image("contact_sheet", grey, step=epoch)
    client = mlflow.MlflowClient(config.uri)
    client.create_registered_model(config.registered_model)
    client.create_model_version(config.registered_model, str(folder), run_id=client.search_runs(["1"])[0].info.run_id)
    return store


@pytest.fixture(scope="module")
def pages(store: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", f"sqlite:///{store}"]
    command += ["--port", str(port), "--workers", "1"]
    log = (store.parent / "ui.log").open("wb")
    light = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    process = subprocess.Popen(command, cwd=store.parent, stdout=log, stderr=log, start_new_session=True, env=light)
    address, until = f"http://127.0.0.1:{port}", time.monotonic() + START_S
    try:
        while True:
            try:
                urllib.request.urlopen(f"{address}/health", timeout=5).read()
                break
            except OSError:
                assert process.poll() is None, (store.parent / "ui.log").read_text()
                assert time.monotonic() < until, "mlflow ui does not answer"
                time.sleep(0.5)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        log.close()


@pytest.fixture
def page() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        sandbox = [] if os.geteuid() else ["--no-sandbox"]  # Chromium refuses a sandbox to root
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=sandbox)
        opened = browser.new_page(viewport={"width": 1500, "height": 1000})
        opened.set_default_timeout(PAGE_MS)
        yield opened
        browser.close()


def shoot(page: Any, name: str) -> None:
    if folder := os.environ.get("CLAREP_SCREENSHOTS"):
        page.screenshot(path=f"{folder}/{name}.png")


def by_name(store: Path) -> dict[str, Any]:
    runs = mlflow.MlflowClient(f"sqlite:///{store}").search_runs(["1"])
    return {run.info.run_name: run for run in runs}


def open_page(page: Any, address: str, until: str) -> None:
    """Go to a page of MLflow and wait until it shows a text."""
    page.goto(address)
    page.get_by_text(until).first.wait_for()
    if page.get_by_label("Close", exact=True).count():  # MLflow's assistant covers a third of the page
        page.get_by_label("Close", exact=True).first.click()


def test_nested_runs_are_folded_into_their_parent(page: Any, pages: str) -> None:
    open_page(page, f"{pages}/#/experiments/1/runs", "sweep of tau")
    assert page.get_by_text("tau 1", exact=True).count() == 0
    page.get_by_text("3 matching runs").first.wait_for()
    shoot(page, "runs")


def test_a_run_tells_what_it_read_and_where_it_comes_from(page: Any, pages: str, store: Path) -> None:
    run = by_name(store)["tau 2"]
    open_page(page, f"{pages}/#/experiments/1/runs/{run.info.run_id}", "About this run")
    for text in ("spurious_digits", "0123456789abcdef", "loss.temperature", "Parent run", "sweep of tau"):
        page.get_by_text(text).first.wait_for()
    shoot(page, "run")


def test_metrics_are_curves_and_pictures_are_seen(page: Any, pages: str, store: Path) -> None:
    run = by_name(store)["tau 2"]
    open_page(page, f"{pages}/#/experiments/1/runs/{run.info.run_id}/model-metrics", "contact_sheet")
    shown = page.locator("img[src*='contact_sheet']").first
    shown.scroll_into_view_if_needed()
    shown.wait_for()
    box = shown.bounding_box()
    shoot(page, "metrics")
    assert box is not None
    assert min(box["width"], box["height"]) > 60
    assert shown.evaluate("image => image.complete && image.naturalWidth > 0")


def test_a_registered_student_has_its_page(page: Any, pages: str) -> None:
    open_page(page, f"{pages}/#/models/clarep-ray-student", "clarep-ray-student")
    page.get_by_text("Version 1").first.wait_for()
    shoot(page, "model")
