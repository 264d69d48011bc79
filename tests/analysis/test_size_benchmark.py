import pytest
import torch

from clarep_ray import models
from clarep_ray.analysis.size_benchmark import HEADER, run
from clarep_ray.config import SizeBenchmarkConfig
from clarep_ray.models.full_size import FULL_SIZE, dit_xl_network


@pytest.mark.parametrize("name", ["dit", "stable_diffusion"])
def test_every_precision_and_batch_is_a_row(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FULL_SIZE, "dit_xl", lambda depth: models.build_tiny(name))
    config = SizeBenchmarkConfig(
        precisions=("float32", "bfloat16"), micro_batches=(1, 3), num_steps=5, num_directions=4, max_products=60
    )
    rows = [line.strip("| ").split(" | ") for line in run(config).splitlines()[2:6]]
    assert [(row[0], row[1]) for row in rows] == [(p, b) for p in ("float32", "bfloat16") for b in ("1", "3")]
    assert all(len(row) == len(HEADER) for row in rows)
    assert all(float(row[2]) > 0 for row in rows)
    assert [row[-1] for row in rows[:2]] == ["1/1", "3/3"], "the first precision is the reference"
    assert rows[0][-2] == rows[1][-2].split()[0], "k of a picture does not depend on the batch"


def test_the_full_size_is_the_published_one() -> None:
    with torch.device("meta"):
        network = dit_xl_network(28)
    # diffusers gives every block a copy of the time and label embedding that the published network has once.
    copies = [name for name, _ in network.named_parameters() if ".norm1.emb." in name]
    first = [name for name in copies if name.startswith("transformer_blocks.0.")]
    sizes = {name: value.numel() for name, value in network.named_parameters()}
    total = sum(sizes.values()) - sum(sizes[name] for name in copies if name not in first)
    assert total == pytest.approx(675e6, rel=0.005)
