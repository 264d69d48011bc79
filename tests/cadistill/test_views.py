"""Validation during a training and an evaluation see the same pixels; training crops come from the whole image."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clarep_ray.cadistill.augment import augment
from clarep_ray.cadistill.evaluation import validate
from clarep_ray.cadistill.inputs import open_inputs
from clarep_ray.cluster.evaluate_units import view_of
from clarep_ray.config import BenchmarksConfig, DataConfig, DistillConfig
from clarep_ray.data.picture_rows import open_pictures
from clarep_ray.data.pixels import WholeImage
from clarep_ray.data.records import RejectedImage
from clarep_ray.data.views import View
from clarep_ray.dotted import override
from clarep_ray.errors import TrainingDiverged
from clarep_ray.models.classifiers import load_classifier
from clarep_ray.models.students import Architecture, load_student, make_student, read_architecture, save_student
from clarep_ray.robustness.benchmarks import open_benchmark
from clarep_ray.robustness.evaluate import clean_columns
from clarep_ray.seeding import torch_generator

NAMES = ("cat", "dog", "owl")
SIZES = ((50, 37), (33, 64), (40, 40), (97, 31))


def smooth(width: int, height: int, seed: int) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of several shapes in three classes; one of a class lies on its side and says so in its EXIF."""
    root = tmp_path_factory.mktemp("images")
    for label, name in enumerate(NAMES):
        (root / name).mkdir()
        for number, (width, height) in enumerate(SIZES):
            image, exif = smooth(width, height, 10 * label + number), Image.Exif()
            exif[0x0112] = 6 if number == 1 else 1
            (root / name / f"{number}.jpg").write_bytes(encoded(image, quality=95, exif=exif))
    return root


def architecture(**changes: object) -> Architecture:
    known = {"class_names": NAMES, "image_size": 24, "mean": (0.5,) * 3, "std": (0.25,) * 3}
    return Architecture(name="small_cnn", **{**known, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("changes", [{}, {"resize": 28, "interpolation": "bilinear"}, {"resize": 40}])
def test_validation_and_evaluation_agree_to_the_image(changes: dict[str, object], folder: Path, tmp_path: Path) -> None:
    """The student is read back from its folder: its protocol lies in its config.json."""
    made = make_student(architecture(**changes), 3)
    made.network.head.weight.data *= 300  # logits far apart, so that every image has its own answer
    save_student(made, tmp_path / "last")
    student = load_classifier(str(tmp_path / "last"))
    val = open_pictures(DataConfig(source="image_folder", path=str(folder)), made.view)
    benchmark = open_benchmark("image_folder", BenchmarksConfig(image_folder=str(folder)))
    rows, view = benchmark.rows("all"), view_of(student, BenchmarksConfig())
    images = np.stack([benchmark.read(row, view) for row in rows])
    assert np.array_equal(images, np.stack([val.read(row) for row in range(len(val))]))
    columns = clean_columns(student, benchmark, rows, images)
    assert len(set(columns["prediction"].tolist())) > 1
    found = validate(made.eval(), val, threads=2)
    assert found.accuracy == columns["correct"].mean()
    assert found.not_finite == 0


def test_a_students_folder_says_how_its_test_images_are_made(tmp_path: Path) -> None:
    student = make_student(architecture(resize=28, interpolation="bilinear"))
    save_student(student, tmp_path / "s")
    assert load_student(tmp_path / "s").view == View(image_size=24, resize=28, interpolation="bilinear")
    record = json.loads((tmp_path / "s/config.json").read_text())
    older = {name: value for name, value in record.items() if name not in ("resize", "interpolation")}
    (tmp_path / "s/config.json").write_text(json.dumps(older))
    assert load_student(tmp_path / "s").view == View(image_size=24, resize=24, interpolation="bicubic")
    for wrong in ({"resize": 12}, {"resize": 10**6}, {"interpolation": "cubic"}):
        (tmp_path / "s/config.json").write_text(json.dumps({**record, **wrong}))
        with pytest.raises(ValueError, match="describes no student: "):
            read_architecture(tmp_path / "s")


@pytest.mark.parametrize(
    "own",
    [
        {"input_size": (3, 48, 48), "crop_pct": 0.95, "interpolation": "bicubic"},
        {"input_size": (3, 32, 32), "crop_pct": 0.875, "interpolation": "bilinear"},
        {"input_size": (3, 32, 32), "crop_pct": 0.9, "interpolation": "bicubic", "crop_mode": "squash"},
        {"input_size": (3, 40, 40), "crop_pct": 1.0, "interpolation": "lanczos"},
    ],
)
def test_a_timm_folder_is_read_by_its_own_config_as_timm_reads_it(
    own: dict[str, object], folder: Path, tmp_path: Path
) -> None:
    import timm
    from timm.data.config import resolve_data_config
    from timm.data.transforms_factory import create_transform
    from timm.models import save_for_hf

    network = timm.create_model("test_resnet", num_classes=3, pretrained_cfg_overlay=own)
    save_for_hf(network, tmp_path, safe_serialization=True)
    model = load_classifier(str(tmp_path))
    theirs = create_transform(**resolve_data_config(model=network), is_training=False)
    benchmark = open_benchmark("image_folder", BenchmarksConfig(image_folder=str(folder)))
    for row in benchmark.rows("all"):
        ours = torch.from_numpy(benchmark.read(row, model.view).copy()).permute(2, 0, 1).float() / 255
        torch.testing.assert_close((ours - model.mean) / model.std, theirs(benchmark.open(row)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"crop_mode": "border"}, r"config.json': mode: 'border' is not valid; valid: center, squash"),
        ({"input_size": (3, 32, 48)}, r"config.json': input_size: .* is not valid; valid: \(3, side, side\)"),
        ({"interpolation": "random"}, r"config.json': interpolation: 'random' is not valid; valid: nearest"),
        ({"crop_pct": 1.5}, r"config.json': resize: \d+ is not valid; valid: the image size \(160\) or more"),
    ],
)
def test_a_config_that_cannot_be_followed_is_refused(own: dict[str, object], message: str, tmp_path: Path) -> None:
    import timm
    from timm.models import save_for_hf

    network = timm.create_model("test_resnet", num_classes=3, pretrained_cfg_overlay=own)
    save_for_hf(network, tmp_path, safe_serialization=True)
    with pytest.raises(ValueError, match=message):
        load_classifier(str(tmp_path))


def test_settings_win_over_the_classifiers_own_and_a_side_alone_keeps_the_share() -> None:
    own = View(image_size=224, resize=256, interpolation="bilinear")
    assert own.with_size(None, None, None) == own
    assert own.with_size(112, None, None) == View(image_size=112, resize=128, interpolation="bilinear")
    assert own.with_size(None, 240, "bicubic") == View(image_size=224, resize=240, interpolation="bicubic")
    with pytest.raises(ValueError, match=r"resize: 200 is not valid; valid: the image size \(224\) or more"):
        own.with_size(None, 200, None)


def test_images_stored_at_their_final_size_lose_nothing() -> None:
    image, view = smooth(32, 32, 0), View(image_size=32, resize=36)
    assert np.array_equal(view.of(image, stored=True), np.asarray(image))
    assert not np.array_equal(view.of(image), np.asarray(image))
    larger = View(image_size=48, resize=54).of(image, stored=True)
    assert np.array_equal(larger, np.asarray(image.resize((48, 48), Image.Resampling.BICUBIC)))


def test_a_line_is_rejected_before_it_is_resized() -> None:
    with pytest.raises(RejectedImage):
        View(image_size=224, resize=256).of(Image.new("RGB", (60000, 1)))


def test_logits_that_are_no_numbers_are_wrong_counted_and_all_of_them_end_it(folder: Path) -> None:
    student = make_student(architecture())
    val = open_pictures(DataConfig(source="image_folder", path=str(folder)), student.view)
    threshold = sorted(val.read(row).mean() for row in range(len(val)))[4] / 255

    class Spoiled(type(student)):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            dark = pixels.mean((1, 2, 3)) <= threshold + 1e-6
            return torch.where(dark[:, None], torch.nan, torch.eye(3)[0])

    student.__class__ = Spoiled
    found = validate(student, val)
    assert found.not_finite == 5
    assert 0 < found.accuracy <= 4 / 12
    student.network.head.bias.data[:] = torch.nan
    student.__class__ = Spoiled.__mro__[1]
    with pytest.raises(TrainingDiverged, match="not one of 12 validation images has finite logits"):
        validate(student, val)


def test_training_crops_come_from_the_whole_image(tmp_path: Path) -> None:
    """Of a wide image with marks at its ends, random crops reach both; a centre crop would have neither."""
    (tmp_path / "a").mkdir()
    marked = np.full((40, 160, 3), 100, np.uint8)
    marked[:, :20], marked[:, -20:] = (255, 0, 0), (0, 0, 255)
    Image.fromarray(marked).save(tmp_path / "a/0.jpg", quality=95)
    images = open_pictures(DataConfig(source="image_folder", path=str(tmp_path)), None)
    seen = torch.stack([augment(images.whole(0), "jitter", 16, stream(number)) for number in range(60)])
    assert seen.shape == (60, 3, 16, 16)
    red, blue = ((seen[:, a] - seen[:, b]).flatten(1).amax(1) > 0.4 for a, b in ((0, 2), (2, 0)))
    assert 5 < int(red.sum()) < 55
    assert 5 < int(blue.sum()) < 55
    again = augment(images.whole(0), "jitter", 16, stream(7))
    assert torch.equal(again, seen[7])


def stream(number: int) -> torch.Generator:
    return torch_generator(0, str(number), "test")


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_crops_at_a_reduced_scale_are_those_of_the_full_image(kind: str, orientation: int) -> None:
    image, exif = smooth(203, 301, 5), Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 98, "exif": exif} if kind != "PNG" else {"exif": exif}
    data = encoded(image, kind, **options)
    upright = WholeImage(data, "x").pixels()
    assert WholeImage(data, "x").size == (upright.shape[1], upright.shape[0])
    for box in ((0, 0, 200, 200), (3, 5, 150, 133), (40, 60, 56, 76), (1, 2, 203, 67)):
        expected = Image.fromarray(upright).resize((16, 16), Image.Resampling.BILINEAR, box=box)
        found = WholeImage(data, "x").crop(box, 16)
        assert found.shape == (16, 16, 3)
        assert np.abs(found.astype(int) - np.asarray(expected, int)).mean() < 2  # of 255; the decoder averages blocks


def test_a_large_crop_decodes_an_eighth_of_a_jpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    import clarep_ray.data.pixels as pixels

    opened = list[tuple[int, int]]()
    real = pixels.open_rgb

    def watched(data: bytes, scale: int = 1) -> Image.Image:
        found = real(data, scale)
        opened.append(found.size)
        return found

    monkeypatch.setattr(pixels, "open_rgb", watched)
    data = encoded(smooth(500, 375, 1))
    WholeImage(data, "x").crop((0, 0, 375, 375), 32)
    WholeImage(data, "x").crop((0, 0, 130, 130), 32)
    WholeImage(data, "x").crop((0, 0, 63, 63), 32)
    assert opened == [(63, 47), (125, 94), (500, 375)]


def test_whole_images_are_held_encoded_within_bounds_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for number in range(3):
        (tmp_path / f"a/{number}.jpg").write_bytes(encoded(smooth(64, 48, number)))
    config = DataConfig(source="image_folder", path=str(tmp_path))
    held = open_pictures(config, None)
    assert held.held is not None
    assert all(isinstance(item, bytes) for item in held.held)
    read = open_pictures(config, None, held_bytes=1000)
    assert read.held is None
    assert np.array_equal(held.read(1), read.read(1))
    assert held.read(1).shape == (48, 64, 3)
    (tmp_path / "a/1.jpg").write_bytes(encoded(smooth(64, 48, 1))[:700])
    with pytest.raises(ValueError, match=r"data: 'a/1\.jpg' is no usable image: truncated"):
        open_pictures(config, None)
    late = open_pictures(config, None, held_bytes=1000)
    with pytest.raises(ValueError, match=r"data: 'a/1\.jpg' is no usable image: truncated"):
        augment(late.whole(1), "supcon", 16, stream(0))


def test_both_stages_take_their_images_in_one_way(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "val")
    config = override(
        DistillConfig(),
        {
            **{f"{name}.source": "image_folder" for name in ("data", "val")},
            "data.path": str(folder),
            "val.path": str(tmp_path / "val"),
            "method": "supcon",
            "schedule.batch_size": 4,
            "schedule.epochs": 1,
            "augment.recipe": "supcon",
            "second_stage.recipe": "resized_flip",
        },
    )
    inputs = open_inputs(config).inputs
    assert inputs.batch(config, 0).pixels.shape == (8, 3, 16, 16)  # two views
    assert inputs.batch(config, 3).pixels.shape == (4, 3, 16, 16)  # the linear stage: one
    with pytest.raises(ValueError, match=r"second_stage\.recipe: 'crop_flip' is not valid after 'supcon'; valid: res"):
        open_inputs(override(config, {"second_stage.recipe": "crop_flip"}))
