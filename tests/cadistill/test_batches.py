"""What the student sees: by seed, step and image alone; augmentations within their ranges; mixtures by halves."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.mixup import Mixup
from torchvision import transforms

from clarep_ray.cadistill.augment import OPERATIONS, RECIPES, augment, resized_crop, to_tensor
from clarep_ray.cadistill.batches import prefetched
from clarep_ray.cadistill.inputs import open_inputs
from clarep_ray.cadistill.mixing import mix, share, soft_targets
from clarep_ray.cadistill.schedule import Stages, learning_rate_at
from clarep_ray.config import AugmentConfig, AugmentRecipe, DataConfig, DigitsConfig
from clarep_ray.data.class_list import ClassList
from clarep_ray.data.picture_rows import open_pictures
from clarep_ray.data.views import View
from clarep_ray.dotted import override
from clarep_ray.presets import DISTILL
from clarep_ray.seeding import torch_generator
from tests.cadistill.small import small_config

VIEW = View(image_size=16, resize=16)


def picture(side: int = 32) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)


def stream(number: int) -> torch.Generator:
    return torch_generator(0, str(number), "test")


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_picture_follows_from_its_stream_and_stays_in_range(recipe: AugmentRecipe) -> None:
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    seen = [augment(picture(), recipe, 32, stream(number)) for number in range(30)]
    assert torch.equal(torch.random.get_rng_state(), before)
    for number, result in enumerate(seen):
        assert result.shape == (3, 32, 32)
        assert 0 <= result.min() <= result.max() <= 1
        assert torch.equal(result, augment(picture(), recipe, 32, stream(number)))
    assert len({result.numpy().tobytes() for result in seen}) >= (1 if recipe == "none" else 20)


def test_a_crop_of_cifar_is_the_picture_moved_by_up_to_four_pixels_and_often_mirrored() -> None:
    padded = transforms.functional.pad(to_tensor(picture()), [4]).float() / 255
    windows = {padded[:, y : y + 32, x : x + 32].numpy().tobytes() for y in range(9) for x in range(9)}
    straight = 0
    for number in range(200):
        seen = augment(picture(), "crop_flip", 32, stream(number))
        as_is, turned = (each.numpy().tobytes() in windows for each in (seen, seen.flip(2).contiguous()))
        assert as_is or turned
        straight += as_is
    assert 70 <= straight <= 130


def test_resized_crops_take_the_areas_and_ratios_of_torchvision() -> None:
    """Crops of a ramp tell how large they were."""
    ramp = torch.arange(256, dtype=torch.uint8).expand(3, 256, 256).contiguous()
    ours = [float(np.ptp(resized_crop(ramp, 0.2, 8, stream(n)).float().numpy())) for n in range(300)]
    torch.manual_seed(0)
    theirs = transforms.RandomResizedCrop(8, (0.2, 1), antialias=True)
    other = [float(np.ptp(theirs(ramp).float().numpy())) for _ in range(300)]
    assert np.mean(ours) == pytest.approx(np.mean(other), rel=0.05)
    assert np.std(ours) == pytest.approx(np.std(other), rel=0.2)


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_of_rand_augment_are_timms(name: str) -> None:
    from timm.data import auto_augment as theirs

    names = {
        "auto_contrast": "AutoContrast",
        "equalize": "Equalize",
        "invert": "Invert",
        "solarize_add": "SolarizeAdd",
        "posterize": "PosterizeIncreasing",
        "solarize": "SolarizeIncreasing",
        "rotate": "Rotate",
        **{key: f"{key.title()}Increasing" for key in ("color", "contrast", "brightness", "sharpness")},
        "shear_x": "ShearX",
        "shear_y": "ShearY",
        "translate_x": "TranslateXRel",
        "translate_y": "TranslateYRel",
    }
    smooth = torch.nn.functional.interpolate(to_tensor(picture(4))[None].float(), (32, 32), mode="bilinear")[0].to(
        torch.uint8
    )
    found = {sign: OPERATIONS[name](smooth, 0.9, sign).float() for sign in (-1.0, 1.0)}
    level = theirs.LEVEL_TO_ARG[names[name]]
    arguments = level(9.0, {}) if level else ()
    if isinstance(arguments[0] if arguments else None, float) and name in (
        "color",
        "contrast",
        "brightness",
        "sharpness",
    ):
        arguments = (1.81,)
    elif arguments and name.startswith(("shear", "translate", "rotate")):
        arguments = (abs(arguments[0]),)
    image = Image.fromarray(smooth.permute(1, 2, 0).numpy())
    expected = theirs.NAME_TO_OP[names[name]](
        image, *arguments, resample=Image.Resampling.BILINEAR, fillcolor=(128,) * 3
    )
    target = torch.from_numpy(np.array(expected)).permute(2, 0, 1).float()
    closest = min(float((each - target).abs().mean()) for each in found.values())
    assert closest < 4  # of 255; PIL and torchvision round edges in their own ways


def test_a_batch_is_the_same_for_any_number_of_workers_and_threads(files: Path) -> None:
    config = small_config(files, "cadistill")
    inputs = open_inputs(config).inputs
    whole = inputs.batch(config, 5)
    halves = [inputs.batch(config, 5, rank, 2) for rank in range(2)]
    for name in ("pixels", "labels", "targets", "canonical", "features", "draws"):
        value, parts = getattr(whole, name), [getattr(half, name) for half in halves]
        assert torch.equal(value[0::2], parts[0])
        assert torch.equal(value[1::2], parts[1])
    mixed = override(config, {"augment.mixup": 0.8, "augment.cutmix": 1.0})
    alone = [inputs.batch(mixed, step).pixels for step in range(12)]
    at_once = prefetched(lambda step: inputs.batch(mixed, step), 0, 12, threads=6)
    assert all(torch.equal(batch.pixels, pixels) for batch, pixels in zip(at_once, alone, strict=True))
    ahead = list(prefetched(lambda step: inputs.batch(config, step), 4, 8, threads=3))
    assert torch.equal(ahead[1].pixels, whole.pixels)
    assert not torch.equal(ahead[2].pixels, whole.pixels)


def test_every_epoch_shows_each_image_once_in_another_order_and_another_way(files: Path) -> None:
    config = small_config(files, "vanilla", augment__recipe="none")
    inputs = open_inputs(config).inputs
    epochs = [torch.cat([inputs.batch(config, step).pixels for step in range(k, k + 4)]) for k in (0, 4)]
    assert not torch.equal(*epochs)
    assert torch.equal(*(epoch.flatten(1).sort(0).values for epoch in epochs))


def test_stored_features_are_never_mirrored_and_belong_to_their_pictures(files: Path) -> None:
    plain = small_config(files, "cadistill", augment__recipe="none")
    flipped = small_config(files, "cadistill")
    inputs = open_inputs(plain).inputs
    assert inputs.store is not None
    first, second = (inputs.batch(config, 3) for config in (plain, flipped))
    assert torch.equal(first.features, second.features)
    assert not torch.equal(first.canonical, second.canonical)
    pictures = {to_tensor(image).numpy().tobytes(): row for row, image in enumerate(inputs.store.images(range(48)))}
    rows = [pictures[(each * 255).round().to(torch.uint8).numpy().tobytes()] for each in first.canonical]
    assert np.array_equal(inputs.store.features(rows), first.features.numpy())
    assert np.array_equal(inputs.store.labels[rows], first.labels.numpy())
    kept = small_config(files, "cadistill", augment__canonical=False)
    assert torch.equal(inputs.batch(kept, 3).canonical, first.canonical)


def test_dmdistill_reads_each_image_own_feature(files: Path) -> None:
    config = small_config(files, "dmdistill", augment__recipe="none")
    inputs = open_inputs(config).inputs
    assert inputs.store is not None
    batch = inputs.batch(config, 0)
    own = {inputs.images.read(row).tobytes(): row for row in range(48)}
    rows = [
        own[(each * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy().tobytes()]
        for each in batch.pixels
    ]
    assert np.array_equal(
        inputs.store.features(inputs.store.own_rows(batch.labels.numpy(), [inputs.images.keys[r] for r in rows])),
        batch.features.numpy(),
    )
    assert batch.canonical.shape[0] == 0


def test_mixing_is_timms_with_the_larger_part_ones_own() -> None:
    pixels, labels = torch.rand(8, 3, 16, 16), torch.arange(8) % 3
    for number in range(20):
        config = AugmentConfig(mixup=0.8, cutmix=1.0)
        mixed, targets = mix(pixels, labels, config, 3, 0.0, seed=1, step=number)
        assert torch.allclose(targets.sum(1), torch.ones(8))
        assert bool((targets[torch.arange(8), labels] >= 0.5 - 1e-6).all())
        mine = [
            mix(pixels[part], labels[part], config, 3, 0.0, 1, number)[0]
            for rank in (0, 1)
            for part in [share(8, rank, 2, True)]
        ]
        for rank, each in enumerate(mine):
            assert torch.equal(each, mixed[share(8, rank, 2, True)])
    off = Mixup(mixup_alpha=0.8, label_smoothing=0.1, num_classes=3)
    off.mixup_enabled = False
    torch.testing.assert_close(soft_targets(labels, 3, 0.1), off(pixels.clone(), labels)[1])


@pytest.mark.parametrize("paired", [True, False])
def test_shares_of_workers_are_equal_and_complete(paired: bool) -> None:
    parts = [share(24, rank, 3, paired) for rank in range(3)]
    assert [len(part) for part in parts] == [8, 8, 8]
    assert sorted(np.concatenate(parts).tolist()) == list(range(24))


def test_pictures_that_are_not_held_are_the_same(tmp_path: Path) -> None:
    config = DataConfig(digits=DigitsConfig(count=5))
    held, read = (open_pictures(config, VIEW, held_bytes=size) for size in (10**6, 0))
    assert read.held is None
    assert np.array_equal(held.read(3), read.read(3))
    assert held.keys == read.keys == tuple(f"test-{number:06d}" for number in range(5))
    with pytest.raises(ValueError, match="none is in both"):
        open_pictures(config, VIEW, ClassList(("a", "b")))


def test_learning_rates_are_those_of_table_4() -> None:
    cifar = DISTILL["cifar10"]().config
    stages = Stages.of(cifar, 390)
    rates = [learning_rate_at(epoch * 390, cifar, stages) for epoch in (0, 99, 100, 149, 150, 199)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])
    assert stages.total == 200 * 390
    swin = DISTILL["imagenet100_swin"]().config
    stages = Stages.of(swin, 100)
    assert learning_rate_at(249, swin, stages) == pytest.approx(0.05)
    assert learning_rate_at(500, swin, stages) == pytest.approx(0.1)
    assert learning_rate_at(5250, swin, stages) == pytest.approx(0.05)
    supcon = DISTILL["cifar10_supcon"]().config
    stages = Stages.of(supcon, 48)
    assert stages.total == 1100 * 48
    assert learning_rate_at(1000 * 48, supcon, stages) == 5.0
    assert learning_rate_at(1090 * 48, supcon, stages) == pytest.approx(5 * 0.2**3)
    other = override(swin, {"schedule.decay": "constant", "schedule.warmup_epochs": 0})
    assert learning_rate_at(77, other, stages) == 0.1
