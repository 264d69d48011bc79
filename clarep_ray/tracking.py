"""MLflow behind three functions. A server that is dead or refuses costs a warning, never a result."""

from __future__ import annotations

import json
import logging
import os
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clarep_ray.config import TrackingConfig

DEFAULT_FILE = "mlflow.db"
MAX_PARAM_LENGTH = 500
UNNAMEABLE = r"[^\w\-. /]"
"""What MLflow refuses in the name of a metric, such as the @ of `random@1`."""


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """A model for MLflow's registry without pickles: a file of code that calls `set_model`, and folders it reads.

    Shapes are those of float32 arrays, -1 for the batch.
    """

    code: Path
    artifacts: Mapping[str, str]
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]


def tracking_uri(config: TrackingConfig, output: Path) -> str:
    """Return where runs are logged: the config, MLFLOW_TRACKING_URI, or a sqlite file.

    The file lies in the current folder; inside a submitted Ray job, whose folder is temporary, beside the output.
    """
    if config.uri or os.environ.get("MLFLOW_TRACKING_URI"):
        return config.uri or os.environ["MLFLOW_TRACKING_URI"]
    folder = output.parent if in_submitted_job() else Path.cwd()
    return f"sqlite:///{folder.absolute() / DEFAULT_FILE}"


def in_submitted_job() -> bool:
    """Say whether this process is the entrypoint of a submitted Ray job, whose folder is a temporary copy."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def log_run(
    config: TrackingConfig,
    name: str,
    output: Path,
    *,
    params: Mapping[str, Any],
    metrics: Mapping[str, float],
    tags: Mapping[str, str],
    artifacts: list[Path],
    model: ServedModel | None = None,
) -> str | None:
    """Log a finished run and return the tracking URI, or None where tracking is off or failed (with a warning)."""
    if not config.enabled:
        return None
    uri = tracking_uri(config, output)
    try:
        _log(uri, config, name, output, params=params, metrics=metrics, tags=tags, artifacts=artifacts, model=model)
    except Exception as error:  # whatever MLflow raises, the run's result stands
        warnings.warn(f"MLflow at {uri} did not take the run: {error}"[:500], stacklevel=2)
        return None
    return uri


def _log(
    uri: str,
    config: TrackingConfig,
    name: str,
    output: Path,
    *,
    params: Mapping[str, Any],
    metrics: Mapping[str, float],
    tags: Mapping[str, str],
    artifacts: list[Path],
    model: ServedModel | None,
) -> None:
    for setting, value in {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}.items():
        os.environ.setdefault(setting, value)
    import mlflow

    for chatty in ("mlflow", "alembic"):  # after the import, which sets its own levels
        logging.getLogger(chatty).setLevel(logging.WARNING)

    mlflow.set_tracking_uri(uri)
    if uri.startswith("sqlite:") and mlflow.get_experiment_by_name(config.experiment) is None:
        folder = Path(uri.removeprefix("sqlite:///")).parent / "mlartifacts"
        mlflow.create_experiment(config.experiment, artifact_location=folder.as_uri())
    mlflow.set_experiment(config.experiment)
    with mlflow.start_run(run_name=name):
        mlflow.set_tags({**tags, "output": str(output)})
        mlflow.log_params({key: str(value)[:MAX_PARAM_LENGTH] for key, value in params.items()})
        mlflow.log_metrics({re.sub(UNNAMEABLE, "_", key): value for key, value in metrics.items()})
        mlflow.log_text(json.dumps(dict(params), indent=1, default=str), "config.json")
        for path in artifacts:
            mlflow.log_artifact(str(path))
        if model is not None:
            _log_model(model)


def _log_model(model: ServedModel) -> None:
    import mlflow.pyfunc
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    inputs, outputs = (
        Schema([TensorSpec(np.dtype("float32"), shape)]) for shape in (model.input_shape, model.output_shape)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is no example input: the signature says all there is
        mlflow.pyfunc.log_model(
            name="student",
            python_model=str(model.code),
            artifacts=dict(model.artifacts),
            signature=ModelSignature(inputs=inputs, outputs=outputs),
            pip_requirements=["clarep-ray"],  # MLflow would otherwise run the model in another process to find them
        )
