"""How a classifier's labels become a benchmark's: by meaning, and in the benchmark's order from the first logit on."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from clarep_ray.data.class_list import ClassMismatch, Match, match
from clarep_ray.data.records import shown
from clarep_ray.models.classifiers import classes_of
from clarep_ray.robustness.benchmarks import Benchmark

FIELD = "classifier.weights"


class BenchmarkReader(nn.Module):
    """A classifier whose logits are a benchmark's classes, in the benchmark's order.

    Answers, losses and targeted attacks all see this order. Logits of classes that the benchmark does not have do not
    compete, and no attack can win by one of them.
    """

    columns: Tensor

    def __init__(self, model: nn.Module, found: Match) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("columns", torch.tensor(found.labels, device=_device(model)), persistent=False)

    def forward(self, images: Float[Tensor, " b 3 h w"]) -> Float[Tensor, " b classes"]:
        return self.model(images)[:, self.columns]


def match_classifier(weights: str, benchmark: Benchmark) -> Match:
    """Return which logit of a classifier is each class of a benchmark; reads no weights.

    Raises ClassMismatch where the classifier lacks a class: every picture of it would be wrong.
    """
    known = classes_of(weights, FIELD)
    found = match(benchmark.classes, known, f"benchmarks: {benchmark.name}", f"{FIELD} {weights!r}")
    if found.missing:
        raise ClassMismatch(
            f"{FIELD}: {weights!r} lacks {len(found.missing)} of the {len(benchmark.classes)} classes of "
            f"{benchmark.name}, first: {shown(found.missing[0])!r}; it has {known}; {benchmark.name}: "
            f"{benchmark.classes}"
        )
    return found


def as_benchmark(model: nn.Module, found: Match) -> nn.Module:
    """Return the classifier with a benchmark's classes for logits: itself where they are the same."""
    return model if found.same else BenchmarkReader(model, found)


def protocol(found: Match) -> str:
    """Return one line for a report: how labels were matched, and which logits compete."""
    rest = f"; {len(found.labels)} of its {len(found.ours)} logits compete" if found.unused else ""
    return found.describe() + rest


def _device(model: nn.Module) -> torch.device:
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
