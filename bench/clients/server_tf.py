"""Run TensorFlow's own server, one task, until killed: ``python server_tf.py PORT``. Prints ``ready TARGET``."""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf


def main():
    cluster = {"local": [f"127.0.0.1:{sys.argv[1]}"]}
    server = tf.distribute.Server(cluster, job_name="local", task_index=0)
    print("ready", server.target, flush=True)
    server.join()


if __name__ == "__main__":
    main()
