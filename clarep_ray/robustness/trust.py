"""Is a robust accuracy what it seems? The signs of gradient masking (Athalye et al. 2018; Carlini et al. 2019)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from clarep_ray.config.evaluate import TrustConfig
from clarep_ray.errors import Untrusted
from clarep_ray.models.answers import all_finite, answers_of
from clarep_ray.robustness.apgd import Apgd
from clarep_ray.robustness.attack import Attack, as_evaluated, check_inputs, of_rows
from clarep_ray.robustness.attacks import Running
from clarep_ray.robustness.calls import ModelCalls
from clarep_ray.robustness.losses import cross_entropy, margin
from clarep_ray.robustness.pgd import Pgd
from clarep_ray.robustness.square import Square

Severity = Literal["warn", "refuse"]
LONG = 5
"""How many times the steps of the ordinary attack the long one takes."""
SAME_LOGITS = 1e-4
"""Largest difference of two forward passes, as a share of the largest logit, that rounding may make."""


@dataclass(frozen=True)
class Finding:
    """One check: did it pass, what its failure is worth, the numbers it looked at, and what a failure means."""

    name: str
    passed: bool
    severity: Severity
    numbers: Mapping[str, float]
    meaning: str


@dataclass
class _Probe:
    """The pictures that the model gets right, and the verdicts of attacks on them, each run once."""

    model: nn.Module
    images: Float[Tensor, " n c h w"]
    labels: Int[Tensor, " n"]
    keys: list[str]
    config: TrustConfig
    running: Running
    surrogates: Sequence[nn.Module]
    share_finite: float
    """Of all images that were given, those that are answered wrong included."""
    verdicts: dict[str, Tensor] = field(default_factory=dict[str, Tensor])

    @property
    def eps(self) -> float:
        return self.config.eps_255 / 255

    def calls(self) -> ModelCalls:
        return ModelCalls(self.model, self.running.micro_batch, self.running.padded)

    def fooled(self, name: str, attack: Attack) -> Bool[Tensor, " n"]:
        """Return which pictures an attack fools the model with."""
        if name not in self.verdicts:
            self.verdicts[name] = attack(self.model, self.images, self.labels, self.keys).success
        return self.verdicts[name]

    def pgd(self, num_steps: int, num_restarts: int = 1, scale: float = 1.0) -> Bool[Tensor, " n"]:
        """Return the verdicts of PGD with `scale` times the budget."""
        eps = scale * self.eps
        step = eps if num_steps == 1 else 2.5 * eps / num_steps
        settings: dict[str, Any] = {"num_steps": num_steps, "num_restarts": num_restarts, **self.running.fields()}
        return self.fooled(f"pgd/{num_steps}/{num_restarts}/{scale}", Pgd(eps=eps, step=step, **settings))

    def apgd(self, eps: float) -> Bool[Tensor, " n"]:
        """Return the verdicts of a long APGD-CE."""
        settings: dict[str, Any] = {"num_steps": LONG * self.config.num_steps, **self.running.fields()}
        return self.fooled(f"apgd/{eps}", Apgd(eps=eps, **settings))

    def white_box(self) -> Bool[Tensor, " n"]:
        """Return the pictures that any attack with gradients at the ordinary budget has fooled."""
        steps = self.config.num_steps
        return (
            self.pgd(LONG * steps) | self.pgd(steps) | self.pgd(steps, self.config.num_restarts) | self.apgd(self.eps)
        )


def _accuracy(fooled: Tensor) -> float:
    return 1 - float(fooled.float().mean())


def _finite_logits(share: float) -> Finding:
    meaning = "some logits are not finite (NaN or infinite); such answers count as wrong"
    return Finding("finite_logits", share == 1, "refuse", {"share_finite": share}, meaning)


def _outputs(probe: _Probe) -> Iterator[Finding]:
    """AutoAttack's checks of what comes out of the model: logits, finite, the same every time."""
    rows = torch.arange(len(probe.images), device=probe.images.device)
    with as_evaluated(probe.model):
        first, second = (probe.calls().logits(probe.images, rows) for _ in range(2))
    yield _finite_logits(probe.share_finite)
    inside = ((first >= 0) & (first <= 1)).all(1) & ((first.sum(1) - 1).abs() < 1e-4)
    share = float(inside.float().mean())
    meaning = "outputs are probabilities; give attacks the logits, since softmax flattens their gradients"
    yield Finding("logits_not_probabilities", share < 1, "warn", {"share_probabilities": share}, meaning)
    change = float((first - second).abs().max() / first.abs().max().clamp_min(1e-12))
    flips = float((answers_of(first) != answers_of(second)).float().mean())
    meaning = "two forward passes differ; average gradients with apgd.num_eot, and verdicts over draws"
    numbers = {"relative_difference": change, "share_other_answer": flips}
    yield Finding("deterministic", change <= SAME_LOGITS, "refuse", numbers, meaning)


def _gradients(probe: _Probe) -> Iterator[Finding]:
    """Gradients that are exactly zero, or not finite, give an attack no direction."""
    rows = torch.arange(len(probe.images), device=probe.images.device)
    kinds: tuple[tuple[str, Callable[[Tensor, Tensor], Tensor], Severity, str], ...] = (
        ("cross_entropy_gradients", cross_entropy, "warn", "the cross-entropy is saturated; trust apgd_dlr before pgd"),
        ("margin_gradients", margin, "refuse", "the model lets no gradient through; only black-box attacks see it"),
    )
    for name, loss, severity, meaning in kinds:
        with as_evaluated(probe.model):
            _, _, gradient = probe.calls().gradient(probe.images, rows, lambda z, r, f=loss: f(z, probe.labels[r]))
        zero = float((gradient.flatten(1) == 0).all(1).float().mean())
        yield Finding(name, zero <= probe.config.tolerance, severity, {"share_zero": zero}, meaning)


def _budgets(probe: _Probe) -> Iterator[Finding]:
    """More steps, more starts and more room may not help the model."""
    config, tolerance = probe.config, probe.config.tolerance
    counts = (1, config.num_steps, LONG * config.num_steps)
    by_steps = [_accuracy(probe.pgd(count)) for count in counts]
    passed = all(later <= earlier + tolerance for earlier, later in pairwise(by_steps))
    numbers = {f"robust_{count}_steps": value for count, value in zip(counts, by_steps, strict=True)}
    yield Finding("more_steps_do_not_help_less", passed, "refuse", numbers, "gradients lead away from the boundary")
    one, many = _accuracy(probe.pgd(config.num_steps)), _accuracy(probe.pgd(config.num_steps, config.num_restarts))
    numbers = {"robust_1_start": one, f"robust_{config.num_restarts}_starts": many}
    meaning = "the start decides; report attacks with more restarts"
    yield Finding("one_start_is_enough", one - many <= tolerance, "warn", numbers, meaning)
    tells = tolerance <= one <= 1 - tolerance
    meaning = "all pictures fall or all stand, so that this budget compares nothing and hides what the others look for"
    yield Finding("budget_tells", tells, "warn", {"robust": one}, meaning)
    wide = _accuracy(probe.pgd(config.num_steps, scale=2.0))
    numbers = {"robust": one, "robust_twice_eps": wide}
    yield Finding("more_room_does_not_help_less", wide <= one + tolerance, "refuse", numbers, "more eps, less success")
    unbounded = _accuracy(probe.apgd(1.0))
    meaning = "free pixels should fool any model; the attack is broken or gradients are masked"
    yield Finding("unbounded_eps_reaches_zero", unbounded <= tolerance, "refuse", {"robust": unbounded}, meaning)


def _without_gradients(probe: _Probe) -> Iterator[Finding]:
    """Nothing that does without the model's gradients may find what gradients did not."""
    tolerance, white = probe.config.tolerance, probe.white_box()
    square = Square(eps=probe.eps, num_queries=probe.config.num_queries, **probe.running.fields())
    black = probe.fooled("square", square)
    missed = float((black & ~white).float().mean())
    numbers = {"robust_white_box": _accuracy(white), "robust_black_box": _accuracy(black), "missed": missed}
    meaning = "a black-box attack finds what gradients do not"
    yield Finding("black_box_not_stronger", missed <= tolerance, "refuse", numbers, meaning)
    for number, surrogate in enumerate(probe.surrogates):
        moved = _transferred(probe, surrogate)
        missed = float((moved & ~white).float().mean())
        numbers = {"robust_white_box": _accuracy(white), "robust_transfer": _accuracy(moved), "missed": missed}
        meaning = "pictures made against another model find what this model's gradients do not"
        yield Finding(f"transfer_{number}_not_stronger", missed <= tolerance, "refuse", numbers, meaning)


def _transferred(probe: _Probe, surrogate: nn.Module) -> Tensor:
    steps = LONG * probe.config.num_steps
    attack = Pgd(eps=probe.eps, step=2.5 * probe.eps / steps, num_steps=steps, **probe.running.fields())
    made = attack(surrogate, probe.images, probe.labels, probe.keys).adversarial
    with as_evaluated(probe.model):
        logits = probe.calls().logits(made, torch.arange(len(made), device=made.device))
    return answers_of(logits) != probe.labels


CHECKS: tuple[Callable[[_Probe], Iterator[Finding]], ...] = (_outputs, _gradients, _budgets, _without_gradients)


def trust_findings(
    model: nn.Module,
    images: Float[Tensor, " b c h w"],
    labels: Int[Tensor, " b"],
    keys: Sequence[str],
    config: TrustConfig,
    running: Running | None = None,
    surrogates: Sequence[nn.Module] = (),
) -> list[Finding]:
    """Return the findings of the gradient-masking suite on the pictures that the model gets right.

    `surrogates` are other classifiers of the same classes, for the transfer checks. Raises ValueError where images
    are outside [0, 1] or none is classified right, unless logits are not finite: then this is the only finding.
    """
    check_inputs(images, labels, keys)
    running = running or Running()
    with as_evaluated(model):
        calls = ModelCalls(model, running.micro_batch, running.padded)
        logits = calls.logits(images, torch.arange(len(images), device=images.device))
    rows, finite = (answers_of(logits) == labels).nonzero()[:, 0], all_finite(logits)
    share = float(finite.float().mean())
    if not len(rows) and share < 1:
        return [_finite_logits(share)]
    if not len(rows):
        raise ValueError(f"images: not one of {len(images)} is classified right; valid: a model of these classes")
    probe = _Probe(model, images[rows], labels[rows], of_rows(keys, rows), config, running, surrogates, share)
    return [finding for check in CHECKS for finding in check(probe)]


def require_trusted(findings: Sequence[Finding], refuse: bool) -> list[str]:
    """Return one warning per failed check; Untrusted, naming them, where one of them is to be refused and may be."""
    failed = [finding for finding in findings if not finding.passed]
    lines = [f"{finding.name}: {finding.meaning} ({_numbers(finding)})" for finding in failed]
    if refuse and any(finding.severity == "refuse" for finding in failed):
        raise Untrusted("; ".join(lines))
    return lines


def _numbers(finding: Finding) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in finding.numbers.items())
