"""Entries of an outbox as calls of MLflow, each of which can be made again without effect.

What MLflow makes idempotent is left to it: a metric with the same key, step, timestamp and value is one row, a
parameter or a tag set again is the same, a data set with the same name and digest is one, a file uploaded again
replaces itself. What it does not (runs, logged models, model versions) carries the outbox's run as a tag and is looked
for before it is made.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clarep_ray.data.inside import NotInside, read_inside
from clarep_ray.data.records import shown
from clarep_ray.tracking.entries import JOBS_WITH_MODELS, REFUSED, Entry
from clarep_ray.tracking.outbox import Outbox
from clarep_ray.tracking.told import as_number
from clarep_ray.tracking.uri import credentials_aside

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

RUN_TAG, PARENT_TAG, IMAGES_TAG = "clarep_run", "mlflow.parentRunId", "mlflow.loggedImages"
CONTEXT_TAG, KIND_TAG = "mlflow.data.context", "mlflow.experimentKind"
MAX_METRICS, MAX_OTHERS = 1000, 100
"""Metrics, and parameters or tags, that MLflow takes in one call."""
LIMITS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
"""MLflow's own retries would block for 247 s a call; ours are between calls. Its bars, and its links with the password
of the URL, would run through our lines."""
MAX_ARTIFACT_BYTES, MAX_IMAGE_BYTES, MAX_PIXELS = 256 * 2**20, 64 * 2**20, 10**8
"""Of a file that is uploaded, and of an image for the grid."""
FINAL = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "INVALID_STATE")
"""Error codes with which a server says that it will never take this entry."""


class Refused(Exception):
    """The server will never take this entry."""


class Delivery:
    """One run's way to one server and experiment. Everything may raise whatever MLflow raises."""

    def __init__(self, outbox: Outbox, uri: str, experiment: str, registered_model: str) -> None:
        self._outbox, self._uri, self._experiment_name = outbox, uri, experiment
        self._registered_model = registered_model
        self._uploaded: dict[str, str] = {}
        self._client: MlflowClient | None = None
        self._experiment_id = ""
        self.run_id = ""
        """The server's id of the run; empty before it is known."""

    def finds_run(self) -> bool:
        """Say whether the server knows the run, which is asked once.

        Where a create call that was given up came through late, there are two: the one that has entries stays, and
        another one only goes where it is empty.
        """
        if not self.run_id:
            runs = self._search(self._outbox.run)
            _, known = self._outbox.sent(self._uri, self._experiment_name)
            kept = next((run for run in runs if run.info.run_id == known), runs[0] if runs else None)
            for run in runs:
                if run is not kept and not (run.data.metrics or run.data.params):
                    self.client.delete_run(run.info.run_id)
            self.run_id = kept.info.run_id if kept else ""
        return bool(self.run_id)

    def deliver(self, entries: Sequence[Entry]) -> None:
        """Send one entry, or several of metrics. Raises Refused where they can never be sent."""
        from mlflow.exceptions import MlflowException

        calls: dict[str, Callable[[Entry], object]] = {
            "open": self._open,
            "reopen": lambda _: self.client.update_run(self.run_id, status="RUNNING"),
            "params": self._params,
            "tags": self._tags,
            "metrics": lambda _: self._metrics(entries),
            "text": lambda entry: self.client.log_text(self.run_id, entry["text"], entry["name"]),
            "image": self._image,
            "artifact": self._artifact,
            "dataset": self._dataset,
            "model": self._model,
            "close": self._close,
        }
        first = entries[0]
        if first["op"] == REFUSED:
            raise Refused(first["why"])
        try:
            calls[first["op"]](first)
        except (FileNotFoundError, NotInside) as error:
            raise Refused(str(error)) from None
        except MlflowException as error:
            if first["op"] != "open" and error.error_code in FINAL:
                raise Refused(str(error)) from None
            raise

    @property
    def client(self) -> MlflowClient:
        if self._client is None:
            for setting, value in LIMITS.items():
                os.environ.setdefault(setting, value)
            from mlflow import MlflowClient

            for chatty in ("mlflow", "alembic"):  # after the import, which sets its own levels
                logging.getLogger(chatty).setLevel(logging.ERROR)
            uri = credentials_aside(self._uri)
            self._client = MlflowClient(uri, registry_uri=uri)
        return self._client

    @property
    def _experiment(self) -> str:
        """The experiment's id; it is made where the server has none of the name."""
        if not self._experiment_id:
            found = self.client.get_experiment_by_name(self._experiment_name)
            if found is not None and found.lifecycle_stage != "active":
                raise ValueError(f"the experiment {self._experiment_name!r} is deleted; restore it, or choose another")
            self._experiment_id = found.experiment_id if found else self._make_experiment()
        return self._experiment_id

    def _make_experiment(self) -> str:
        folder = None
        if self._uri.startswith("sqlite:"):  # artefacts beside the file, wherever a process works
            folder = (Path(self._uri.removeprefix("sqlite:///")).absolute().parent / "mlartifacts").as_uri()
        tags = {KIND_TAG: "custom_model_development"}  # else MLflow's pages expect conversations, not trainings
        return self.client.create_experiment(self._experiment_name, folder, tags)

    def _search(self, run: str) -> list[Run]:
        """Return the server's runs of an outbox, the first one made first."""
        found = self.client.search_runs([self._experiment], f"tags.{RUN_TAG} = '{run}'")
        return sorted(found, key=lambda run: (run.info.start_time, run.info.run_id))

    def _open(self, entry: Entry) -> None:
        if self.finds_run():
            return
        tags = {**entry["tags"], RUN_TAG: self._outbox.run}
        if entry["parent"]:
            parents = self._search(entry["parent"])
            if not parents:
                raise ValueError("its parent run is not there yet")
            tags[PARENT_TAG] = parents[0].info.run_id
        self.client.create_run(self._experiment, start_time=entry["time_ms"], tags=tags, run_name=entry["name"])
        self.finds_run()

    def _params(self, entry: Entry) -> None:
        from mlflow.entities import Param

        for some in _batches([Param(name, value) for name, value in entry["values"].items()]):
            self.client.log_batch(self.run_id, params=some)

    def _tags(self, entry: Entry) -> None:
        from mlflow.entities import RunTag

        for some in _batches([RunTag(name, value) for name, value in entry["values"].items()]):
            self.client.log_batch(self.run_id, tags=some)

    def _metrics(self, entries: Sequence[Entry]) -> None:
        from mlflow.entities import Metric

        points = [
            Metric(name, as_number(value), entry["time_ms"], entry["step"])
            for entry in entries
            for name, value in entry["values"].items()
        ]
        for some in _batches(points, MAX_METRICS):
            self.client.log_batch(self.run_id, metrics=some)

    def _artifact(self, entry: Entry) -> None:
        """Upload a copy of a file: MLflow would follow a link that somebody put in its place meanwhile.

        What was uploaded in this process and is still the same is not uploaded again, however often it is told.
        """
        data = self._read(entry["path"], MAX_ARTIFACT_BYTES)
        digest = hashlib.sha256(data).hexdigest()
        if self._uploaded.get(entry["path"]) == digest:
            return
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / Path(entry["path"]).name
            copy.write_bytes(data)
            self.client.log_artifact(self.run_id, str(copy))
        self._uploaded[entry["path"]] = digest

    def _read(self, path: str, max_bytes: int) -> bytes:
        """Return a file of the output; Refused where it cannot be read, which no server can help."""
        try:
            return read_inside(self._outbox.output, path, max_bytes)
        except (OSError, NotInside) as error:
            raise Refused(str(error)) from None

    def _image(self, entry: Entry) -> None:
        """Upload a picture and its small copy as `MlflowClient.log_image` names them, but for a name we can repeat."""
        from mlflow.tracking.multimedia import compress_image_size
        from PIL import Image

        key, step = entry["key"], entry["step"]
        name = uuid.uuid5(uuid.UUID(self._outbox.run), f"{key}/{step}/{entry['version']}")
        stem = f"{key.replace('/', '~')}+step+{step}+timestamp+{entry['time_ms']}+{name}"
        data = self._read(entry["path"], MAX_IMAGE_BYTES)
        with tempfile.TemporaryDirectory() as folder:
            try:
                with Image.open(io.BytesIO(data), formats=("PNG",)) as picture:
                    if picture.width * picture.height > MAX_PIXELS:
                        raise ValueError(f"more than {MAX_PIXELS} pixels")
                    picture.save(Path(folder) / f"{stem}.png")
                    compress_image_size(picture).save(Path(folder) / f"{stem}+compressed.webp")
            except Exception as error:  # Pillow raises many kinds for what is no image
                raise Refused(f"{entry['path']!r} is no image that can be sent: {shown(str(error))}") from None
            self.client.log_artifacts(self.run_id, folder, "images")
        self.client.set_tag(self.run_id, IMAGES_TAG, "True")

    def _dataset(self, entry: Entry) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        source = json.dumps({"uri": entry["source"]})
        data = Dataset(name=entry["name"], digest=entry["digest"], source_type="local", source=source)
        self.client.log_inputs(self.run_id, [DatasetInput(data, [InputTag(CONTEXT_TAG, entry["context"])])])

    def _model(self, entry: Entry) -> None:
        from clarep_ray.tracking.registry import log_model, register

        job = self._outbox.entries[0].get("job")
        if job not in JOBS_WITH_MODELS:
            raise Refused(f"a run of the job {shown(str(job))!r} makes no model")
        if entry["name"] != self._registered_model:  # whose models are replaced is for this command line to say
            raise Refused(f"tracking.registered_model is {self._registered_model!r}, not {entry['name']!r}")
        model = log_model(self.client, self._experiment, self.run_id, self._outbox.output, entry)
        register(self.client, self.run_id, model, entry)

    def _close(self, entry: Mapping[str, Any]) -> None:
        self.run_id = ""
        if not self.finds_run():  # asked again: a create call that was given up may have come through since
            raise ValueError("the run is gone")
        self.client.set_terminated(self.run_id, entry["status"], entry["time_ms"])


def _batches(items: Sequence[Any], size: int = MAX_OTHERS) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
