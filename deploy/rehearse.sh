#!/usr/bin/env bash
# Does what the Dockerfile does, without a container engine, and runs a job from the result: deploy/rehearse.sh FOLDER
#
# For machines that cannot build images, and for CI. FOLDER (not there yet) becomes a root: FOLDER/opt/venv,
# FOLDER/opt/clarep-ray. The job runs with an empty environment but for the Dockerfile's ENV, as another user where this
# one is root (whose python3 others must then be able to read), with HOME and outputs in FOLDER/tmp. REHEARSE_RAY=1
# extracts for real instead of only planning.
set -euo pipefail
if [[ $# != 1 || -e $1 ]]; then
  echo "error: folder: '${1-}' is not valid; valid: one folder that does not exist yet" >&2
  exit 2
fi
source=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$1"
root=$(cd "$1" && pwd)
mkdir -p "$root/build/deploy" "$root/opt/clarep-ray" "$root/tmp"
chmod 1777 "$root/tmp"

# First stage: the same files, the same script.
(cd "$source" && cp -r pyproject.toml README.md LICENSE clarep_ray "$root/build/" &&
  cp deploy/install.sh deploy/requirements.txt deploy/requirements-build.txt "$root/build/deploy/")
"$root/build/deploy/install.sh" "$root/opt/venv"

# Second stage.
cp -r "$source/jobs" "$source/tune" "$root/opt/clarep-ray/"
rm -rf "$root/build"

as_user=()
if [[ $(id -u) == 0 ]]; then
  as_user=(setpriv --reuid 10001 --regid 10001 --clear-groups)
fi
mapfile -t settings < <(sed -n '/^ENV /,/[^\\]$/p' "$source/deploy/Dockerfile" |
  sed "s/^ENV //; s/^ *//; s/ *\\\\\$//; s#=/tmp#=$root/tmp#; s#=/opt/venv#=$root/opt/venv#; s#\${PATH}#/usr/bin:/bin#")
cd "$root/opt/clarep-ray"
clean=(env -i "${settings[@]}" "${as_user[@]}")
"${clean[@]}" python -c "import clarep_ray, ray, torch; print('ray', ray.__version__, 'torch', torch.__version__)"
"${clean[@]}" python jobs/extract.py --dry-run --output.path "$root/tmp/out"
if [[ ${REHEARSE_RAY-} ]]; then # starts Ray: wants the cores to itself
  "${clean[@]}" python jobs/extract.py --preset digits_smoke --output.path "$root/tmp/out" --tracking.no-enabled
fi
