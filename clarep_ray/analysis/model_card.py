"""What a trained embedded diffusion model can do, measured, and the card that says so."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from clarep_ray.clarid.sampling import decode, guided_eps
from clarep_ray.config import ModelConfig, TrainCdmConfig
from clarep_ray.data.inside import write_inside
from clarep_ray.data.spurious_digits import CLASS_NAMES, NUM_CLASSES
from clarep_ray.models import digit_classifier
from clarep_ray.models.digits_dit import DigitsDit, build
from clarep_ray.seeding import torch_generator

NUM_SAMPLES, SAMPLING_STEPS, GRID_COLUMNS = 500, 50, 20


def can_judge(config: TrainCdmConfig, class_names: Sequence[str]) -> bool:
    """Say whether the shipped judges read what a trained model draws: all ten embedded digits, 16 pixels, guided."""
    embedded = config.data.source == "spurious_digits" and config.image_size == 16 and tuple(class_names) == CLASS_NAMES
    return embedded and config.network == "digits_dit" and config.label_dropout > 0


def sample_digits(
    model: DigitsDit, labels: torch.Tensor, guidance_scale: float = 1.0, seed: int = 0, num_steps: int = SAMPLING_STEPS
) -> NDArray[np.uint8]:
    """Return pictures (n, h, w, 3) sampled from noise by DDIM, conditioned on the labels."""
    times = model.schedule.times(num_steps)
    draws = [
        torch.randn(model.latent_shape, generator=torch_generator(seed, str(i), "sample")) for i in range(len(labels))
    ]
    denoise = guided_eps(model, model.cond(labels), model.null_cond(len(labels)), guidance_scale)
    pixels = decode(denoise, torch.stack(draws), model, times)
    return ((pixels + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()


def measure(folder: Path) -> dict[str, float]:
    """Return the shares of conditional samples read as their class, and standing on its background, per guidance."""
    model = build(ModelConfig(weights=str(folder)))
    labels = torch.arange(NUM_SAMPLES) % NUM_CLASSES
    found: dict[str, float] = {}
    for scale in (1.0, 2.0, 3.0):
        images = sample_digits(model, labels, scale)
        if scale == 1.0:
            _grid(images[: 5 * GRID_COLUMNS], folder)
        for target in digit_classifier.TARGETS:
            read = digit_classifier.load(target).predict(images)
            found[f"{target} is the class's, guidance {scale:g}"] = float((read == labels.numpy()).mean())
    return found


def write_card(folder: Path, result: dict[str, Any], command: str) -> dict[str, float]:
    """Measure the model, write `README.md` and `samples.png` beside its weights, and return the measurements."""
    found = measure(folder)
    config = result["config"]
    correlation = config["data.digits.correlation"]
    settings = {name: value for name, value in config.items() if name != "output" and "tracking." not in name}
    rows = "\n".join(f"| {name} | {value:.3f} |" for name, value in found.items())
    card = f"""# Embedded diffusion model, background correlation {correlation}

Class-conditional DiT in pixel space (diffusers `DiTTransformer2DModel`), {config["prediction"]}, 1000 linear timesteps,
trained on `spurious_digits` with background correlation {correlation}. Weights: exponential average,
float16. Licence: Apache-2.0. The strokes come from scikit-learn's `load_digits` (UCI, CC BY 4.0).

Made by `{command}` (seed {config["seed"]}, {result["steps"]} steps of {config["batch_size"]} images,
final training loss {result["loss"]:.4f}, training pictures sha256 `{result["data_sha256"][:16]}`).

| {NUM_SAMPLES} samples, {SAMPLING_STEPS} DDIM steps, judged by the shipped classifiers | share |
|---|---|
{rows}

![samples](samples.png)

Intended for tests and demonstrations of this project. Full settings:

```json
{json.dumps(settings, indent=1)}
```
"""
    write_inside(folder.parent, f"{folder.name}/README.md", card.encode())
    return found


def _grid(images: NDArray[np.uint8], folder: Path) -> None:
    rows = [np.concatenate(list(images[i : i + GRID_COLUMNS]), 1) for i in range(0, len(images), GRID_COLUMNS)]
    sheet = Image.fromarray(np.concatenate(rows))
    buffer = io.BytesIO()
    sheet.resize((sheet.width * 2, sheet.height * 2), Image.Resampling.NEAREST).save(buffer, "PNG")
    write_inside(folder.parent, f"{folder.name}/samples.png", buffer.getvalue())
