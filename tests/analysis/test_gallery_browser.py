"""The page of an extraction as a reader uses it, in a headless Chromium."""

from pathlib import Path
from typing import Any

import pytest

from clarep_ray.analysis.gallery import write_extraction_page
from tests.analysis.browsing import needs_chromium, no_sideways_scroll, opened
from tests.analysis.made_output import made_output
from tests.analysis.test_gallery import HOSTILE, with_step

pytestmark = [pytest.mark.browser, needs_chromium]
COUNT, STEPS = 61, (0, 4, 9)


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """61 samples of three classes, one with markup for a name, decoded at three k; one is a reject at k = 9."""
    folder = tmp_path_factory.mktemp("gallery") / "out"
    how: dict[str, Any] = {"count": COUNT, "classes": ("cat", "dog", HOSTILE)}
    made_output(folder, **how)
    for k in STEPS:
        with_step(folder, k, **how, rejected=[1] if k == 9 else [])
    return write_extraction_page(folder)


def cards(page: Any) -> list[str]:
    return page.locator(".card-id").all_text_contents()


def test_filters_by_class_flag_k_and_name(page_file: Path) -> None:
    with opened(page_file) as page:
        assert page.locator("#count").text_content() == "61 samples"
        page.locator("[name=class]").select_option(label="dog (20)")
        assert cards(page)[:2] == ["sample-0001", "sample-0004"]
        page.locator(".tile", has_text="cat").click()
        assert cards(page)[:2] == ["sample-0000", "sample-0003"]
        assert page.locator("[name=class]").input_value() == "0"
        page.locator("[name=flag]").select_option("not_converged")
        assert cards(page) == ["sample-0000", "sample-0021", "sample-0042"]
        page.locator("[name=least]").fill("2")
        page.locator("[name=most]").fill("2")
        assert cards(page) == ["sample-0021"]
        page.locator("[name=find]").fill("nothing like it")
        assert page.locator("#empty").is_visible()
        page.locator("#empty-reset").click()
        assert page.locator("#count").text_content() == "61 samples"
        page.locator("[name=order]").select_option("residual")
        assert cards(page)[0] == "sample-0060"


def test_pages_hold_few_elements_and_turn(page_file: Path) -> None:
    with opened(page_file) as page:
        assert page.locator(".card").count() == 24
        page.locator("#next-page").click()
        assert cards(page)[0] == "sample-0024"
        page.locator("#next-page").click()
        assert page.locator(".card").count() == 13
        assert page.locator("#next-page").is_disabled()
        assert page.locator("#page-number").text_content() == "page 3 of 3"


def test_the_keyboard_alone_is_enough(page_file: Path) -> None:
    with opened(page_file) as page:
        title, press = page.locator("#sample-id"), page.keyboard.press
        page.locator(".card").first.focus()
        press("ArrowRight")
        press("ArrowDown")
        press("Enter")
        assert page.locator("#sample").is_visible()
        at = int(str(title.text_content())[-4:])
        assert at > 1  # one to the right and one row down
        press("ArrowRight")
        assert title.text_content() == f"sample-{at + 1:04d}"
        assert page.url.endswith(f"#sample-{at + 1:04d}")
        press("ArrowLeft")
        press("ArrowLeft")
        press("Escape")
        assert not page.locator("#sample").is_visible()
        # The dialog hands the focus back to where it was opened; its own event, a moment later, to where its reader is.
        page.wait_for_function(f"document.activeElement.dataset.position === '{at - 1}'")
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid"  # the focus can be seen


def test_arrows_turn_the_page_at_its_end_and_stop_at_the_last_sample(page_file: Path) -> None:
    with opened(page_file) as page:
        page.locator(".card").nth(23).focus()
        page.keyboard.press("ArrowRight")
        assert page.evaluate("document.activeElement.dataset.position") == "24"
        assert page.locator("#page-number").text_content() == "page 2 of 3"
    with opened(page_file, at="#sample-0060") as page:
        assert page.locator("#sample-next").is_disabled()
        page.keyboard.press("ArrowRight")
        assert page.locator("#sample-id").text_content() == "sample-0060"


def test_the_slider_changes_the_canonical_picture_everywhere(page_file: Path) -> None:
    with opened(page_file, at="#sample-0001") as page:
        shown = page.locator("#sample-pictures img")
        own, original = shown.last.get_attribute("src"), shown.first.get_attribute("src")
        slider = page.locator("#sample input[type=range]")
        slider.focus()
        page.keyboard.press("ArrowRight")
        assert slider.get_attribute("aria-valuetext") == "k = 0 for every sample"
        page.keyboard.press("ArrowRight")
        assert page.locator("#sample-id").text_content() == "sample-0001"  # the slider keeps its arrows
        assert page.locator("#sample-pictures strong").last.text_content() == "canonical, k = 4"
        assert shown.last.get_attribute("src") != own
        assert shown.first.get_attribute("src") == original
        assert "removed at k = 4" in page.locator("#spectrum").inner_html()
        page.locator("#film button").last.click()
        assert page.locator("#sample-pictures .missing").text_content() == "rejected"
        page.keyboard.press("Escape")
        assert page.locator(".filters ~ .stepper output").text_content() == "k = 9 for every sample"
        assert page.locator(".card").nth(1).locator(".missing").count() == 1
        assert page.locator(".card").nth(2).locator(".missing").count() == 0


def test_a_sample_says_what_its_numbers_mean(page_file: Path) -> None:
    with opened(page_file, at="#sample-0021") as page:
        numbers = page.locator("#sample-numbers").inner_text()
        for phrase in ("directions removed", "ambiguous elbow", "not converged", "largest relative residual"):
            assert phrase in numbers
        label = str(page.locator("#spectrum").get_attribute("aria-label"))
        assert label.startswith("Explained-variance ratio of 12 directions")
        assert label.endswith("k is 2")


def test_markup_in_a_class_name_is_shown_as_text(page_file: Path) -> None:
    with opened(page_file, at="#sample-0002") as page:  # `opened` fails on a dialog or a blocked script
        assert page.locator("#sample-title").text_content() == HOSTILE
        assert page.locator("img[onerror]").count() == 0


ASKS = "fetch('http://127.0.0.1:9/').catch(() => 0)"
RUNS = "document.body.append(Object.assign(document.createElement('script'), {text: 'console.log(1)'}))"


@pytest.mark.parametrize("attempt", [ASKS, RUNS])
def test_the_policy_lets_nothing_out_and_no_other_script_run(page_file: Path, attempt: str) -> None:
    with (
        pytest.raises(AssertionError, match="violates the following Content Security Policy"),
        opened(page_file) as page,
    ):
        page.evaluate(attempt)


def test_every_picture_has_words_and_every_field_a_label(page_file: Path) -> None:
    with opened(page_file, at="#sample-0003") as page:
        alone = "[...document.querySelectorAll('img')].filter((i) => !i.alt && !i.closest('button').textContent.trim())"
        assert page.evaluate(f"{alone}.length") == 0
        unnamed = "[...document.querySelectorAll('input, select')].filter((field) => !field.labels.length)"
        assert page.evaluate(f"{unnamed}.length") == 0
        alt = page.locator("#sample-pictures img").first.get_attribute("alt")
        assert alt == "original of sample-0003, class cat"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_fits_phones_and_follows_the_colour_scheme(page_file: Path, width: int, scheme: str) -> None:
    with opened(page_file, width=width, scheme=scheme) as page:
        assert no_sideways_scroll(page)
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, background[4:-1].split(","))) > 384) == (scheme == "light")
        page.locator(".card").first.click()
        inside = "document.getElementById('sample').scrollWidth <= document.getElementById('sample').clientWidth"
        assert page.evaluate(inside)
        other = "dark" if scheme == "light" else "light"
        before = page.locator("#spectrum svg").inner_html()
        page.emulate_media(color_scheme=other)
        page.wait_for_function("(old) => document.querySelector('#spectrum svg').innerHTML !== old", arg=before)
