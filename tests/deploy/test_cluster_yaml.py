"""deploy/cluster.yaml: valid for the installed Ray, and as closed as the other ways to run."""

import copy
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from clarep_ray.presets import EXTRACT

DEPLOY = Path(__file__).parents[2] / "deploy"
TEXT = (DEPLOY / "cluster.yaml").read_text()
CONFIG: dict[str, Any] = yaml.safe_load(TEXT)
CHECK = """
import json, sys
from ray.autoscaler._private.util import prepare_config, validate_config
for config in json.load(sys.stdin):
    try:
        validate_config(prepare_config(config))
        print("valid")
    except Exception as error:
        print(str(error).splitlines()[0])
"""


def test_ray_takes_it_and_notices_what_is_wrong() -> None:
    """In a process of its own: the tests of the engine want to import Ray themselves."""
    wrong = [copy.deepcopy(CONFIG) for _ in range(3)]
    wrong[0]["docker_image"] = "x"
    wrong[1]["head_node_type"] = "cpu"
    wrong[2]["setup_commands"] = [{"a": "b"}]
    done = subprocess.run(
        [sys.executable, "-c", CHECK], input=json.dumps([CONFIG, *wrong]), capture_output=True, text=True, check=True
    )
    found = done.stdout.splitlines()
    assert found[0] == "valid"
    assert "'docker_image' was unexpected" in found[1]
    assert found[2] == "`head_node_type` must be one of `available_node_types`."
    assert "is not of type 'string'" in found[3]


def test_groups_are_the_users_and_every_port_of_ray_asks_for_the_token() -> None:
    # A group that Ray fills gets port 22 from everywhere, whatever else is written here.
    assert "security_group" not in CONFIG["provider"]
    for kind in CONFIG["available_node_types"].values():
        assert kind["node_config"]["SecurityGroupIds"] == ["sg-00000000000000000"]
    for commands in (CONFIG["head_start_ray_commands"], CONFIG["worker_start_ray_commands"]):
        started = [command for command in commands if "ray start" in command]
        assert len(started) == 1
        assert "RAY_AUTH_MODE=token" in started[0]
        assert "0.0.0.0" not in started[0]
    assert "~/.ray/auth_token" in CONFIG["file_mounts"]
    assert not re.search(r"AKIA[0-9A-Z]{16}|aws_secret|auth_token: *[0-9a-f]{16}", TEXT)


def test_machines_are_encrypted_and_workers_are_spot() -> None:
    types = CONFIG["available_node_types"]
    for kind in types.values():
        assert kind["node_config"]["MetadataOptions"] == {"HttpTokens": "required"}
        assert all(disk["Ebs"]["Encrypted"] for disk in kind["node_config"]["BlockDeviceMappings"])
    assert types["gpu"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert "InstanceMarketOptions" not in types["head"]["node_config"]
    assert types["head"]["resources"] == {"CPU": 0}
    assert [name for name, kind in types.items() if "IamInstanceProfile" in kind["node_config"]] == ["head"]
    assert types["gpu"]["max_workers"] == CONFIG["max_workers"]


def test_what_it_runs_exists_and_the_command_asks_for_what_there_is() -> None:
    commands = " ".join(CONFIG["setup_commands"] + CONFIG["head_setup_commands"])
    for path in re.findall(r"~/clarep-ray/([\w./-]+)", commands):
        assert (DEPLOY.parent / path).is_file(), path
    comment = " ".join(line.removeprefix("#").strip() for line in TEXT.splitlines() if line.startswith("#"))
    words = shlex.split(re.sub(r"\s\\\s", " ", comment.partition("ray job submit")[2].partition(" uv run ")[0]))
    assert words[words.index("--preset") + 1] in EXTRACT
    assert int(words[words.index("--engine.num-actors") + 1]) == CONFIG["max_workers"]
    assert "--engine.autoscaling" in words


@pytest.mark.parametrize(
    "name", ["fs-00000000", "ami-00000000000000000", "sg-00000000000000000", "000000000000:instance"]
)
def test_what_has_to_be_filled_in_says_so(name: str) -> None:
    lines = TEXT.splitlines()
    (index,) = [index for index, line in enumerate(lines) if name in line]
    assert any("fill in" in line.lower() for line in lines[max(0, index - 3) : index + 1])
