"""Run TensorFlow's own server with one task until standard input closes; started in the peer interpreter.

Usage: ``tensorflow_server.py [SERVER_DEF_JSON]``, where the argument holds ``cluster``, ``job``, ``task`` and perhaps
``leader``, the task that leads collectives. Without it the cluster is the job ``local`` with this one task on a free
port. Prints ``ready grpc://HOST:PORT``.
"""

from __future__ import annotations

import json
import sys


def main() -> None:
    import tensorflow.compat.v1 as tf

    if len(sys.argv) > 1:
        given = json.loads(sys.argv[1])
        config = tf.ConfigProto()
        config.experimental.collective_group_leader = given.get("leader", "")
        server = tf.train.Server(
            tf.train.ClusterSpec(given["cluster"]), job_name=given["job"], task_index=given["task"], protocol="grpc",
            config=config,
        )
    else:
        server = tf.train.Server.create_local_server()
    print(f"ready {server.target}", flush=True)
    sys.stdin.read()
    # TensorFlow's server cannot be stopped; leave without running its destructors.
    sys.stdout.flush()
    import os

    os._exit(0)


if __name__ == "__main__":
    main()
