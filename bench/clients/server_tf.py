"""Run TensorFlow's own server until killed: ``python server_tf.py TASK``. Prints ``ready TARGET``.

The task is JSON: ``{"cluster": {job: [address]}, "job": name, "task": number}``.
"""

import json
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf


def main():
    task = json.loads(sys.argv[1])
    server = tf.distribute.Server(task["cluster"], job_name=task["job"], task_index=task["task"])
    print("ready", server.target, flush=True)
    server.join()


if __name__ == "__main__":
    main()
