"""The page of a sweep: what counts, which trials are on the front, and the charts as a reader uses them."""

import csv
import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clarep_ray.analysis.gallery import is_sweep, write_sweep_page
from clarep_ray.analysis.gallery.sweep_table import read_sweep
from tests.analysis.browsing import needs_chromium, no_sideways_scroll, opened
from tests.analysis.test_gallery import HOSTILE, data_of

FIELDS = ("spectrum.num_directions", "elbow.rule")
SEEDS = (0, 1, 2)


def sweep(folder: Path, mode: str = "max", spoil: dict[tuple[str, int], str] | None = None) -> Path:
    """Write a sweep of twelve trials, three seeds each; `spoil` is {(trial, seed): status or "absent"}."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    with (folder / "trials.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("trial", "status", "seed", *FIELDS, "metric/clean", "metric/robust", "wall_s", "reason"))
        for i, (window, rule) in enumerate(itertools.product((5, 10, 20, 50), ("kneed", "chord", HOSTILE))):
            clean, robust = 0.5 + 0.3 * rng.random(), 0.3 + 0.3 * rng.random()
            for seed in SEEDS:
                status = (spoil or {}).get((f"t{i:02d}", seed), "ok")
                values = (f"{clean + 0.01 * seed:.6g}", f"{robust:.6g}") if status == "ok" else ("nan", "")
                if status != "absent":
                    reason = "" if status == "ok" else f"why: {HOSTILE}"
                    writer.writerow((f"t{i:02d}", status, seed, window, rule, *values, "1.5", reason))
    about = {"name": "window", "metric": "clean", "mode": mode, "fields": FIELDS, "metrics": ["clean", "robust"]}
    (folder / "sweep.json").write_text(json.dumps(about | {"seeds": SEEDS}))
    return folder


SPOILT = {("t03", 1): "failed", ("t05", 0): "nan", ("t05", 1): "nan", ("t05", 2): "nan", ("t07", 2): "absent"}


def test_means_and_deviations_are_over_seeds(tmp_path: Path) -> None:
    table = read_sweep(sweep(tmp_path / "sweep"))
    trial = table.trials[0]
    assert len(table.trials) == 12
    assert trial.metrics["clean"][2] - trial.metrics["clean"][0] == pytest.approx(0.02)
    record = data_of(write_sweep_page(tmp_path / "sweep"))["trials"][0]
    assert record["values"][2] == pytest.approx(np.mean(trial.metrics["clean"]))
    assert record["std"][2] == pytest.approx(0.01)


@pytest.mark.parametrize("mode", ["max", "min"])
def test_columns_of_which_less_is_better_say_so(tmp_path: Path, mode: str) -> None:
    folder = sweep(tmp_path / "sweep", mode)
    rows = (folder / "trials.csv").read_text().replace("metric/robust", "metric/background_kept", 1)
    (folder / "trials.csv").write_text(rows)
    goals = {column["name"]: column["goal"] for column in data_of(write_sweep_page(folder))["columns"]}
    assert goals["clean"] == mode, "what the sweep is judged by"
    assert (goals["background_kept"], goals["wall_s"], goals["spectrum.num_directions"]) == ("min", "min", "max")


@pytest.mark.parametrize("mode", ["max", "min"])
def test_the_best_is_complete_however_good_a_spoilt_trial_looks(tmp_path: Path, mode: str) -> None:
    plain = read_sweep(sweep(tmp_path / "plain", mode))
    means = {trial.name: trial.mean("clean") for trial in plain.trials}
    best = max(means, key=lambda name: means[name]) if mode == "max" else min(means, key=lambda name: means[name])
    assert plain.best is not None
    assert plain.best.name == best
    spoilt = read_sweep(sweep(tmp_path / "spoilt", mode, {(best, 1): "failed"}))
    assert spoilt.best is not None
    assert spoilt.best.name != best


def test_spoilt_trials_are_rows_that_say_what_happened(tmp_path: Path) -> None:
    trials = {trial.name: trial for trial in read_sweep(sweep(tmp_path / "sweep", spoil=SPOILT)).trials}
    assert trials["t03"].status == "2 ok, 1 failed"
    assert trials["t05"].status == "nan"
    assert trials["t07"].status == "2 ok, 1 missing"
    assert math.isnan(trials["t05"].mean("clean"))
    assert [name for name, trial in trials.items() if not trial.complete] == ["t03", "t05", "t07"]


def test_a_sweep_without_a_good_trial_has_a_page_without_a_best(tmp_path: Path) -> None:
    all_bad = {(f"t{i:02d}", seed): "failed" for i in range(12) for seed in SEEDS}
    page = write_sweep_page(sweep(tmp_path / "sweep", spoil=all_bad))
    assert data_of(page)["best"] is None
    assert "No trial is complete" in page.read_text()


def test_what_is_no_sweep_is_refused_with_what_is_missing(tmp_path: Path) -> None:
    folder = sweep(tmp_path / "sweep")
    about = json.loads((folder / "sweep.json").read_text())
    for change, message in (
        ({"mode": "most"}, r"sweep\.json: mode: 'most' is not valid; valid: max, min"),
        ({"metric": "loss"}, r"trials\.csv: columns: .* valid: also metric/loss"),
        ({"fields": ["seed.of"]}, r"also seed\.of"),
    ):
        (folder / "sweep.json").write_text(json.dumps(about | change))
        with pytest.raises(ValueError, match=message):
            write_sweep_page(folder)
    (folder / "sweep.json").write_text("[]")
    assert is_sweep(folder)
    with pytest.raises(ValueError, match="is no sweep"):
        write_sweep_page(folder)


def front_of(data: dict[str, Any], x: int, y: int, signs: tuple[int, int]) -> set[str]:
    """Return the front by comparing every pair."""
    points = {
        t["name"]: (signs[0] * t["values"][x], signs[1] * t["values"][y]) for t in data["trials"] if t["complete"]
    }
    beaten = {
        a for (a, p), (_, q) in itertools.permutations(points.items(), 2) if q[0] >= p[0] and q[1] >= p[1] and q != p
    }
    return points.keys() - beaten


@pytest.mark.browser
@needs_chromium
@pytest.mark.parametrize(("goals", "signs"), [(("max", "max"), (1, 1)), (("max", "min"), (1, -1))])
def test_the_front_is_what_no_other_trial_beats(tmp_path: Path, goals: Any, signs: Any) -> None:
    file = write_sweep_page(sweep(tmp_path / "sweep", spoil=SPOILT))
    data = data_of(file)
    with opened(file) as page:
        page.locator("[name=xgoal]").select_option(goals[0])
        page.locator("[name=ygoal]").select_option(goals[1])
        found = page.evaluate(
            f"gallery.front(2, 3, {goals[0]!r}, {goals[1]!r}).map((at) => gallery.data.trials[at].name)"
        )
        expected = front_of(data, 2, 3, signs)
        assert set(found) == expected
        text = page.locator("#front-text").text_content()
        assert text == f"{len(expected)} of 9 trials are on the front of clean and robust."


@pytest.mark.browser
@needs_chromium
def test_the_table_sorts_and_keeps_spoilt_trials_last(tmp_path: Path) -> None:
    file = write_sweep_page(sweep(tmp_path / "sweep", spoil=SPOILT))
    with opened(file) as page:
        names = page.locator("#trials tbody tr")
        order = [
            row["data-trial"]
            for row in names.evaluate_all(
                "(rows) => rows.map((row) => ({...row.attributes, 'data-trial': row.dataset.trial}))"
            )
        ]
        means = {trial["name"]: trial["values"][2] for trial in data_of(file)["trials"] if trial["complete"]}
        assert order[:9] == sorted(means, key=lambda name: -means[name])
        assert set(order[9:]) == {"t03", "t05", "t07"}
        assert page.locator("#trials tbody tr").first.locator(".best").count() == 1
        page.locator("#trials thead button", has_text="clean").click()
        assert names.first.get_attribute("data-trial") == min(means, key=lambda name: means[name])
        assert names.last.get_attribute("data-trial") in {"t03", "t05", "t07"}
        assert HOSTILE in page.locator("#trials").inner_text()


@pytest.mark.browser
@needs_chromium
def test_a_field_that_a_trial_does_not_set_is_a_dash_and_values_are_in_order(tmp_path: Path) -> None:
    folder = sweep(tmp_path / "sweep")
    text = (folder / "trials.csv").read_text()
    (folder / "trials.csv").write_text(text.replace("t00,ok,0,5,", "t00,ok,0,,"))
    with opened(write_sweep_page(folder)) as page:
        assert page.locator("tr[data-trial=t00] td").first.text_content() == "–"
        axes = "echarts.getInstanceByDom(document.getElementById('parallel')).getOption().parallelAxis"
        assert page.evaluate(f"{axes}[0].data") == ["–", "5", "10", "20", "50"]


@pytest.mark.browser
@needs_chromium
def test_a_range_on_an_axis_keeps_its_trials_in_the_table(tmp_path: Path) -> None:
    file = write_sweep_page(sweep(tmp_path / "sweep"))
    with opened(file) as page:
        chart = page.locator("#parallel")
        chart.scroll_into_view_if_needed()
        box = chart.bounding_box()
        page.mouse.move(box["x"] + 60, box["y"] + 45)  # the first axis: M from its top, 50, downwards
        page.mouse.down()
        page.mouse.move(box["x"] + 60, box["y"] + 45 + (box["height"] - 76) / 4, steps=6)
        page.mouse.up()
        page.wait_for_function("document.getElementById('count').textContent === '3 of 12 trials'")
        assert page.locator("#trials tbody tr td:nth-child(2)").all_text_contents() == ["50"] * 3
        page.locator("#clear").click()
        assert page.locator("#count").text_content() == "12 trials"


@pytest.mark.browser
@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_fits_phones(tmp_path: Path, width: int, scheme: str) -> None:
    with opened(write_sweep_page(sweep(tmp_path / "sweep", spoil=SPOILT)), width=width, scheme=scheme) as page:
        assert no_sideways_scroll(page)
        page.locator("#trials tbody button").first.click()
        assert page.locator("tr.marked").count() == 1
        for chart in ("#front", "#parallel"):
            assert page.locator(f"{chart} svg path").count() > 10
