"""Students and teachers: where features are read, what a saved folder gives back, what is refused."""

import itertools
import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from clarep_ray.cadistill.teachers import load_teacher, teacher_sha256
from clarep_ray.models import students
from clarep_ray.models.fan import ChannelAttention
from clarep_ray.models.students import Architecture, load_student, make_student, save_student

HALF = (0.5, 0.5, 0.5)


def architecture(name: str, size: int) -> Architecture:
    return Architecture(name=name, class_names=("cat", "dog"), image_size=size, mean=HALF, std=(0.25, 0.25, 0.25))


@pytest.mark.parametrize(
    ("name", "size", "width", "side"),
    [
        ("small_cnn", 16, 64, 4),
        ("resnet18_cifar", 32, 512, 4),
        ("resnet18", 64, 512, 2),
        ("vit_tiny_patch16_224", 32, 192, 2),
        ("fan_tiny", 32, 192, 2),
    ],
)
def test_logits_are_the_classifier_on_the_features(name: str, size: int, width: int, side: int) -> None:
    student = make_student(architecture(name, size)).eval()
    pixels = torch.rand(2, 3, size, size)
    maps = student.maps(pixels)
    assert student.pool(maps).shape == (2, width)
    assert student.spatial(maps).shape == (2, width, side, side)
    torch.testing.assert_close(
        student(pixels), student.network((pixels - 0.5) / 0.25) if name != "small_cnn" else student(pixels)
    )


def test_a_swin_has_its_channels_last_and_the_map_is_turned() -> None:
    assert students.channels_first(torch.zeros(1, 7, 7, 96), 96).shape == (1, 96, 7, 7)
    with pytest.raises(ValueError, match="5 of them form no square"):
        students.channels_first(torch.zeros(1, 6, 8), 8, prefix_tokens=1)


def test_fan_tiny_is_as_large_as_published_and_attends_to_channels() -> None:
    network = make_student(architecture("fan_tiny", 224)).network
    head = sum(p.numel() for p in network.head.parameters())
    assert sum(p.numel() for p in network.parameters()) - head == pytest.approx(7.1e6, rel=0.05)
    attention = ChannelAttention(8, 2, 16).eval()
    tokens = torch.randn(3, 4, 8, dtype=torch.float64)
    attention.double()
    wanted = torch.empty_like(tokens)
    processed = attention.norm(attention.mlp(tokens, (2, 2)))
    for sample, channel in itertools.product(range(3), range(8)):  # the formula, channel by channel
        head_channels = range(channel // 4 * 4, channel // 4 * 4 + 4)
        query = attention.query(tokens[sample])[:, channel].softmax(0)
        key = torch.stack([tokens[sample, :, other].softmax(0) for other in head_channels]).mean(0)
        wanted[sample, :, channel] = (query @ key).sigmoid() * processed[sample, :, channel]
    torch.testing.assert_close(attention(tokens, (2, 2)), wanted)
    with pytest.raises(ValueError, match=r"student\.image_size: 30 is not valid; valid: a multiple of 16"):
        make_student(architecture("fan_tiny", 30))


def test_a_cifar_resnet_keeps_the_resolution_of_its_input() -> None:
    student = make_student(architecture("resnet18_cifar", 32))
    assert student.network.maxpool(student.network.conv1(torch.rand(1, 3, 32, 32))).shape[-2:] == (32, 32)
    assert sum(p.numel() for p in student.parameters()) == pytest.approx(11.17e6, rel=0.01)


def test_weights_follow_from_the_seed_and_the_global_stream_stays() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, again, other = (make_student(architecture("small_cnn", 16), seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first.network.head.weight, again.network.head.weight)
    assert not torch.equal(first.network.head.weight, other.network.head.weight)


def test_a_saved_student_is_the_same_classifier_and_can_teach(tmp_path: Path) -> None:
    student = make_student(architecture("resnet18_cifar", 32))
    student.train()(torch.rand(4, 3, 32, 32))  # moves the running statistics
    save_student(student.eval(), tmp_path / "last")
    pixels = torch.rand(2, 3, 32, 32)
    loaded = load_student(tmp_path / "last")
    assert loaded.architecture == student.architecture
    assert torch.equal(loaded(pixels), student(pixels))
    assert [path.name for path in tmp_path.iterdir()] == ["last"]
    teacher = load_teacher(str(tmp_path / "last")).train()
    assert torch.equal(teacher.read(pixels).logits, student(pixels))
    assert not any(module.training for module in teacher.modules())


def test_a_timm_folder_teaches_with_its_own_statistics(tmp_path: Path) -> None:
    network = timm.create_model("deit3_small_patch16_224", num_classes=3, depth=1, img_size=32).eval()
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    config = {"architecture": "deit3_small_patch16_224", "num_classes": 3}
    config |= {
        "model_args": {"depth": 1, "img_size": 32},
        "pretrained_cfg": {"num_classes": 3, "input_size": [3, 32, 32], "mean": HALF, "std": HALF},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    teacher, pixels = load_teacher(str(tmp_path)), torch.rand(2, 3, 32, 32)
    reading = teacher.read(pixels)
    tokens = network.forward_features((pixels - 0.5) / 0.5)
    torch.testing.assert_close(reading.features, tokens[:, 0])
    assert reading.maps.shape == (2, 384, 2, 2)
    assert teacher.read(torch.rand(2, 3, 16, 16)).logits.shape == (2, 3)
    assert len(teacher_sha256(str(tmp_path))) == 64


def test_what_is_no_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"student\.name: 'resnet99' is unknown; valid: small_cnn, resnet18_cifar, fan_tiny, or"
    ):
        make_student(architecture("resnet99", 32))
    with pytest.raises(ValueError, match="holds no student"):
        load_student(tmp_path)
    for folder in (None, str(tmp_path)):
        with pytest.raises(ValueError, match=r"teacher\.network: .* has no config\.json"):
            load_teacher(folder)
