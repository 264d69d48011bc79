"""Models in MLflow: a logged model of the run, and a version of a registered model; neither pickled."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel

REQUIREMENTS = ["clarep-ray"]
"""Given, for MLflow would otherwise run the model in another process to find out."""


def log_model(client: MlflowClient, experiment: str, run: str, entry: Mapping[str, Any]) -> LoggedModel:
    """Return the run's logged model, which is made and uploaded where it is not there yet."""
    found = client.search_logged_models([experiment], filter_string=f"source_run_id = '{run}'")
    known = [model for model in found if model.name == entry["name"]]
    model = known[0] if known else client.create_logged_model(experiment, entry["name"], run, tags=entry["tags"])
    if str(model.status) != "READY":
        with tempfile.TemporaryDirectory() as folder:
            _save(Path(folder) / "model", entry, model_id=model.model_id, run_id=run)
            client.log_model_artifacts(model.model_id, str(Path(folder) / "model"))
        client.finalize_logged_model(model.model_id, "READY")
    outputs = client.get_run(run).outputs
    if model.model_id not in [output.model_id for output in (outputs.model_outputs if outputs else [])]:
        from mlflow.entities import LoggedModelOutput

        client.log_outputs(run, [LoggedModelOutput(model.model_id, step=0)])
    return model


def register(client: MlflowClient, run: str, model: LoggedModel, entry: Mapping[str, Any]) -> None:
    """Make the logged model a version of the registered model of its name, once."""
    name = entry["name"]
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    if not client.search_model_versions(f"name = '{name}' and run_id = '{run}'"):
        # A server resolves models:/ID itself; a database is asked through MLflow's global URI, which is not ours.
        served = client.tracking_uri.startswith(("http://", "https://"))
        source = f"models:/{model.model_id}" if served else model.artifact_location
        client.create_model_version(name, source, run, tags=entry["tags"], model_id=model.model_id)


def _save(folder: Path, entry: Mapping[str, Any], *, model_id: str, run_id: str) -> None:
    """Write what `mlflow.pyfunc.load_model` reads: code, the student's folder and the signature."""
    import mlflow.pyfunc
    import numpy as np
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    warnings.filterwarnings("ignore", ".*input example was not provided")  # the signature says all there is
    inputs, outputs = (
        Schema([TensorSpec(np.dtype("float32"), tuple(entry[shape]))]) for shape in ("input_shape", "output_shape")
    )
    mlflow.pyfunc.save_model(
        path=str(folder),
        python_model=entry["code"],
        artifacts=entry["artifacts"],
        signature=ModelSignature(inputs=inputs, outputs=outputs),
        pip_requirements=REQUIREMENTS,
        mlflow_model=Model(run_id=run_id, model_id=model_id),
    )
