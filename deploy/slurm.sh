#!/usr/bin/env bash
# One job of clarep-ray on a Slurm site: a Ray cluster on the allocation's nodes, the job, and nothing left behind.
#
#   deploy/install.sh /shared/venv                         # seen by every node; Python 3.11 to 3.13 first in PATH
#   export CLAREP_VENV=/shared/venv
#   sbatch --nodes=4 --gpus-per-node=8 deploy/slurm.sh jobs/extract.py --preset dit_xl_256 ... --output.path /shared/out
#
# Your site may want --partition, --account and --mem=0 too.
#
#   CLAREP_INTERFACE=ib0     network interface that Ray listens on (several nodes); else what the host's name stands for
#   CLAREP_MAX_REQUEUES=20   times that a run which meets its time limit is queued again; the same command continues
#
# Ends with the job's own exit code (README, "Your own images"); with 2 for a wrong setting, 1 where Ray does not come
# up, 143 where it was stopped and not queued again. Logs of Ray: /tmp/ray-JOB/r on each node.
#SBATCH --job-name=clarep
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@180
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=clarep-%j.log
set -euo pipefail
fail() {
  echo "error: $1: '$2' is not valid; valid: $3" >&2
  exit 2
}
[[ -x ${CLAREP_VENV-}/bin/ray ]] || fail CLAREP_VENV "${CLAREP_VENV-}" "the folder that deploy/install.sh made"
[[ -n ${SLURM_JOB_ID-} ]] || fail SLURM_JOB_ID "" "a job: start this with sbatch"
[[ -f ${1-} ]] || fail job "${1-}" "a script such as jobs/extract.py, then its options"
nodes=${SLURM_JOB_NUM_NODES:-1}
limit=${CLAREP_MAX_REQUEUES:-20}
[[ $limit =~ ^[0-9]+$ ]] || fail CLAREP_MAX_REQUEUES "$limit" "a whole number"

# The loopback where nobody else has to reach it; else one address, never all of them.
address=127.0.0.1
if ((nodes == 1)) && [[ -z ${CLAREP_INTERFACE-} ]]; then
  export RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 # Ray takes the machine's own address for the loopback, but where it is off
fi
if [[ -n ${CLAREP_INTERFACE-} ]]; then
  address=$(ip -4 -o addr show dev "$CLAREP_INTERFACE" 2> /dev/null | awk '{sub("/.*", "", $4); print $4; exit}') || true
  [[ -n $address ]] || fail CLAREP_INTERFACE "$CLAREP_INTERFACE" "an interface with an IPv4 address: ip -4 addr"
elif ((nodes > 1)); then
  address=$(getent ahostsv4 "$(hostname)" | awk '$1 !~ /^127\./ {print $1; exit}') || true
  [[ -n $address ]] || fail CLAREP_INTERFACE "" "the interface between the nodes: the host's name is the loopback"
fi

# Ray gives its folders mode 0777: on each node they lie in one that only this user can enter.
session=/tmp/ray-$SLURM_JOB_ID
# shellcheck disable=SC2016  # expanded on each node
enter='mkdir -m 700 "$1" 2> /dev/null || [[ -O $1 && ! -L $1 && $(stat -c %a "$1") == 700 ]] || exit 1; shift; exec "$@"'
bash -c "$enter" enter "$session" true || fail session "$session" "a folder of your own with mode 700, or none"

# A token of this job's own, on the file system that every node sees, for this user alone.
private=$HOME/.clarep-ray/$SLURM_JOB_ID
(
  umask 077 # not the job's own: its outputs have the modes that the user chose
  mkdir -p "$private"
  od -An -N32 -tx1 /dev/urandom | tr -d ' \n' > "$private/token"
)
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$private/token
export RAY_ENABLE_UV_RUN_RUNTIME_ENV=0 RAY_USAGE_STATS_ENABLED=0 RAY_worker_niceness=0 OMP_NUM_THREADS=1
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=2 # the job is over when Ray is told to end
export PATH=$CLAREP_VENV/bin:$PATH
port=$((20000 + SLURM_JOB_ID % 10000))
export RAY_ADDRESS=$address:$port

started=()
# shellcheck disable=SC2329  # called by the trap
clean_up() {
  for process in "${started[@]}"; do
    kill "$process" 2> /dev/null || true
  done
  wait || true
  rm -rf "$private"
  rmdir "$session" 2> /dev/null || true # with Ray's logs in it, it stays
}
trap clean_up EXIT
stopped=
driver=
# shellcheck disable=SC2329  # called by the trap
stop() {
  stopped=1
  [[ -z $driver ]] || kill -TERM "$driver" 2> /dev/null || true
}
trap stop TERM INT

common=(--block --disable-usage-stats --num-cpus "${SLURM_CPUS_ON_NODE:-1}")
ray start --head "${common[@]}" --node-ip-address "$address" --port "$port" --include-dashboard False \
  --temp-dir "$session/r" &
started+=("$!")
if ((nodes > 1)); then
  srun --overlap --nodes="$((nodes - 1))" --ntasks="$((nodes - 1))" --exclude="${SLURMD_NODENAME:-$(hostname)}" --kill-on-bad-exit=0 \
    bash -c "$enter" enter "$session" ray start --address "$RAY_ADDRESS" "${common[@]}" &
  started+=("$!")
fi
# The job counts the GPUs when it starts: all nodes have to be there.
python - "$nodes" << 'WAIT' || { echo "error: Ray did not come up on $nodes nodes within ten minutes" >&2; exit 1; }
import sys, time
import ray

end = time.monotonic() + 600
while True:
    try:
        ray.init(address="auto", log_to_driver=False, logging_level="error")
        break
    except ConnectionError:
        if time.monotonic() > end:
            sys.exit(1)
        time.sleep(2)
while sum(node["Alive"] for node in ray.nodes()) < int(sys.argv[1]):
    if time.monotonic() > end:
        sys.exit(1)
    time.sleep(2)
WAIT

code=143
if [[ -z $stopped ]]; then
  python "$@" &
  driver=$!
  code=0
  wait "$driver" || code=$?
  if [[ -n $stopped ]]; then # the signal ended the first wait, not the job
    code=0
    wait "$driver" || code=$?
  fi
fi
if [[ -n $stopped && $code == 143 && ${SLURM_RESTART_COUNT:-0} -lt $limit ]]; then
  echo "stopped before the end; queued again ($((${SLURM_RESTART_COUNT:-0} + 1)) of $limit)"
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
