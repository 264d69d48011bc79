"""Names in figures are written as they are, and none of them takes the place of what it names."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from clarep_ray.analysis.calibration_figures import picture_sheet
from clarep_ray.analysis.evaluation_figures import Bar, attack_bars, corruption_bars
from clarep_ray.analysis.figures import contact_sheet, literal
from clarep_ray.analysis.outputs import ExtractionOutput
from tests.analysis.made_output import made_output

NAMES = (
    *("$100k_$", "$x^$ $\\frac$", r"\$a\$", "_hidden", "<script>alert(1)</script>", "|", "-", " ", "%s {0}", "x" * 400),
    *("a\nb\tc", "\u202egnp", "\u05d0\u05d1", "\u00e9", "e\u0301", "=1+1", "\x1b[31m", "$", "$$"),
)


def drawn(figure: Figure, tmp_path: Path) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a layout that found no room is a warning
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        figure.savefig(tmp_path / "figure.png", dpi=50)
    return (tmp_path / "figure.png").read_bytes()


def test_any_name_is_written_as_it_is_short_and_on_one_line() -> None:
    assert literal("$100k_$") == r"\$100k_\$"
    assert literal("_hidden") == " _hidden"
    assert literal("a\nb\u202e") == r"a\nb\u202e"
    assert len(literal("x" * 400)) == 80


def test_class_names_of_any_kind_stand_beside_their_images(tmp_path: Path) -> None:
    folder = made_output(tmp_path / "out", classes=NAMES, count=len(NAMES), edge=8, extras=("original",))
    sheet = contact_sheet(ExtractionOutput(folder))
    assert len(sheet.axes) == len(NAMES), "one image a class: no white columns"
    assert drawn(sheet, tmp_path)
    widths = [axis.get_window_extent().width for axis in sheet.axes]
    assert min(widths) > 0.3 * max(widths) > 0
    pixels = {"labels": np.arange(len(NAMES)), "made": np.zeros((len(NAMES), 8, 8, 3), np.uint8)}
    figure = picture_sheet(pixels, {"made": "made"}, NAMES)
    assert figure is not None
    assert drawn(figure, tmp_path)


@pytest.mark.parametrize("names", [NAMES[:4], NAMES[4:8]])
def test_models_slices_and_attacks_of_any_name_are_bars_with_a_legend(names: tuple[str, ...], tmp_path: Path) -> None:
    bar = Bar(0.5, 0.4, 0.6, 10, 0.9)
    figure = attack_bars({model: {part: dict.fromkeys(names, bar) for part in names} for model in names}, names[0])
    legend = figure.axes[0].get_legend()
    assert legend is not None
    assert [text.get_text().partition(" (n =")[0] for text in legend.get_texts() if "(n =" in text.get_text()] == [
        literal(name) for name in names
    ]
    assert drawn(figure, tmp_path)
    assert drawn(corruption_bars({model: {f"{n}/1": 0.5 for n in names} for model in names}, names[1]), tmp_path)
