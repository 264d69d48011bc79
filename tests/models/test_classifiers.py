"""Classifiers that judge: timm folders in the hub's layout, the shipped one, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from clarep_ray.models.classifiers import check_classifiers, classifier_name, classifiers_sha256, load_classifiers


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small timm model in ten classes, as `save_for_hf` writes it."""
    import timm
    from timm.models import save_for_hf

    torch.manual_seed(0)
    network = timm.create_model("resnet10t", num_classes=10)
    path = tmp_path_factory.mktemp("judges") / "resnet10t.test"
    save_for_hf(network, path, model_config={"num_classes": 10}, safe_serialization=True)
    return path


def test_a_timm_folder_judges_with_its_own_preprocessing(folder: Path) -> None:
    import timm
    from PIL import Image

    images = np.random.default_rng(0).integers(0, 256, (6, 48, 48, 3), np.uint8)
    network = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(network), is_training=False)
    with torch.no_grad():
        expected = network(torch.stack([transform(Image.fromarray(image)) for image in images])).argmax(1)
    (judge,) = load_classifiers([str(folder)])
    assert judge.predict(images).tolist() == expected.tolist()
    assert classifier_name(str(folder)) == "resnet10t.test"


def test_wrong_classifiers_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"classifiers: .* knows 10 classes; the diffusion model has 1000"):
        check_classifiers([str(folder)], [str(i) for i in range(1000)])
    with pytest.raises(ValueError, match="classifiers: 'digits' knows 10 classes"):
        check_classifiers(["digits"], list("0123456"))
    with pytest.raises(ValueError, match=r"has no config\.json; valid: digits, or a folder of a timm model"):
        check_classifiers([str(tmp_path)], list("0123456789"))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"has no model\.safetensors"):
        classifiers_sha256([str(tmp_path)])


def test_the_hash_follows_the_weights(folder: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    assert classifiers_sha256([str(folder)]) == classifiers_sha256([str(tmp_path)])
    data = bytearray((tmp_path / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "model.safetensors").write_bytes(data)
    assert classifiers_sha256([str(folder)]) != classifiers_sha256([str(tmp_path)])
    assert classifiers_sha256(["digits"]) != classifiers_sha256([])


def test_classes_in_another_order_are_refused(folder: Path, tmp_path: Path) -> None:
    """The same numbers would mean other classes, and every accuracy would be chance."""
    digits = list("0123456789")
    check_classifiers(["digits", str(folder)], digits)
    with pytest.raises(ValueError, match=r"'digits' has the classes 0, 1, 2, \.\.\.; the diffusion model has 9, 8, 7"):
        check_classifiers(["digits"], digits[::-1])
    with pytest.raises(ValueError, match=r"'digits' has the classes 0, 1, 2"):
        check_classifiers(["digits"], [f"class {i}" for i in range(10)])
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(config | {"label_names": digits[::-1]}))
    with pytest.raises(ValueError, match=r"has the classes 9, 8, 7, \.\.\.; the diffusion model has 0, 1, 2"):
        check_classifiers([str(tmp_path)], digits)
    check_classifiers([str(tmp_path)], [f"class {i}" for i in range(10)])  # nothing says that they differ
