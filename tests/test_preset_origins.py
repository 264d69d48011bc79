"""Where presets say that their values come from: `paper` stands at what the paper says of that very experiment."""

from collections.abc import Mapping
from typing import Any

import pytest

from clarep_ray.presets import CALIBRATE, DISTILL, EVALUATE, EXTRACT, TRAIN_CDM
from clarep_ray.presets.preset import Preset

EVERY: dict[str, Mapping[str, Any]] = {
    "extract": EXTRACT,
    "calibrate": CALIBRATE,
    "distill": DISTILL,
    "evaluate": EVALUATE,
    "train_cdm": TRAIN_CDM,
}
DIT = {
    *("model.name", "data.fraction", "inversion.num_steps", "inversion.num_refinements", "decoding.guidance_scale"),
}
NMI = {"data.classes", "data.per_class", "decoding.guidance_scale"}
SATURATION = {"saturation.num_steps", "saturation.images_per_class"}
PAPER: dict[tuple[str, str], set[str]] = {
    ("extract", "dit_xl_256"): DIT,  # Sec. 3.4, 4, K.7.6
    ("extract", "sd21"): {
        *("model.name", "model.prompt_template", "spectrum.layer", "features.layer"),  # App. E, H.1, H.2.1
        *("inversion.num_steps", "inversion.num_refinements"),  # Sec. 3.4: both models
    },
    ("extract", "cifar10_unet"): {
        *("model.name", "decoding.guidance_scale", "spectrum.layer"),  # App. E, K.7.6
        *("data.fraction", "inversion.num_refinements"),  # App. G.2: a tenth of CIFAR-10 too
    },
    ("extract", "uvit_256"): {"model.name", "inversion.num_refinements"},  # App. F.2: DDIM
    ("extract", "edm"): {"model.name", "spectrum.layer"},
    ("extract", "edm2"): set(),
    ("extract", "dmdistill_features"): DIT | {"output.what"},
    ("extract", "cfg_samples"): DIT | {"projection.mode"},
    ("extract", "fresh_samples"): {
        *("model.name", "decoding.guidance_scale", "spectrum.layer", "inversion.num_refinements"),
        *("output.what", "data.source"),
    },
    ("calibrate", "dit_xl_256"): {"model.name", "inversion.num_steps", "inversion.num_refinements"} | NMI | SATURATION,
    ("calibrate", "sd21"): {
        *("model.name", "model.prompt_template", "spectrum.layer", "features.layer"),
        *("inversion.num_steps", "inversion.num_refinements"),
    }
    | NMI
    | SATURATION,
    ("calibrate", "uvit_256"): {"model.name"},
    ("calibrate", "cifar10_unet"): {
        *("model.name", "decoding.guidance_scale", "spectrum.layer", "inversion.num_refinements"),
    },
    ("calibrate", "edm"): {"model.name", "spectrum.layer"},
    ("calibrate", "edm2"): set(),
}


def of_paper(preset: Preset[Any]) -> set[str]:
    return {field for field, origin in preset.origins.items() if origin == "paper"}


@pytest.mark.parametrize(("job", "name"), sorted(PAPER))
def test_what_is_the_papers_own(job: str, name: str) -> None:
    assert of_paper(EVERY[job][name]()) == PAPER[job, name]


@pytest.mark.parametrize("job", sorted(EVERY))
def test_nothing_of_embedded_data_or_small_models_is_the_papers(job: str) -> None:
    for name, make in EVERY[job].items():
        small = name.endswith("smoke") or name.startswith(("digits", "rho", "compare"))
        if small:
            assert of_paper(make()) == set(), name
        elif job in ("extract", "calibrate"):
            assert (job, name) in PAPER


def test_a_supcon_run_has_its_own_rate_not_the_papers() -> None:
    assert of_paper(DISTILL["cifar10_supcon"]()) == {
        *("data.source", "val.source", "augment.source_size", "student.image_size", "method", "schedule.epochs"),
    }


def test_targets_are_the_right_rows_of_the_tables() -> None:
    """Clean accuracy of Vanilla and of ours: Tables 1, 13 and 14."""
    rows = {
        "cifar10": ("93.1", "Vanilla 92.4"),
        "cifar10_supcon": ("92.7",),
        "imagenet": ("75.9 clean, as Vanilla",),
        "imagenet100": ("87.5 clean, Vanilla 86.5",),
        "imagenet100_swin": ("84.4 clean, Vanilla 81.8",),
        "imagenet100_fan": ("84.4 clean, Vanilla 84.3",),
    }
    for name, texts in rows.items():
        assert all(text in (DISTILL[name].__doc__ or "") for text in texts), name


def test_a_field_that_is_not_the_papers_is_not_kept_as_such() -> None:
    with pytest.raises(ValueError, match=r"'model\.weights' is not of the paper"):
        EXTRACT["dit_xl_256"]().elsewhere("model.weights")
