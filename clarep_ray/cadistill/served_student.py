"""A student as MLflow loads it: this file is the model's code, the student's folder its data; nothing is pickled."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

from clarep_ray.models.students import Student, load_student


class ServedStudent(PythonModel):
    """Pixels in [0, 1], shape (b, 3, h, w), in; logits out."""

    student: Student
    # MLflow takes hints for a schema and warns of those it does not know, and of none; the schema is the signature.
    _skip_type_hint_validation = True

    def load_context(self, context: Any) -> None:
        self.student = load_student(context.artifacts["student"])

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """Return logits (b, c) as an array."""
        with torch.no_grad():
            return self.student(torch.from_numpy(np.asarray(model_input, np.float32))).numpy()


set_model(ServedStudent())
