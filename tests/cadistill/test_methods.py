"""What methods make of a batch: terms by hand, the diffusion model's part, and the choice of timesteps."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from clarep_ray.cadistill.diffusion_teacher import DiffusionTeacher
from clarep_ray.cadistill.inputs import open_teacher
from clarep_ray.cadistill.losses import loss_align, loss_cka, loss_separate, loss_supcon
from clarep_ray.cadistill.methods import METHODS, Step, total
from clarep_ray.config import LossConfig, ModelConfig, TeacherConfig
from clarep_ray.data.class_list import ClassList
from clarep_ray.data.spurious_digits import CLASS_NAMES
from clarep_ray.dotted import override
from clarep_ray.models import build_tiny
from tests.cadistill.small import small_config

COUNT, CLASSES, WIDTH = 8, 4, 5


def step(**changes) -> Step:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(CLASSES, (COUNT,), generator=generator)
    empty = torch.zeros(COUNT, 0)
    values = {
        "labels": labels,
        "targets": F.one_hot(labels, CLASSES).float(),
        "features": torch.randn(COUNT, WIDTH, generator=generator),
        "logits": torch.randn(COUNT, CLASSES, generator=generator),
        "extra": {},
        "canonical_features": torch.randn(COUNT, WIDTH, generator=generator),
        "canonical_logits": torch.randn(COUNT, CLASSES, generator=generator),
        "teacher_features": torch.randn(COUNT, 7, generator=generator),
        "teacher_logits": empty,
        "teacher_attention": empty,
        "progress": 0.25,
        "config": LossConfig(),
    }
    return Step(**{**values, **changes})


def test_cadistill_is_equation_six_and_table_13_swaps_one_term() -> None:
    seen = step()
    settings = LossConfig(weight_align=2.0, weight_separate=3.0, weight_cka=5.0, weight_canonical_ce=7.0)
    plain = F.cross_entropy(seen.logits, seen.labels)
    align = loss_align(seen.features, seen.canonical_features, seen.labels)
    separate = loss_separate(seen.canonical_features, seen.labels)
    cka = loss_cka(seen.features, seen.canonical_features, seen.teacher_features)
    found = total(METHODS["cadistill"].terms(seen), settings)
    torch.testing.assert_close(found, plain + 2 * align + 3 * separate + 5 * cka)
    swapped = total(METHODS["cadistill_ce"].terms(seen), settings)
    other = F.cross_entropy(seen.canonical_logits, seen.labels)
    torch.testing.assert_close(swapped, plain + 2 * align + 7 * other + 5 * cka)
    assert METHODS["cfgdistill"] == METHODS["cadistill"]


def test_supcon_compares_both_views_and_has_no_cross_entropy() -> None:
    projected = torch.randn(2 * COUNT, 6)
    seen = step(features=torch.zeros(2 * COUNT, WIDTH), extra={"projected": projected})
    terms = METHODS["supcon"].terms(seen)
    assert terms.keys() == {"supcon"}
    torch.testing.assert_close(terms["supcon"], loss_supcon(projected, seen.labels.repeat(2)))


@pytest.mark.parametrize("progress", [0.0, 0.5])
def test_the_policy_moves_to_the_timestep_at_which_the_teacher_is_right(progress: float) -> None:
    raw = torch.zeros(COUNT, 3, requires_grad=True)
    chosen = torch.arange(COUNT) % 3
    labels = torch.zeros(COUNT, dtype=torch.long)
    judged = torch.where(chosen[:, None] == 1, torch.tensor([4.0, 0, 0, 0]), torch.tensor([-4.0, 0, 0, 0]))
    extra = {"log_policy": raw.log_softmax(1), "chosen": chosen, "judged": judged, "taught": torch.ones(COUNT, 7)}
    terms = METHODS["repfusion"].terms(
        step(labels=labels, extra={**extra, "regressed": torch.zeros(COUNT, 7)}, progress=progress)
    )
    terms["policy"].backward()
    assert raw.grad is not None
    assert (-raw.grad).sum(0).argmax() == 1
    assert terms["fitnet"] == 1
    uniform = torch.full((3,), 1 / 3)
    bonus = 0.1 * (1 - 2 * progress) * -(uniform * uniform.log()).sum()
    reward = -F.cross_entropy(judged, labels, reduction="none")
    advantage = (reward - reward.mean()) * uniform.log()[0]
    torch.testing.assert_close(terms["policy"].detach(), -advantage.mean() - bonus)


@pytest.fixture(scope="module")
def teacher(files: Path) -> DiffusionTeacher:
    found = open_teacher(small_config(files, "fitnet", teacher__source="diffusion"), ClassList(CLASS_NAMES))
    assert isinstance(found, DiffusionTeacher)
    return found


def test_every_image_is_read_at_its_own_timestep(teacher: DiffusionTeacher) -> None:
    pixels, chosen = torch.rand(5, 3, 16, 16), torch.tensor([2, 0, 3, 0, 1])
    together = teacher.null_features(pixels, chosen)
    for row in range(5):
        t = teacher.times[int(chosen[row])]
        alone = teacher.model.layer_means(pixels[row : row + 1] * 2 - 1, t, teacher.model.null_cond(1), [teacher.layer])
        torch.testing.assert_close(together[row], alone[teacher.layer][0], rtol=1e-4, atol=1e-4)


def test_one_step_reconstructions_are_the_predicted_clean_images(teacher: DiffusionTeacher) -> None:
    pixels, eps = torch.rand(4, 3, 16, 16), torch.randn(4, 3, 16, 16)
    chosen = torch.tensor([0, 1, 0, 2])
    found = teacher.denoised(pixels, chosen, eps)
    for row in range(4):
        t = teacher.times[int(chosen[row])]
        alpha, sigma = (float(scale) for scale in teacher.model.schedule.alpha_sigma(torch.tensor([t]).double()))
        x_t = alpha * (pixels[row : row + 1] * 2 - 1) + sigma * eps[row : row + 1]
        clean = (x_t - sigma * teacher.model.eps(x_t, t, teacher.model.null_cond(1))) / alpha
        torch.testing.assert_close(found[row], (clean.clamp(-1, 1) / 2 + 0.5)[0], rtol=1e-3, atol=1e-3)


def test_features_read_online_are_those_an_extraction_stores(teacher: DiffusionTeacher) -> None:
    pixels, labels, eps = torch.rand(3, 3, 16, 16), torch.tensor([1, 5, 9]), torch.randn(3, 3, 16, 16)
    reading = teacher.read(pixels, labels, eps)
    alpha, sigma = (float(s) for s in teacher.model.schedule.alpha_sigma(torch.tensor([teacher.feature_t]).double()))
    x_t = alpha * (pixels * 2 - 1) + sigma * eps
    stored = teacher.model.layer_means(x_t, teacher.feature_t, teacher.model.cond(labels), [teacher.layer])
    torch.testing.assert_close(reading.features, stored[teacher.layer], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(reading.maps.mean((2, 3)), reading.features, rtol=1e-4, atol=1e-4)


def test_a_model_without_an_unconditional_branch_cannot_teach_where_labels_would_leak(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unet = build_tiny("class_unet")
    monkeypatch.setattr("clarep_ray.cadistill.inputs.build", lambda config, field: unet)
    config = override(small_config(files, "repfusion"), {"teacher.reading.layer": unet.feature_layers[0]})
    with pytest.raises(
        ValueError, match=r"teacher\.diffusion: .* must be told a class, and repfusion reads without one"
    ):
        open_teacher(config, unet.classes)


def test_a_layer_that_a_model_does_not_have_is_named() -> None:
    config = TeacherConfig(source="diffusion", diffusion=ModelConfig(weights="tiny"))
    with pytest.raises(ValueError, match=r"teacher\.reading\.layer: 'transformer_blocks\.2' is not valid; valid: "):
        DiffusionTeacher(build_tiny("digits_dit"), config)
