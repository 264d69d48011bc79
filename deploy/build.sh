#!/usr/bin/env bash
# Builds the image, and pushes it where a registry is given: deploy/build.sh PYTHON_IMAGE [REGISTRY/NAME]
#
# PYTHON_IMAGE is python:3.11-slim by digest, which keeps a build what it was:
#   docker buildx imagetools inspect python:3.11-slim --format '{{.Manifest.Digest}}'
#   deploy/build.sh python@sha256:DIGEST registry.example.com/clarep-ray
# The last line is the image by digest, which deploy/kuberay/image/kustomization.yaml wants. ENGINE=podman builds with it;
# DOCKERFILE=deploy/mlflow/Dockerfile builds the MLflow server.
set -euo pipefail
if [[ $# -lt 1 || $# -gt 2 || ! $1 =~ @sha256:[0-9a-f]{64}$ ]]; then
  echo "error: image: '${1-}' is not valid; valid: NAME@sha256:DIGEST of a Python 3.11 image, then REGISTRY/NAME" >&2
  exit 2
fi
engine=${ENGINE:-docker}
name=${2:-clarep-ray}
cd "$(dirname "$0")/.."
inside=(clarep_ray jobs tune pyproject.toml README.md LICENSE deploy/Dockerfile deploy/install.sh deploy/mlflow/serve.sh)
inside+=(deploy/requirements.txt deploy/requirements-build.txt deploy/mlflow/Dockerfile deploy/mlflow/requirements.txt)
changed=$(git status --porcelain -- "${inside[@]}")
if [[ -n $changed ]]; then
  echo "error: checkout: changed files are not valid; valid: committed ones, which the revision names: ${changed//$'\n'/;}" >&2
  exit 2
fi
revision=$(git rev-parse HEAD)
tag=$name:${revision:0:12}
"$engine" build --file "${DOCKERFILE:-deploy/Dockerfile}" --build-arg "PYTHON_IMAGE=$1" --build-arg "REVISION=$revision" --tag "$tag" .
if [[ $# == 2 ]]; then
  "$engine" push "$tag"
  "$engine" inspect --format '{{index .RepoDigests 0}}' "$tag"
fi
