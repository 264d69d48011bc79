"""deploy/slurm.sh with stand-ins for Slurm and Ray: what it refuses, starts, returns, and leaves behind."""

import os
import signal
import stat
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

DEPLOY = Path(__file__).parents[2] / "deploy"
NOTE = '#!/bin/bash\necho "$(basename "$0") $*" >> "$SEEN/calls"\n'
RAY = (
    NOTE
    + 'stat -c %a "$RAY_AUTH_TOKEN_PATH" > "$SEEN/token-mode"; wc -c < "$RAY_AUTH_TOKEN_PATH" > "$SEEN/token-size"\n'
)
PYTHON = f"""#!/bin/bash
if [[ $1 == - ]]; then # waits for all nodes, as the real one
  cat > /dev/null
  until [[ -s $SEEN/token-size ]] && {{ [[ $2 == 1 ]] || grep -q ^srun "$SEEN/calls"; }}; do sleep 0.05; done
  exit "${{WAIT_CODE:-0}}"
fi
echo "python $*" >> "$SEEN/calls"
exec {sys.executable} "$@"
"""
JOB = """
import os, signal, sys, time
print("address", os.environ["RAY_ADDRESS"], os.environ["RAY_AUTH_MODE"], flush=True)
if sys.argv[1] == "sleep":
    time.sleep(60)
if sys.argv[1] == "finish":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    time.sleep(60)
sys.exit(int(sys.argv[1]))
"""

LISTENERS = """
import os, sys
import ray  # which brings psutil
import psutil
ray.init(os.environ["RAY_ADDRESS"], log_to_driver=False)
assert ray.get(ray.remote(lambda: 41).remote()) == 41
for process in psutil.process_iter(["cmdline"]):
    if "/tmp/ray-4711" in str(process.info["cmdline"]):
        for socket in process.net_connections("tcp"):
            if socket.status == psutil.CONN_LISTEN:
                print("listens", socket.laddr.ip.replace("::ffff:", "").replace("::1", "127.0.0.1"), socket.laddr.port)
sys.exit(int(sys.argv[1]))
"""


@pytest.fixture
def site(tmp_path: Path) -> dict[str, str]:
    """Return the environment of a job on a make-believe site whose programs note how they were called."""
    programs = {
        "venv/bin/ray": RAY + "exec sleep 300\n",
        "venv/bin/python": PYTHON,
        "bin/srun": NOTE + "exec sleep 300\n",
        "bin/scontrol": NOTE,
        "bin/ip": '#!/bin/bash\n[[ $6 == ib0 ]] && echo "4: ib0    inet 10.9.8.7/16 brd 10.9.255.255"\n',
        "bin/getent": '#!/bin/bash\necho "${HOST_ADDRESS:-127.0.1.1}  STREAM node"\n',
    }
    for name, text in programs.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    (tmp_path / "job.py").write_text(JOB)
    return {
        "PATH": f"{tmp_path}/bin:/usr/bin:/bin",
        "HOME": str(tmp_path / "home"),
        "SEEN": str(tmp_path),
        "CLAREP_VENV": str(tmp_path / "venv"),
        "SLURM_JOB_ID": "4711",
        "SLURM_CPUS_ON_NODE": "16",
        "JOB": str(tmp_path / "job.py"),
    }


def start(site: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [DEPLOY / "slurm.sh", site["JOB"], *arguments],
        env=site,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str], within_s: float = 60) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=within_s)
    return process.returncode, out, err


def calls(site: dict[str, str]) -> list[str]:
    path = Path(site["SEEN"]) / "calls"
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"CLAREP_VENV": "/nowhere"}, "CLAREP_VENV: '/nowhere' is not valid; valid: the folder that deploy/install.sh"),
        ({"SLURM_JOB_ID": ""}, "SLURM_JOB_ID: '' is not valid; valid: a job: start this with sbatch"),
        ({"JOB": "/nowhere.py"}, "job: '/nowhere.py' is not valid; valid: a script such as jobs/extract.py"),
        ({"CLAREP_MAX_REQUEUES": "many"}, "CLAREP_MAX_REQUEUES: 'many' is not valid; valid: a whole number"),
        ({"CLAREP_INTERFACE": "eth9"}, "CLAREP_INTERFACE: 'eth9' is not valid; valid: an interface with an IPv4"),
        ({"SLURM_JOB_NUM_NODES": "2"}, "CLAREP_INTERFACE: '' is not valid; valid: the interface between the nodes"),
    ],
)
def test_wrong_settings_end_before_anything_starts(site: dict[str, str], change: dict[str, str], message: str) -> None:
    code, _, err = ended(start(site | change, "0"))
    assert (code, calls(site)) == (2, [])
    assert err.startswith(f"error: {message}")


@pytest.mark.parametrize("code", [0, 2, 7, 10])
def test_the_exit_code_is_the_jobs_own_and_nothing_stays(site: dict[str, str], code: int) -> None:
    found, out, _ = ended(start(site, str(code)))
    assert found == code
    assert out.splitlines()[0] == "address 127.0.0.1:24711 token"
    seen = Path(site["SEEN"])
    assert ((seen / "token-mode").read_text(), (seen / "token-size").read_text()) == ("600\n", "64\n")
    assert not list((seen / "home" / ".clarep-ray").iterdir())
    (head,) = [call for call in calls(site) if call.startswith("ray start --head")]
    assert "--node-ip-address 127.0.0.1 --port 24711 --include-dashboard False" in head
    assert not any(call.startswith(("srun", "scontrol")) for call in calls(site))


@pytest.mark.parametrize("change", [{"CLAREP_INTERFACE": "ib0"}, {"HOST_ADDRESS": "10.9.8.7"}])
def test_several_nodes_meet_on_one_interface(site: dict[str, str], change: dict[str, str]) -> None:
    code, out, _ = ended(start(site | change | {"SLURM_JOB_NUM_NODES": "4", "SLURMD_NODENAME": "n1"}, "0"))
    assert (code, out.splitlines()[0]) == (0, "address 10.9.8.7:24711 token")
    (workers,) = [call for call in calls(site) if call.startswith("srun")]
    assert "--nodes=3 --ntasks=3 --exclude=n1" in workers
    assert "ray start --address 10.9.8.7:24711 --block" in workers


def test_what_ray_writes_is_one_users_and_what_the_job_writes_has_its_own_modes(
    site: dict[str, str], tmp_path: Path
) -> None:
    Path(site["JOB"]).write_text("import os, stat\nopen('made', 'w')\nprint(stat.S_IMODE(os.stat('made').st_mode))\n")
    number = str(10**9 + os.getpid())
    session = Path(f"/tmp/ray-{number}")
    mine = site | {"SLURM_JOB_ID": number}
    program = tmp_path / "venv/bin/ray"
    program.write_text(program.read_text().replace("exec sleep", f"stat -c %a {session} >&2; exec sleep"))
    process = subprocess.Popen(
        [DEPLOY / "slurm.sh", mine["JOB"]], env=mine, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, umask=0o022,
    )  # fmt: skip
    code, out, err = ended(process)
    assert (code, out) == (0, f"{0o644}\n"), err
    assert err.split() == ["700"]
    assert not session.exists()
    for make in (lambda: session.mkdir(mode=0o755), lambda: session.symlink_to(tmp_path), session.touch):
        make()
        code, _, err = ended(start(mine, "0"))
        assert code == 2
        assert err.startswith(f"error: session: '{session}' is not valid; valid: a folder of your own with mode 700")
        session.rmdir() if session.is_dir() and not session.is_symlink() else session.unlink()


def test_a_cluster_that_does_not_come_up_is_said_and_ended(site: dict[str, str]) -> None:
    code, _, err = ended(start(site | {"WAIT_CODE": "1"}, "0"))
    assert code == 1
    assert "error: Ray did not come up on 1 nodes" in err
    assert not any(call.startswith("python ") for call in calls(site))


@pytest.mark.parametrize(
    ("what", "restarts", "code", "requeued"),
    [("sleep", "0", 143, True), ("sleep", "20", 143, False), ("finish", "0", 0, False)],
)
def test_the_time_limit_queues_the_job_again(
    site: dict[str, str], what: str, restarts: str, code: int, requeued: bool
) -> None:
    process = start(site | {"SLURM_RESTART_COUNT": restarts}, what)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("address")
    time.sleep(0.3)  # the job sets its handler after its first line
    process.send_signal(signal.SIGTERM)
    found, out, _ = ended(process)
    assert found == code
    assert ("scontrol requeue 4711" in calls(site)) == requeued
    assert ("queued again (1 of 20)" in out) == requeued


@pytest.mark.nightly
def test_ray_itself_listens_on_the_loopback_and_ends_with_the_job(site: dict[str, str], tmp_path: Path) -> None:
    """The real Ray; it wants the cores to itself."""
    Path(site["JOB"]).write_text(LISTENERS)
    venv = str(Path(sys.executable).parents[1])
    code, out, err = ended(start(site | {"CLAREP_VENV": venv, "SLURM_CPUS_ON_NODE": "2"}, "7"), 240)
    found = {line.split()[1] for line in out.splitlines() if line.startswith("listens ")}
    assert (code, found) == (7, {"127.0.0.1"}), err[-3000:]
    assert not list((tmp_path / "home" / ".clarep-ray").iterdir())
    assert not [line for line in commands() if "/tmp/ray-4711" in line]


def commands() -> list[str]:
    """Return the command lines of all processes."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended
            found.append(path.read_bytes().decode(errors="replace"))
    return found


@pytest.mark.parametrize("script", sorted(DEPLOY.rglob("*.sh")), ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script: Path) -> None:
    command = [Path(sys.executable).with_name("shellcheck"), "--severity=style", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    assert stat.S_IMODE(script.stat().st_mode) & 0o111, "not executable"
    assert os.linesep.join(script.read_text().splitlines()[:1]) == "#!/usr/bin/env bash"
