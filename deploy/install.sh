#!/usr/bin/env bash
# Installs the product into a new environment, as the image does: deploy/install.sh FOLDER
#
# Everything comes as a wheel whose hash is in the repository; nothing is built but our own package, and nothing is
# resolved. Needs python3 with venv and pip; UV_DEFAULT_INDEX and PIP_INDEX_URL name a mirror, where there is one.
set -euo pipefail
if [[ $# != 1 ]]; then
  echo "error: folder: $# arguments are not valid; valid: one folder that does not exist yet" >&2
  exit 2
fi
target=$1
source=$(cd "$(dirname "$0")/.." && pwd)
if [[ -e $target ]]; then
  echo "error: folder: '$target' is not valid; valid: one that does not exist yet" >&2
  exit 2
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python3 -m venv "$work/tools"
"$work/tools/bin/pip" install --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
  --requirement "$source/deploy/requirements-build.txt"
uv=$work/tools/bin/uv

python3 -m venv --without-pip "$target"
"$uv" pip sync --quiet --python "$target" --require-hashes --no-build "$source/deploy/requirements.txt"
"$uv" build --quiet --wheel --no-build-isolation --python "$work/tools" --out-dir "$work/wheel" "$source"
"$uv" pip install --quiet --python "$target" --no-deps --no-index "$work"/wheel/clarep_ray-*.whl
