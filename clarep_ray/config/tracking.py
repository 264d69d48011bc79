"""Where runs are logged."""

from __future__ import annotations

from dataclasses import dataclass, field

from clarep_ray.dotted import EXECUTION, check_types


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """MLflow."""

    enabled: bool = field(default=True, metadata=EXECUTION)
    """Log the run to MLflow."""
    uri: str | None = field(default=None, metadata=EXECUTION)
    """Tracking URI; None takes MLFLOW_TRACKING_URI, else a sqlite file mlflow.db in the current folder."""
    experiment: str = field(default="clarep-ray", metadata=EXECUTION)
    """MLflow experiment."""

    def __post_init__(self) -> None:
        check_types(self)
