#!/usr/bin/env bash
# Writes the hashed requirements of the images again, after a change of pyproject.toml: deploy/export-requirements.sh
set -euo pipefail
cd "$(dirname "$0")/.."
options=(--quiet --no-annotate --no-header --no-emit-project)
uv lock --quiet
# The image of jobs and Ray nodes: everything but the developers' tools.
uv export "${options[@]}" --frozen --no-dev --output-file deploy/requirements.txt > /dev/null
# The MLflow server: its own group and nothing of ours.
uv export "${options[@]}" --frozen --only-group mlflow-server --output-file deploy/mlflow/requirements.txt > /dev/null
# What builds the image and stays out of it.
uv export "${options[@]}" --frozen --only-group image-build --output-file deploy/requirements-build.txt > /dev/null
# What Ray's autoscaler asks Amazon with, on the head of deploy/cluster.yaml alone; it wants an older python-dateutil.
uv pip compile --quiet --universal --python-version 3.11 --only-binary :all: --generate-hashes --no-annotate --no-header \
  --exclude-newer "$(sed -n 's/^exclude-newer = "\(.*\)"$/\1/p' pyproject.toml)" \
  --output-file deploy/requirements-aws.txt - <<< "boto3==1.44.3" > /dev/null
