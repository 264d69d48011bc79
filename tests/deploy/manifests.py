"""Rendered manifests, their pods, and their published schemas."""

import copy
import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
OVERLAYS = [f"kuberay/overlays/{name}" for name in ("single-node", "gpu-8", "gpu-64")]
JOBS = [f"kuberay/jobs/{name}" for name in ("extract", "calibrate", "distill", "evaluate", "sweep")]
SIZE = "kuberay/jobs/size"
BUCKET = "kuberay/overlays/gpu-8 with kuberay/object-storage"
"""An overlay with a component, as the component's first lines say."""
NAMESPACE, LOADER, MLFLOW = "kuberay/namespace", "kuberay/loader", "mlflow/kubernetes"
KUBERNETES = "1.32"
"""Oldest version of Kubernetes the manifests are checked against; what it knows, later ones know."""
CRDS = {kind: Path(__file__).parent / "crds" / f"{kind.lower()}.json" for kind in ("RayCluster", "RayJob")}
POD_KINDS = ("Deployment", "StatefulSet", "DaemonSet", "Job")

Document = dict[str, Any]


def rendered(folder: str) -> list[Document]:
    """Return what `kubectl apply -k` would send, to be changed at will.

    Skips the test where neither kubectl nor kustomize is installed.
    """
    return copy.deepcopy(_rendered(folder))


@cache
def _rendered(folder: str) -> list[Document]:
    tools = {"kubectl": ["kubectl", "kustomize"], "kustomize": ["kustomize", "build"]}
    command = next((words for tool, words in tools.items() if shutil.which(tool)), None)
    if command is None:
        pytest.skip("neither kubectl nor kustomize is installed")
    overlay, _, component = folder.partition(" with ")
    with tempfile.TemporaryDirectory() as scratch:
        place = DEPLOY / overlay
        if component:
            shutil.copytree(DEPLOY / "kuberay", Path(scratch) / "kuberay")
            place = Path(scratch) / overlay
            with (place / "kustomization.yaml").open("a") as file:
                file.write(f"components: [../../{component.removeprefix('kuberay/')}]\n")
        done = subprocess.run([*command, place], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.load_all(done.stdout, Loader=yaml.CSafeLoader))


def pod_templates(document: Document) -> Iterator[tuple[str, Document]]:
    """Yield every pod template of a document with its role: head, worker, submitter, or the kind it belongs to."""
    spec = document.get("spec", {})
    if document["kind"] == "RayCluster":
        yield "head", spec["headGroupSpec"]["template"]
        for group in spec["workerGroupSpecs"]:
            yield "worker", group["template"]
    elif document["kind"] == "RayJob":
        yield "submitter", spec["submitterPodTemplate"]
    elif document["kind"] == "Pod":
        yield "Pod", document
    elif document["kind"] in POD_KINDS:
        yield document["kind"], spec["template"]


def schema_errors(document: Document) -> list[str]:
    """Return what the published schemas of Kubernetes and KubeRay find wrong; unknown fields are wrong."""
    found = []
    if document["kind"] in CRDS:
        schema = closed(json.loads(CRDS[document["kind"]].read_text()))
        validator = jsonschema.Draft202012Validator(schema)
        found += [f"{error.json_path}: {error.message}" for error in validator.iter_errors(document)]
        templates = [
            {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "any"}, "template": template}
            for _, template in pod_templates(document)
        ]
    else:
        templates = [document]
    for resource in templates:
        try:
            kubernetes_validate.validate(resource, KUBERNETES, strict=True)
        except kubernetes_validate.ValidationError as error:
            found.append(str(error).splitlines()[0])
    return found


def closed(schema: Any) -> Any:
    """Return a schema that refuses fields it does not name, where Kubernetes would drop them without a word."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    result = {name: closed(item) for name, item in schema.items() if name != "properties"}
    fields = schema.get("properties")
    if isinstance(fields, dict):
        result["properties"] = {name: closed(item) for name, item in fields.items()}
        if schema.get("type") == "object" and not schema.get("x-kubernetes-preserve-unknown-fields"):
            result["additionalProperties"] = False
    return result
