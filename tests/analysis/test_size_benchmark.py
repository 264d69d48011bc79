from typing import Any

import pytest
import torch

from clarep_ray import models
from clarep_ray.analysis.size_benchmark import run
from clarep_ray.config import SizeBenchmarkConfig
from clarep_ray.models.full_size import FULL_SIZE, dit_xl_network


@pytest.mark.parametrize("name", ["dit", "stable_diffusion"])
def test_every_precision_and_batch_is_a_row(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FULL_SIZE, "dit_xl", lambda depth: models.build_tiny(name))
    config = SizeBenchmarkConfig(
        precisions=("float32", "bfloat16"), micro_batches=(1, 3), num_steps=5, num_directions=4, max_products=60
    )
    (table,) = run(config)
    rows: list[dict[str, Any]] = table.records()
    assert [(row["precision"], row["batch"]) for row in rows] == [
        (p, b) for p in ("float32", "bfloat16") for b in (1, 3)
    ]
    assert all(row["images/s"] > 0 for row in rows)
    assert all(row["GB"] > 0.1 for row in rows), "of a process with torch"
    assert [row["same k"] for row in rows[:2]] == ["1/1", "3/3"], "the first precision is the reference"
    assert rows[0]["k"] == rows[1]["k"].split()[0], "k of a picture does not depend on the batch"
    assert "Memory at its peak: float32 " in table.notes[1]


def test_the_full_size_is_the_published_one() -> None:
    with torch.device("meta"):
        network = dit_xl_network(28)
    # diffusers gives every block a copy of the time and label embedding that the published network has once.
    copies = [name for name, _ in network.named_parameters() if ".norm1.emb." in name]
    first = [name for name in copies if name.startswith("transformer_blocks.0.")]
    sizes = {name: value.numel() for name, value in network.named_parameters()}
    total = sum(sizes.values()) - sum(sizes[name] for name in copies if name not in first)
    assert total == pytest.approx(675e6, rel=0.005)
