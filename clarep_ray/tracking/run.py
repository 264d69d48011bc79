"""One run as a job sees it: calls that write to the outbox and return."""

from __future__ import annotations

import hashlib
import io
import json
import os
import posixpath
import re
import threading
import time
import warnings
from collections import Counter
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from clarep_ray.config import TrackingConfig
from clarep_ray.config.credentials import redact
from clarep_ray.data.inside import NotInside, open_inside
from clarep_ray.data.records import printable
from clarep_ray.tracking.entries import MAX_KEY, MAX_NAME, NOTE
from clarep_ray.tracking.outbox import Outbox, OutboxBusy, find_outbox, new_outbox
from clarep_ray.tracking.sender import Sender
from clarep_ray.tracking.tags import environment_tags
from clarep_ray.tracking.told import Told
from clarep_ray.tracking.uri import browse_hint, tracking_uri

Status = Literal["FINISHED", "FAILED", "KILLED"]
MAX_PARAM, MAX_TAG, MAX_DIGEST = 500, 5000, 16
"""Characters that servers of any age take and pages have room for; `config.json` holds values in full."""
UNNAMEABLE = r"[^\w\-. /]"
"""What MLflow refuses in the names of metrics and images, such as the @ of `random@1`."""
METRIC_LENGTH = 250
"""Characters of a metric's name that MLflow takes."""
PATIENCE_S, FILE_PATIENCE_S = 15.0, 120.0
"""How long the end of a run waits for a server that is at work, and for a file of this machine, which is made new in
five seconds, or in minutes where the cores are busy. What fails is not waited for."""
STOPPED_PATIENCE_S = 1.0
"""Of a run that was stopped: who pressed Ctrl-C waits for it, and who sends SIGTERM kills after seconds."""
MAX_HASHED_BYTES = 32_000_000
CONFIG = "config.json"


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """A model for MLflow's registry without pickles: a kind whose code is ours, and the folder with its weights.

    The folder lies in the run's output. Shapes are those of float32 arrays, -1 for the batch.
    """

    kind: Literal["student"]
    folder: Path
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]


class Run:
    """A run of MLflow, as a context manager; `start_run` makes one. No method waits for a server or raises its errors.

    Left by an exception it ends as FAILED, by an interruption as KILLED, else as FINISHED. What a job that continues
    tells again is one point: the same key, step and value are never sent twice.
    """

    def __init__(self, outbox: Outbox | None, sender: Sender | None, uri: str, fingerprint: str) -> None:
        self._outbox, self._sender, self._uri, self._fingerprint = outbox, sender, uri, fingerprint
        self._told = Told(outbox.entries if outbox else ())
        self._lock = threading.Lock()
        self.id: str | None = outbox.run if outbox else None
        """What the run is called before any server knows it, for `parent`; None where tracking is off."""

    @property
    def browse(self) -> str | None:
        """What to run or open to look at the run, without passwords; None where tracking is off."""
        return browse_hint(self._uri) if self.id else None

    def params(self, values: Mapping[str, Any]) -> None:
        """Tell settings by dotted field, and keep them in full, with the fingerprint, as the artefact `config.json`.

        MLflow's parameters cannot change: a field that a continued job changed keeps its first value there.
        """
        if fresh := {name: value for name, value in values.items() if name not in self._told.params}:
            self._put("params", values={name: redact(str(value))[:MAX_PARAM] for name, value in fresh.items()})
        text = redact(json.dumps({"fingerprint": self._fingerprint, "config": dict(values)}, indent=1, default=str))
        if self._told.artifacts.get(CONFIG) != text:
            self._put("text", name=CONFIG, text=text)

    def tags(self, values: Mapping[str, str]) -> None:
        """Tell tags; the last value of a tag stays."""
        cut = {name: redact(str(value))[:MAX_TAG] for name, value in values.items()}
        if fresh := {name: value for name, value in cut.items() if self._told.tags.get(name) != value}:
            self._put("tags", values=fresh)

    def note(self, markdown: str) -> None:
        """Tell the description that MLflow shows with the run."""
        self.tags({NOTE: markdown})

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Tell numbers, of a step (epoch, images done, ...) or of the whole run (None: MLflow's step 0)."""
        names = _names(values)
        at, named = step or 0, {names[name]: float(value) for name, value in values.items()}
        if fresh := {name: value for name, value in named.items() if not self._told.has_point(name, at, value)}:
            self._put("metrics", values=fresh, step=at)

    def image(self, key: str, picture: Path | NDArray[Any], step: int = 0) -> None:
        """Tell a picture for the image grid: a file that stays, or an array (h, w[, 3]) of uint8, or floats in [0, 1].

        Raises ValueError for an array of another kind.
        """
        if self._outbox is None:
            return
        pixels = picture if isinstance(picture, Path) else _as_uint8(picture)
        with _surviving():
            path = pixels if isinstance(pixels, Path) else self._outbox.save(*_png(pixels))
            place, key = self._path(path), _name(key)[:MAX_KEY]
            version = _version(self._outbox.output, place)
            if self._told.images.get((key, step)) != version:
                self._put("image", key=key, step=step, path=place, version=version)

    def artifact(self, path: Path) -> None:
        """Tell a file, which has to stay where it is: it is read when it is sent."""
        if self._outbox is None:
            return
        with _surviving():
            place = self._path(path)
            version = _version(self._outbox.output, place)
            if self._told.artifacts.get(place) != version:
                self._put("artifact", path=place, version=version)

    def files(self, paths: Iterable[Path]) -> None:
        """Tell what a job made: PNG pictures by their names for the image grid, everything else as artefacts."""
        for path in paths:
            if path.suffix == ".png":
                self.image(f"pictures/{path.stem}", path)
            else:
                self.artifact(path)

    def dataset(self, name: str, digest: str, source: str, context: str) -> None:
        """Tell what was read: the digest of our own manifest, where it lies, and what for (`training`, ...)."""
        entry = {"name": name, "digest": digest[:MAX_DIGEST], "source": redact(source), "context": context}
        if entry not in self._told.datasets:
            self._put("dataset", **entry)

    def model(self, served: ServedModel, name: str, tags: Mapping[str, str] | None = None) -> None:
        """Tell a model, which becomes a version of the registered model `name`; once per run and name."""
        if name not in self._told.models:
            with _surviving():
                settings = {"kind": served.kind, "folder": self._path(served.folder)}
                shapes = {"input_shape": served.input_shape, "output_shape": served.output_shape}
                self._put("model", **settings, **shapes, name=name, tags=dict(tags or {}))

    def close(self, status: Status = "FINISHED", wait: bool = True) -> None:
        """End the run and send what can be sent now; warns once where something is left. A second call does nothing.

        Without `wait`, it is sent while the process goes on, and what a server did not take is not spoken of.
        """
        if self._told.status != status:
            self._put("close", status=status)
        sender, self._sender, self._outbox = self._sender, None, None
        patience_s = FILE_PATIENCE_S if self._uri.startswith("sqlite:") else PATIENCE_S
        if sender is not None and not wait:
            sender.end()
        elif sender is not None and status == "KILLED":
            sender.finish(STOPPED_PATIENCE_S)  # the next run of the job sends the rest: nothing to speak of
        elif sender is not None and (problem := sender.finish(patience_s)):
            warnings.warn(problem, stacklevel=2)

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, KeyboardInterrupt):
            self.close("KILLED")
        elif error is not None:
            self.tags({"error": f"{type(error).__name__}: {error}"[:MAX_PARAM]})
            self.close("FAILED")
        else:
            self.close()

    def _put(self, op: str, **fields: Any) -> None:
        if self._outbox is None or self._sender is None:
            return
        now = {"time_ms": time.time_ns() // 1_000_000}
        with _surviving(), self._lock:
            for entry in ([{"op": "reopen"}] if self._told.status else []) + [{"op": op, **fields}]:
                self._outbox.append(entry | now)
                self._told.add(entry)
            self._sender.wake()

    def _path(self, path: Path) -> str:
        """Return a path relative to the output folder, which may be moved; NotInside where it lies elsewhere."""
        if self._outbox is None:
            return ""
        path, root = path.absolute(), self._outbox.output.absolute()
        if not path.is_relative_to(root):
            raise NotInside(f"{str(path)!r} is not in the output {str(root)!r}")
        return path.relative_to(root).as_posix()


def start_run(
    config: TrackingConfig,
    name: str,
    output: Path,
    *,
    job: str,
    fingerprint: str,
    parent: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> Run:
    """Start the run of a job about the folder `output`, or continue the one with the same job and fingerprint.

    `name` is what MLflow shows. `parent` is the `id` of another run: this one is then nested in it. Tags that every
    run has (job, fingerprint, output, version, git revision, Ray job) need not be given. Where the folder cannot be
    used, or another process logs this run, there is one warning, and the run that is returned tells nobody.
    """
    uri = tracking_uri(config, output)
    if not config.enabled:
        return Run(None, None, uri, fingerprint)
    try:
        outbox = find_outbox(output, job, fingerprint) or new_outbox(output)
        if not outbox.entries:
            known = {
                "job": job,
                "fingerprint": fingerprint,
                "output": str(output),
                **environment_tags(),
                **(tags or {}),
            }
            cut = {key: redact(value)[:MAX_TAG] for key, value in known.items()}
            shown = printable(name)[:MAX_NAME]
            first = {"op": "open", "name": shown, "job": job, "fingerprint": fingerprint, "parent": parent, "tags": cut}
            outbox.append(first | {"time_ms": time.time_ns() // 1_000_000})
    except (OSError, OutboxBusy, ValueError) as error:
        warnings.warn(f"this run is not in MLflow: {redact(str(error))}", stacklevel=2)
        return Run(None, None, uri, fingerprint)
    return Run(outbox, Sender(outbox, uri, config), uri, fingerprint)


@contextmanager
def _surviving() -> Generator[None]:
    """Turn a full disk, a missing file or an impossible name into a warning: no job fails for what MLflow is told."""
    try:
        yield
    except (OSError, ValueError) as error:
        warnings.warn(f"MLflow is not told everything: {error}", stacklevel=4)


def _version(output: Path, place: str) -> str:
    """Return what tells a file from what was there before: its sha256, or size and time where that would take long."""
    with open_inside(output, place) as file:
        stat = os.fstat(file.fileno())
        if stat.st_size > MAX_HASHED_BYTES:
            return f"{stat.st_size}-{stat.st_mtime_ns}"
        return hashlib.file_digest(file, "sha256").hexdigest()


def _name(name: str) -> str:
    """Return a name that MLflow takes: of known characters, not too long, and no path but the plainest."""
    plain = re.sub(UNNAMEABLE, "_", name)
    if len(plain) <= METRIC_LENGTH and plain == posixpath.normpath(plain) and not plain.startswith((".", "/")):
        return plain
    parts = (part.strip(".") for part in plain.split("/"))
    return _marked("/".join(part for part in parts if part), name)


def _names(names: Iterable[str]) -> dict[str, str]:
    """Return {name: what MLflow is told}, of which no two are the same."""
    plain = {name: _name(name) for name in names}
    counts = Counter(plain.values())
    return {name: found if counts[found] == 1 else _marked(found, name) for name, found in plain.items()}


def _marked(plain: str, name: str) -> str:
    return f"{plain[: METRIC_LENGTH - 9]}-{hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:8]}"


def _as_uint8(picture: NDArray[Any]) -> NDArray[np.uint8]:
    shaped = picture.ndim == 2 or (picture.ndim == 3 and picture.shape[-1] == 3)
    if shaped and picture.dtype == np.uint8:
        return picture
    if shaped and picture.dtype.kind == "f" and picture.size and picture.min() >= 0.0 and picture.max() <= 1.0:
        return (picture * 255.0 + 0.5).astype(np.uint8)
    raise ValueError(
        f"picture: an array {picture.shape} of {picture.dtype} is not valid; valid: (h, w) or (h, w, 3), uint8 or "
        "floats in [0, 1]"
    )


def _png(picture: NDArray[np.uint8]) -> tuple[str, bytes]:
    """Return an image as PNG and a name for it, the hash of its pixels."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return f"{hashlib.sha256(repr(picture.shape).encode() + picture.tobytes()).hexdigest()[:16]}.png", file.getvalue()
