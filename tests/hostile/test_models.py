"""Hostile model folders, students, classifiers and checkpoints: a typed error that names the folder, in time."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.hostile import floods
from tests.hostile.judge import Verdict, judge
from tests.hostile.settings import CORRUPT, replaced, spoiled


def digits_dit(folder: Path) -> None:
    from tests.cluster.reference import tiny_weights

    tiny_weights(folder)


def class_unet(folder: Path) -> None:
    from clarep_ray import models
    from clarep_ray.models import class_unet as family
    from clarep_ray.models.cdm_labels import CdmLabels

    tiny: Any = models.build_tiny("class_unet")
    family.save(tiny.network, "epsilon", CdmLabels(class_names=tuple("0123456789"), label_dropout=0.0), folder)


def uvit(folder: Path) -> None:
    from clarep_ray import models
    from clarep_ray.models import uvit as family

    family.save(models.build_tiny("uvit"), folder)  # type: ignore[arg-type]


def edm(folder: Path) -> None:
    from clarep_ray import models
    from clarep_ray.models.edm_folder import save_network

    tiny: Any = models.build_tiny("edm")
    save_network(tiny.network.state_dict(), tiny.network.sizes, folder)


def stable_diffusion(folder: Path) -> None:
    from tests.models.test_diffusers_folders import write_stable_diffusion

    write_stable_diffusion(folder)


def student(folder: Path) -> None:
    from clarep_ray.models.students import Architecture, make_student, save_student

    names = tuple(str(i) for i in range(10))
    made = Architecture(name="small_cnn", class_names=names, image_size=16, mean=(0.5,) * 3, std=(0.5,) * 3)
    save_student(make_student(made), folder)


def timm_folder(folder: Path) -> None:
    import timm
    from timm.models import save_for_hf

    network = timm.create_model("test_vit", num_classes=10)
    arguments = {"num_classes": 10, "model_args": {"depth": 6}}
    save_for_hf(network, folder, model_config=arguments, safe_serialization=True)


FOLDERS: dict[str, tuple[Callable[[Path], None], list[tuple[str, str, tuple[str, ...]]]]] = {
    "digits_dit": (
        digits_dit,
        [
            (
                "config.json",
                "model.safetensors",
                ("hidden_size", "num_blocks", "image_size", "class_names", "pixel_range"),
            )
        ],
    ),
    "class_unet": (
        class_unet,
        [
            (
                "unet/config.json",
                "unet/diffusion_pytorch_model.safetensors",
                ("layers_per_block", "num_class_embeds", "block_out_channels", "sample_size"),
            )
        ],
    ),
    "uvit": (uvit, [("config.json", "model.safetensors", ("depth", "embed_dim", "img_size", "mlp_ratio"))]),
    "edm": (edm, [("config.json", "model.safetensors", ("num_blocks", "model_channels", "channel_mult"))]),
    "stable_diffusion": (
        stable_diffusion,
        [("text_encoder/config.json", "text_encoder/model.safetensors", ("num_hidden_layers", "hidden_size"))],
    ),
    "student": (student, [("config.json", "model.safetensors", ("image_size", "name", "class_names", "mean"))]),
    "timm": (timm_folder, [("config.json", "model.safetensors", ("architecture", "num_classes"))]),
}
"""Family -> what writes a good folder, and (config, weights, sizes) of what is spoiled in it."""
HARMLESS = {"sample_size", "num_classes 0", "image_size"}
"""Replaced sizes that some value leaves a working network: what the folder then is, its owner has said."""


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    found: dict[str, Path] = {}
    torch.manual_seed(0)
    for family, (write, _) in FOLDERS.items():
        found[family] = tmp_path_factory.mktemp(family) / "good"
        write(found[family])
    return found


def test_every_model_folder_is_refused(good: dict[str, Path], tmp_path: Path) -> None:
    cases: list[tuple[str, str, Path]] = []
    for family, (_, parts) in FOLDERS.items():
        cases.append((family, "good", good[family]))
        for config, weights, sizes in parts:
            every = 5 if family == "stable_diffusion" else 1  # the slowest to load
            made = spoiled(good[family], tmp_path / family, config, weights, sizes, every)
            cases += [(family, label, folder) for label, folder in made]
    assert len(cases) > 150
    verdicts = judge([(family, folder) for family, _, folder in cases])
    wrong = [line(label, v) for (_, label, _), v in zip(cases, verdicts, strict=True) if not right(label, v)]
    assert not wrong, "\n".join(wrong)


def right(label: str, verdict: Verdict) -> bool:
    if label == "good":
        return verdict.outcome == "read"
    harmless = verdict.outcome == "read" and any(label.startswith(name) for name in HARMLESS)
    refused = verdict.outcome == "refused" and "red\\nline" in verdict.message and verdict.message.isprintable()
    return verdict.within and (refused or harmless) and len(verdict.message) < 1500


def line(label: str, verdict: Verdict) -> str:
    return f"{label}: {verdict.line}"[:600]


def test_schedulers_names_and_tokenizers_are_refused(good: dict[str, Path], tmp_path: Path) -> None:
    path = "scheduler/scheduler_config.json"
    settings = json.loads((good["class_unet"] / path).read_bytes())
    changes: list[dict[str, Any]] = [
        *({"num_train_timesteps": value} for value in (10**9, -5, "x", [1])),
        *({"beta_start": value} for value in (float("nan"), 1e308, "0.1", None)),
        *({"trained_betas": value} for value in (["x"], [[0.1]], [2.0, 3.0], "0.1")),
        {"prediction_type": "\x1b[2J"},
    ]
    made = [(path, json.dumps(settings | change).encode()) for change in changes]
    corrupt = {name: data for name, data in CORRUPT.items() if name != "control characters"}
    made += [(name, data) for name in (path, "class_names.json") for data in corrupt.values()]
    cases = [("class_unet", replaced(good["class_unet"], tmp_path / "s", name, data)) for name, data in made]
    names = ("vocab.json", "tokenizer_config.json")
    cases += [
        ("stable_diffusion", replaced(good["stable_diffusion"], tmp_path / "t", f"tokenizer/{name}", corrupt[label]))
        for name in names
        for label in ("a list", "9 MB of zeros", "a pickle", "nested 100,000 deep")
    ]
    verdicts = judge([("class_unet", good["class_unet"]), *cases])
    assert verdicts[0].outcome == "read"
    wrong = [verdict.line[:600] for verdict in verdicts[1:] if not right("", verdict)]
    assert not wrong, "\n".join(wrong)


def test_no_flood_of_tensors_takes_long_or_much(tmp_path: Path) -> None:
    made = {name: flood for name, flood in floods.weights().items() if name not in floods.NIGHTLY}
    assert len(made) > 5
    faults = floods.faults(made, tmp_path)
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("nightly", [False, pytest.param(True, marks=pytest.mark.nightly)])
def test_no_setting_builds_what_is_not_stored_or_names_code(
    nightly: bool, good: dict[str, Path], tmp_path: Path
) -> None:
    """Tokenizers, encoders, networks and schedules that a few numbers make endless, and kernels of a hub."""
    every = floods.spoiled(good, tmp_path / "spoiled")
    cases = {name: case for name, case in every.items() if (name in floods.NIGHTLY) == nightly}
    assert len(cases) > 15
    verdicts = judge([*((family, good[family]) for family in FOLDERS), *cases.values()])[len(FOLDERS) :]
    wrong = [line(name, verdict) for name, verdict in zip(cases, verdicts, strict=True) if not right(name, verdict)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("depth", [0, 2])
def test_a_config_that_names_kernels_or_packages_is_refused(
    depth: int, good: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The libraries would fetch `attn_implementation: ORG/NAME` from the Hub and run it, whatever trust says."""
    from transformers import CLIPTextModel

    from clarep_ray.models import diffusers_folder, weight_files

    settings = json.loads((good["stable_diffusion"] / "text_encoder/config.json").read_bytes())

    def load(more: dict[str, Any], label: str) -> None:
        for _ in range(depth):
            more = {"text_config": more}
        data = json.dumps(settings | more).encode()
        folder = replaced(good["stable_diffusion"], tmp_path / label, "text_encoder/config.json", data)
        diffusers_folder.load_component(CLIPTextModel, str(folder), "text_encoder", "float32")

    if not depth:
        load({"attn_implementation": "sdpa"}, "plain")
    monkeypatch.setattr(diffusers_folder, "check_fits", lambda *_: pytest.fail("the network was built"))
    for name in weight_files.FOREIGN:
        for number, value in enumerate(["evil/kernel", "paged|evil/kernel", {"quant_method": "evil"}, True, ["evil"]]):
            with pytest.raises(ValueError, match=rf"config\.json': {name} is .*; valid: None") as error:
                load({name: value}, f"{name}-{number}")
            assert len(str(error.value)) < 800
