"""Run TensorFlow's own server until standard input closes; started in the peer interpreter.

It is the only task of the job ``localhost``, on a free port. Prints ``ready grpc://HOST:PORT``.
"""

from __future__ import annotations

import os
import sys


def main() -> None:
    import tensorflow.compat.v1 as tf

    server = tf.train.Server.create_local_server()
    print(f"ready {server.target}", flush=True)
    sys.stdin.read()
    # TensorFlow's server cannot be stopped; leave without running its destructors.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
