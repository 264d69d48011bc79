#!/usr/bin/env bash
# Writes all exact versions again, into pyproject.toml ([tool.uv]) and the images' hashed requirements:
#
#   deploy/export-requirements.sh              # after a change of pyproject.toml: a version moves only where it has to
#   deploy/export-requirements.sh NAME...      # the newest versions of these packages
#   deploy/export-requirements.sh --upgrade    # the newest versions of all
#
# A second run changes nothing (after --upgrade: unless the index has something newer by then). Where a step fails,
# pyproject.toml is as it was. The tests, after `uv sync`, say whether the new versions may be committed.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
cp pyproject.toml "$work/before.toml"
trap '[[ $? == 0 ]] || cp "$work/before.toml" pyproject.toml; rm -rf "$work"' EXIT

move=()
for name in "$@"; do
  if [[ $name == --upgrade ]]; then move+=(--upgrade); else move+=(--upgrade-package "$name"); fi
done
compile=(uv pip compile --quiet --universal --python-version 3.11 --no-annotate --no-header "${move[@]}")
empty='/constraint-dependencies = \[/,/^\]/{/^    "/d}'

# Everything together, once. The versions in force are what the output file holds already: preferred, not required.
sed -n '/^constraint-dependencies = \[/,/^\]/s/^    "\(.*\)",$/\1/p' pyproject.toml > "$work/all.txt"
sed "$empty" pyproject.toml > "$work/pyproject.toml"
(cd "$work" && "${compile[@]}" --all-extras --group dev --group image-build --output-file all.txt pyproject.toml > /dev/null)
(cd "$work" && "${compile[@]}" --constraint all.txt --output-file build.txt - <<< hatchling > /dev/null)

# A marker says where a package is needed, and is left out but where it chooses between two versions.
listed() {
  awk -F ' ; ' 'NR == FNR { split($1, part, "=="); count[part[1]]++; next }
    { split($1, part, "=="); print "    \"" (count[part[1]] > 1 ? $0 : $1) "\"," }' "$1" "$1"
}
listed "$work/all.txt" > "$work/all.list"
listed "$work/build.txt" > "$work/build.list"
sed "$empty" "$work/before.toml" |
  sed -e "/^constraint-dependencies = \[/r $work/all.list" -e "/^build-constraint-dependencies = \[/r $work/build.list" > pyproject.toml

options=(--quiet --no-annotate --no-header --no-emit-project)
uv lock --quiet
# The image of jobs and Ray nodes: everything but the developers' tools.
uv export "${options[@]}" --frozen --no-dev --all-extras --output-file deploy/requirements.txt > /dev/null
# The MLflow server: its own group and nothing of ours.
uv export "${options[@]}" --frozen --only-group mlflow-server --output-file deploy/mlflow/requirements.txt > /dev/null
# What builds the image and stays out of it.
uv export "${options[@]}" --frozen --only-group image-build --output-file deploy/requirements-build.txt > /dev/null
# What Ray's autoscaler asks Amazon with, on the head of deploy/cluster.yaml alone; it wants an older python-dateutil.
cp deploy/requirements-aws.txt "$work/aws.txt"
(cd "$work" && "${compile[@]}" --only-binary :all: --generate-hashes --output-file aws.txt - <<< boto3 > /dev/null)
cp "$work/aws.txt" deploy/requirements-aws.txt
