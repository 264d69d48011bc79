"""Schemas of KubeRay as tests/deploy keeps them: uv run python tests/deploy/crds/prune.py CRD.yaml > X.json

A pod template is Kubernetes' own and makes up nine tenths of a definition; here it becomes a mark, and the tests check
what stands there against Kubernetes' published schema.
"""

import json
import sys
from pathlib import Path
from typing import Any

import yaml

POD_TEMPLATE = {"x-kubernetes-kind": "PodTemplateSpec"}


def pruned(schema: Any) -> Any:
    """Return a schema with a mark for every pod template in it."""
    if isinstance(schema, list):
        return [pruned(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    fields = schema.get("properties", {})
    if {"metadata", "spec"} <= set(fields) and "containers" in fields["spec"].get("properties", {}):
        return POD_TEMPLATE
    return {name: pruned(item) for name, item in schema.items()}


def main() -> None:
    definition = yaml.safe_load(Path(sys.argv[1]).read_text())
    (version,) = [item for item in definition["spec"]["versions"] if item["name"] == "v1"]
    print(json.dumps(pruned(version["schema"]["openAPIV3Schema"]), sort_keys=True, separators=(",", ":")))


if __name__ == "__main__":
    main()
