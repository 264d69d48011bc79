"""A Ray head started as a job starts it, with the dashboard that jobs leave out; it ends when its input does."""

import json
import os
import sys

from clarep_ray.cluster import runtime


def main() -> None:
    runtime.LOCAL |= {"include_dashboard": True, "dashboard_port": int(sys.argv[1]), "object_store_memory": 200_000_000}
    runtime.connect(num_cpus=1)
    from ray._private.worker import _global_node

    found = {
        "logs": _global_node.get_logs_dir_path(),
        "token_path": os.environ["RAY_AUTH_TOKEN_PATH"],
        "pids": [process.process.pid for kinds in _global_node.all_processes.values() for process in kinds],
    }
    print(json.dumps(found), flush=True)
    sys.stdin.read()
    runtime.shutdown()


if __name__ == "__main__":
    main()
