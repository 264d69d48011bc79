#!/usr/bin/env bash
# Starts the MLflow server of a team: PostgreSQL, artefacts through the server, passwords, named hosts only.
#
# All settings come from the environment, so that none of them is in a command line that others can list:
#   MLFLOW_BACKEND_STORE_URI       postgresql://USER:PASSWORD@HOST/mlflow
#   MLFLOW_AUTH_DATABASE_URI       the same server, another database: users, password hashes and permissions
#   MLFLOW_ARTIFACTS_DESTINATION   folder of this machine, or s3://BUCKET/PREFIX; clients never see it
#   MLFLOW_SERVER_ALLOWED_HOSTS    what users type, with port: mlflow.example.org,localhost:5000
#   MLFLOW_AUTH_ADMIN_PASSWORD     of the user "admin", taken at the first start only
#   MLFLOW_FLASK_SERVER_SECRET_KEY protects the sign-up page; the same after a restart
#   MLFLOW_HOST, MLFLOW_PORT       127.0.0.1 and 5000: TLS is the reverse proxy's
# Ends with 2 and one line where one of them is missing or weak.
set -euo pipefail
fail() {
  echo "error: $1: $2 is not valid; valid: $3" >&2
  exit 2
}
for name in MLFLOW_BACKEND_STORE_URI MLFLOW_AUTH_DATABASE_URI; do
  [[ ${!name-} == postgresql*://* ]] || fail "$name" "what is set, or nothing," "postgresql://USER:PASSWORD@HOST/DATABASE"
done
[[ $MLFLOW_BACKEND_STORE_URI != "$MLFLOW_AUTH_DATABASE_URI" ]] ||
  fail MLFLOW_AUTH_DATABASE_URI "the tracking database" "a database of its own"
[[ ${MLFLOW_ARTIFACTS_DESTINATION-} =~ ^(/|s3://|gs://|wasbs://|abfss?://) ]] ||
  fail MLFLOW_ARTIFACTS_DESTINATION "'${MLFLOW_ARTIFACTS_DESTINATION-}'" "an absolute folder, or s3://BUCKET/PREFIX"
hosts=${MLFLOW_SERVER_ALLOWED_HOSTS-}
[[ -n $hosts && $hosts != *'*'* && $hosts != *'?'* && $hosts != *'['* ]] ||
  fail MLFLOW_SERVER_ALLOWED_HOSTS "'$hosts'" "host names with their ports, comma-separated, without patterns"
for name in MLFLOW_AUTH_ADMIN_PASSWORD MLFLOW_FLASK_SERVER_SECRET_KEY; do
  value=${!name-}
  [[ ${#value} -ge 16 ]] || fail "$name" "one of ${#value} characters" "16 or more, of openssl rand -hex 24 for example"
  shopt -s nocasematch
  for word in password passw0rd changeme secret admin mlflow example 12345678; do
    [[ $value != *"$word"* ]] || fail "$name" "one with '$word' in it" "what openssl rand -hex 24 prints"
  done
  shopt -u nocasematch
done

umask 077
work=$(mktemp -d)
cat > "$work/auth.ini" << SETTINGS
[mlflow]
default_permission = NO_PERMISSIONS
database_uri = ${MLFLOW_AUTH_DATABASE_URI//%/%%}
admin_username = admin
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
SETTINGS
export MLFLOW_AUTH_CONFIG_PATH=$work/auth.ini
# A model that is a pickle is code; we log none. Jobs inside the server are not ours either.
export MLFLOW_ALLOW_PICKLE_DESERIALIZATION=false MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false
export MLFLOW_DISABLE_TELEMETRY=true
exec mlflow server --app-name basic-auth --serve-artifacts \
  --host "${MLFLOW_HOST:-127.0.0.1}" --port "${MLFLOW_PORT:-5000}" --workers "${MLFLOW_WORKERS:-2}"
