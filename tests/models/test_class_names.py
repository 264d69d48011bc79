"""What a folder of weights says of its classes is read wherever it lies; what it does not say is not assumed."""

import json
from pathlib import Path
from typing import Any

import pytest

from clarep_ray import models
from clarep_ray.config import ModelConfig
from clarep_ray.data.class_list import ClassList, imagenet_wnids
from clarep_ray.models.class_names import read_classes
from tests.models.test_diffusers_folders import DIT_SCHEDULER, write_scheduler

PETS = {"2": "dog", "0": "cat", "1": "cow, ox"}


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("class_names.json", ["cat", "cow, ox", "dog"]),
        ("class_names.json", PETS),
        ("class_names.json", {"class_names": ["cat", "cow, ox", "dog"], "label_dropout": 0.1}),
        ("model_index.json", {"_class_name": "DiTPipeline", "id2label": PETS}),
        ("config.json", {"id2label": PETS, "num_classes": 3}),
        ("transformer/config.json", {"id2label": PETS}),
        ("unet/config.json", {"id2label": PETS}),
        ("config.json", {"architecture": "resnet18", "label_names": ["cat", "cow, ox", "dog"]}),
        ("config.json", {"architecture": "resnet18", "pretrained_cfg": {"label_names": ["cat", "cow, ox", "dog"]}}),
    ],
)
def test_names_are_read_wherever_they_are(tmp_path: Path, name: str, content: Any) -> None:
    write(tmp_path / name, content)
    assert read_classes(tmp_path, 3) == ClassList(("cat", "cow, ox", "dog"))


def test_ten_classes_without_names_have_none_and_a_thousand_are_imagenets(tmp_path: Path) -> None:
    assert read_classes(tmp_path, 10) == ClassList.of_count(10)
    assert read_classes(tmp_path, 1000) == ClassList(imagenet_wnids(), assumed=True)
    write(tmp_path / "config.json", {"id2label": {"0": "LABEL_0", "1": "LABEL_1"}})
    assert not read_classes(tmp_path, 2).named
    write(tmp_path / "class_names.json", ["owl", "fox"])  # a number in one file is no name against another's
    assert read_classes(tmp_path, 2).names == ("owl", "fox")
    for family in ("class_unet", "edm", "edm2", "uvit"):
        assert not models.build_tiny(family).classes.named, family
    assert models.build_tiny("digits_dit").classes.named


def test_files_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "class_names.json", ["tench", "goldfish"])
    write(tmp_path / "config.json", {"id2label": {"0": "n01440764", "1": "n01443537"}})
    assert read_classes(tmp_path, 2).names == ("tench", "goldfish")
    write(tmp_path / "config.json", {"id2label": {"1": "n01440764", "0": "n01443537"}})
    with pytest.raises(ValueError, match=r"model\.weights: .*config\.json' has the classes 'n01443537'"):
        read_classes(tmp_path, 2)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"id2label": {"0": "a", "2": "b"}}, "labels '0', '2' are not 0 to 1"),
        ({"id2label": "imagenet"}, "it is no list of names"),
        ({"label_names": [["a"], ["b"]]}, "it is no list of names"),
        ({"id2label": {"0": "a"}}, "names 1 classes; valid: 2"),
        ({"id2label": {str(i): "x" * 9999 for i in range(500)}}, "names 500 classes"),
    ],
)
def test_names_that_are_none_are_refused_in_one_short_line(tmp_path: Path, content: Any, words: str) -> None:
    write(tmp_path / "config.json", content)
    with pytest.raises(ValueError, match=words) as caught:
        read_classes(tmp_path, 2)
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)


def test_a_dit_has_the_names_of_its_model_index(tmp_path: Path) -> None:
    tiny: Any = models.build_tiny("dit")
    tiny.network.save_pretrained(tmp_path / "transformer")
    tiny.autoencoder.vae.save_pretrained(tmp_path / "vae")
    write_scheduler(tmp_path / "scheduler", DIT_SCHEDULER)
    config = ModelConfig(name="dit", weights=str(tmp_path))
    assert models.build(config).classes.assumed
    names = [f"thing {number}" for number in range(1000)]
    write(tmp_path / "model_index.json", {"id2label": {str(i): name for i, name in reversed(list(enumerate(names)))}})
    assert models.build(config).class_names == tuple(names)
    write(tmp_path / "model_index.json", {"id2label": {"0": "tench"}})
    with pytest.raises(ValueError, match="names 1 classes; valid: 1000"):
        models.build(config)


@pytest.mark.parametrize("family", ["edm", "uvit"])
def test_sizes_and_names_share_a_config(tmp_path: Path, family: str) -> None:
    from clarep_ray.models import edm, uvit

    tiny: Any = models.build_tiny(family)
    {"edm": edm, "uvit": uvit}[family].save(tiny, tmp_path)
    sizes = json.loads((tmp_path / "config.json").read_text())
    config = ModelConfig(name=family, weights=str(tmp_path))
    assert not models.build(config).classes.named
    before = models.weights_sha256(config)
    write(tmp_path / "config.json", sizes | {"id2label": {str(i): f"kind {i}" for i in range(10)}})
    assert models.build(config).class_names[3] == "kind 3"
    assert models.weights_sha256(config) != before


def test_prompts_meet_the_data_by_meaning(tmp_path: Path) -> None:
    """The keys of a prompt file may be names where the folders are WordNet ids, in whatever order."""
    from clarep_ray.data.class_list import match
    from clarep_ray.models.stable_diffusion import read_prompts

    write(tmp_path / "prompts.json", {"goldfish": "a goldfish", "tench": "a tench"})
    config = ModelConfig(name="stable_diffusion", weights="tiny", prompts=str(tmp_path / "prompts.json"))
    classes = ClassList.of_names(tuple(read_prompts(config)))
    assert match(ClassList(("n01440764", "n01443537")), classes, "the data", "the prompts").labels == (1, 0)
