"""Time steps over the tasks of several clusters with one unmodified TensorFlow client, interleaved.

Runs in the interpreter that has TensorFlow: ``python cluster_tf.py SPEC.json``, where the specification is
``{"targets": {cluster: ["grpc://...", "grpc://..."]}, "pids": {cluster: number}, "cases": [names], "seconds": per
case and cluster}``; the targets are both workers, whose cluster has a job ``ps`` as well. Prints one JSON object per
line and case: for every cluster what `interleaved.summary` says.
"""

import json
import os
import sys
import threading

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from interleaved import measure, summary

tf1 = tf.compat.v1
tf1.disable_eager_execution()

PS = "/job:ps/task:0"
LAYERS = [(784, 512), (512,), (512, 512), (512,), (512, 10), (10,)]


def small():
    """Sixteen bytes to the other task and sixteen back."""

    def make(targets):
        graph = tf1.Graph()
        with graph.as_default():
            x = tf1.placeholder(tf.float32, [4])
            with tf1.device(PS):
                y = x + 1.0
            y = tf1.identity(y)
        session = tf1.Session(targets[0], graph=graph)
        data = np.ones(4, np.float32)
        run = session.make_callable(y, [x])
        return (lambda: run(data)), session.close

    return make


def pull(num_floats):
    """A variable of the parameter server, whole, to a worker that fetches one number of it."""

    def make(targets):
        graph = tf1.Graph()
        with graph.as_default():
            with tf1.device(PS):
                weights = tf1.get_variable("pulled", [num_floats], initializer=tf1.ones_initializer())
                value = weights.read_value()
            with tf1.device("/job:worker/task:0"):
                first = value[0]
            start = tf1.global_variables_initializer()
        session = tf1.Session(targets[0], graph=graph)
        session.run(start)
        return session.make_callable(first), session.close

    return make


def push_and_pull():
    """Both workers at a time: all weights of a perceptron to the worker, and as many changes back."""

    def make(targets):
        graph = tf1.Graph()
        with graph.as_default():
            with tf1.device(PS):
                weights = [tf1.get_variable(f"weights{place}", shape, initializer=tf1.ones_initializer())
                           for place, shape in enumerate(LAYERS)]
            start = tf1.global_variables_initializer()
            steps = []
            for worker in range(2):
                with tf1.device(f"/job:worker/task:{worker}"):
                    changes = [weight.read_value() * 1e-6 for weight in weights]
                with tf1.device(PS):
                    steps.append(tf1.group(*(tf1.assign_sub(weight, change)
                                             for weight, change in zip(weights, changes))))
        sessions = [tf1.Session(target, graph=graph) for target in targets]
        sessions[0].run(start)
        first, second = (session.make_callable(step) for session, step in zip(sessions, steps))
        begin, done, ending = threading.Semaphore(0), threading.Semaphore(0), threading.Event()

        def serve():
            while begin.acquire() and not ending.is_set():
                second()
                done.release()

        threading.Thread(target=serve, daemon=True).start()

        def both():
            begin.release()
            first()
            done.acquire()

        def close():
            ending.set()
            begin.release()
            for session in sessions:
                session.close()

        return both, close

    return make


def case(name):
    if name.startswith("pull["):
        return pull(int(name[5:-3]) << {"MB": 18, "KB": 8}[name[-3:-1]])
    return {"small": small, "mlp": push_and_pull}[name]()


def main():
    spec = json.loads(sys.argv[1])
    for name in spec["cases"]:
        make = case(name)
        made = {cluster: make(targets) for cluster, targets in spec["targets"].items()}
        times, used = measure({cluster: call for cluster, (call, _) in made.items()}, spec["seconds"], spec["pids"])
        clusters = {cluster: {**summary(found), "cpu_us": used[cluster]} for cluster, found in times.items()}
        print(json.dumps({"case": name, "clusters": clusters}), flush=True)
        for _, close in made.values():
            close()


if __name__ == "__main__":
    main()
