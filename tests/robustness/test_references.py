"""At equal budget the attacks reach the robust accuracy of independent implementations, within 1 %."""

import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clarep_ray.config import AttacksConfig, SquareConfig
from clarep_ray.robustness.apgd import Apgd, ApgdTargeted
from clarep_ray.robustness.attack import Attack
from clarep_ray.robustness.attacks import Running, build_attack
from clarep_ray.robustness.cw import Cw
from clarep_ray.robustness.fab import FabTargeted
from clarep_ray.robustness.pgd import Pgd
from clarep_ray.robustness.square import Square
from tests.robustness.conftest import Trained

EPS = 24 / 255
STEPS = 20


def view(model: nn.Module, side: int) -> object:
    """Return the adversarial robustness toolbox's view of a model."""
    from art.estimators.classification import PyTorchClassifier

    return PyTorchClassifier(
        model,
        loss=nn.CrossEntropyLoss(),
        input_shape=(3, side, side),
        nb_classes=10,
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )


@pytest.fixture(scope="module")
def toolbox(trained: Trained) -> object:
    return view(trained.model, 8)


def ours(trained: Trained, attack: Attack) -> float:
    return 1 - float(attack(trained.model, trained.images, trained.labels, trained.keys).success.float().mean())


def theirs(trained: Trained, attack: object) -> float:
    np.random.seed(0)
    torch.manual_seed(0)
    one_hot = np.eye(10, dtype=np.float32)[trained.labels.numpy()]
    adversarial = torch.from_numpy(attack.generate(trained.images.numpy(), one_hot))  # type: ignore[attr-defined]
    assert float((adversarial - trained.images).abs().max()) <= EPS + 1e-6
    return float((trained.model(adversarial).argmax(1) == trained.labels).float().mean())


def test_pgd(trained: Trained, toolbox: object) -> None:
    from art.attacks.evasion import ProjectedGradientDescent

    settings = {"eps": EPS, "eps_step": EPS / 5, "max_iter": STEPS, "num_random_init": 1}
    reference = ProjectedGradientDescent(toolbox, norm=np.inf, batch_size=400, verbose=False, **settings)
    assert abs(ours(trained, Pgd(eps=EPS, step=EPS / 5, num_steps=STEPS)) - theirs(trained, reference)) <= 0.01


@pytest.mark.parametrize(("loss", "name"), [("ce", "cross_entropy"), ("dlr", "difference_logits_ratio")])
def test_apgd(trained: Trained, toolbox: object, loss: str, name: str) -> None:
    from art.attacks.evasion import AutoProjectedGradientDescent

    settings = {"eps": EPS, "eps_step": 2 * EPS, "max_iter": STEPS, "nb_random_init": 1, "loss_type": name}
    reference = AutoProjectedGradientDescent(toolbox, norm=np.inf, batch_size=400, verbose=False, **settings)
    found = ours(trained, Apgd(eps=EPS, num_steps=STEPS, loss=loss))  # type: ignore[arg-type]
    assert abs(found - theirs(trained, reference)) <= 0.01


class Framed(nn.Module):
    """The trained model behind one more row and column, which the references' squares never reach, nor need to."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images[:, :, :8, :8])


def test_square(trained: Trained) -> None:
    """The toolbox draws one square for a whole batch, so that its figure is steady over small batches only."""
    from art.attacks.evasion import SquareAttack

    seeds = [ours(trained, Square(eps=EPS, num_queries=101, seed=seed)) for seed in range(3)]
    framed = Trained(Framed(trained.model), F.pad(trained.images, (0, 1, 0, 1)), trained.labels, trained.keys)  # type: ignore[arg-type]
    same_sides = 0.8 * 8**2 / 9**2
    settings = {"eps": EPS, "max_iter": 100, "p_init": same_sides, "nb_restarts": 1}
    reference = SquareAttack(view(framed.model, 9), norm=np.inf, batch_size=40, verbose=False, **settings)
    assert abs(np.mean(seeds) - theirs(framed, reference)) <= 0.01
    square = SquareConfig(num_queries=101, p_init=same_sides)
    config = AttacksConfig(implementation="torchattacks", eps_255=24.0, square=square)
    library = [ours(framed, build_attack("square", config, Running(seed=seed))) for seed in range(3)]
    assert abs(np.mean(seeds) - np.mean(library)) <= 0.01


def test_targeted_attacks(trained: Trained) -> None:
    """Neither toolbox has them as AutoAttack does; torchattacks has ports of its authors' code."""
    import torchattacks

    images, labels = trained.images[:200], trained.labels[:200]
    pictures = Trained(trained.model, images, labels, trained.keys[:200])
    settings = {"eps": EPS, "steps": STEPS, "n_classes": 10}
    for attack, reference in (
        (ApgdTargeted(eps=EPS, num_steps=STEPS), torchattacks.APGDT(trained.model, **settings)),
        (FabTargeted(eps=EPS, num_steps=STEPS), torchattacks.FAB(trained.model, multi_targeted=True, **settings)),
    ):
        with torch.random.fork_rng(devices=[]):
            adversarial = reference(images, labels)
        near = (adversarial - images).abs().amax((1, 2, 3)) <= EPS + 1e-6  # FAB keeps what lies outside the ball too
        expected = 1 - float(((trained.model(adversarial).argmax(1) != labels) & near).float().mean())
        assert abs(ours(pictures, attack) - expected) <= 0.01


def test_cw(trained: Trained) -> None:
    """The attack has no radius, so that robust accuracies are compared at several."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import foolbox

    images, labels = trained.images[:200], trained.labels[:200]
    model = foolbox.PyTorchModel(trained.model, bounds=(0, 1), device="cpu")
    reference = foolbox.attacks.L2CarliniWagnerAttack(
        binary_search_steps=1, steps=200, stepsize=0.05, initial_const=0.5, abort_early=False
    )
    _, adversarial, _ = reference(model, images, labels, epsilons=None)
    # Where it fails foolbox returns a black picture and calls it a success.
    fooled = (trained.model(adversarial).argmax(1) != labels) & (adversarial.amax((1, 2, 3)) > 0)
    result = Cw(c=0.5, num_steps=200, learning_rate=0.05)(trained.model, images, labels, trained.keys[:200])
    for radius in (0.4, 0.6, 0.8, 1.0, 1.2):
        expected = robust(images, adversarial, fooled, radius)
        assert abs(robust(images, result.adversarial, result.success, radius) - expected) <= 0.01
        assert 0 < expected < 0.95


def robust(images: Tensor, adversarial: Tensor, fooled: Tensor, radius: float) -> float:
    near = (adversarial - images).square().sum((1, 2, 3)).sqrt() <= radius
    return 1 - float((fooled & near).float().mean())
