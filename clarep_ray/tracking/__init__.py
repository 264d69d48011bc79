"""MLflow that can wait: what a run tells goes to the output folder first and from there to the server, exactly once.

    with tracking.start_run(config.tracking, "extract digits", output, job="extract", fingerprint=mark) as run:
        run.params(dotted.flatten(config))
        run.metrics({"images_per_s": 2.6}, step=240)

A server that is dead, slow, hanging or refusing costs one warning. What it did not take is sent by the next run of the
same job, or by `uv run jobs/replay.py OUTPUT`.
"""

from clarep_ray.tracking.follow import following, tell_lines
from clarep_ray.tracking.run import Run, ServedModel, start_run
from clarep_ray.tracking.sender import replay
from clarep_ray.tracking.uri import in_submitted_job, pinned, tracking_uri

__all__ = [
    "Run",
    "ServedModel",
    "following",
    "in_submitted_job",
    "pinned",
    "replay",
    "start_run",
    "tell_lines",
    "tracking_uri",
]
