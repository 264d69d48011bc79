"""Models in MLflow: a logged model of the run, and a version of a registered model; neither pickled."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clarep_ray.data.inside import NotInside, read_inside

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel

CODE = {"student": Path(__file__).parent.parent / "cadistill" / "served_student.py"}
"""The file of this package that serves a kind of models: it calls MLflow's `set_model`. No entry names code."""
FILES = {"student": ("config.json", "model.safetensors")}
"""What is uploaded of a kind's folder."""
MAX_MODEL_BYTES = 4 * 2**30
"""Of one file of a model's folder."""
REQUIREMENTS = ["clarep-ray"]
"""Given, for MLflow would otherwise run the model in another process to find out."""


def log_model(client: MlflowClient, experiment: str, run: str, output: Path, entry: Mapping[str, Any]) -> LoggedModel:
    """Return the run's logged model, which is made and uploaded from the output where it is not there yet."""
    found = client.search_logged_models([experiment], filter_string=f"source_run_id = '{run}'")
    known = [model for model in found if model.name == entry["name"]]
    model = known[0] if known else client.create_logged_model(experiment, entry["name"], run, tags=entry["tags"])
    if str(model.status) != "READY":
        with tempfile.TemporaryDirectory() as folder:
            weights = Path(folder) / entry["kind"]
            weights.mkdir()
            for name in FILES[entry["kind"]]:
                try:
                    data = read_inside(output, f"{entry['folder']}/{name}", MAX_MODEL_BYTES)
                except OSError as error:
                    raise NotInside(str(error)) from None
                (weights / name).write_bytes(data)
            _save(Path(folder) / "model", weights, entry, model_id=model.model_id, run_id=run)
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


def _save(folder: Path, weights: Path, entry: Mapping[str, Any], *, model_id: str, run_id: str) -> None:
    """Write what `mlflow.pyfunc.load_model` reads: our code, the folder with the weights and the signature."""
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
        python_model=str(CODE[entry["kind"]]),
        artifacts={entry["kind"]: str(weights)},
        signature=ModelSignature(inputs=inputs, outputs=outputs),
        pip_requirements=REQUIREMENTS,
        mlflow_model=Model(run_id=run_id, model_id=model_id),
    )
