"""Where runs are logged."""

from __future__ import annotations

from dataclasses import dataclass, field

from clarep_ray.config.credentials import check_uri
from clarep_ray.dotted import EXECUTION, check_types


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """MLflow."""

    enabled: bool = field(default=True, metadata=EXECUTION)
    """Log the run to MLflow."""
    uri: str | None = field(default=None, metadata=EXECUTION)
    """Tracking URI; None takes MLFLOW_TRACKING_URI, else a sqlite file mlflow.db in the current folder.

    Without user, password or token: every output repeats its settings."""
    experiment: str = field(default="clarep-ray", metadata=EXECUTION)
    """MLflow experiment."""
    registered_model: str = field(default="clarep-ray-student", metadata=EXECUTION)
    """Name in MLflow's model registry under which a trained student becomes a version."""

    def __post_init__(self) -> None:
        check_types(self)
        if self.uri:
            check_uri("tracking.uri", self.uri)
        if not self.experiment.strip():
            raise ValueError(f"tracking.experiment: {self.experiment!r} is not valid; valid: a name")
        name = self.registered_model
        if not name.strip() or "/" in name or ":" in name:
            raise ValueError(f"tracking.registered_model: {name!r} is not valid; valid: a name without / and :")
