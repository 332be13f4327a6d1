"""Train the digit classifier on several servers at once, with unmodified TensorFlow clients.

    python examples/digits_cluster_tf.py CLUSTER in-graph
    python examples/digits_cluster_tf.py CLUSTER async
    python examples/digits_cluster_tf.py CLUSTER sync --tasks 0        on one machine
    python examples/digits_cluster_tf.py CLUSTER sync --tasks 1        on another

CLUSTER is a JSON text or a file: {"ps": ["host:port"], "worker": ["host:port", "host:port"]}. Its servers may be this
project's or TensorFlow's own, in any mix. Weights lie on the parameter servers, each worker has batches of its own:

in-graph    one client; a step averages the gradients of all workers
async       a client for each worker, that updates the weights as it comes to it
sync        a client for each worker; SyncReplicasOptimizer averages the gradients of all of them

Clients for several workers (all of them, if not told otherwise) are threads of this program. Prints one JSON object a
line: for each step the worker's number, the step's and the loss, at the end the test accuracy.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import digits_data
import numpy as np

try:
    import tensorflow.compat.v1 as tf
except ImportError as missing:
    sys.exit(f"This example is a TensorFlow client, and TensorFlow is not here ({missing}).\n"
             "Install it with:  pip install tensorflow-cpu\nor run examples/digits_cluster.py, which needs none.")


def network(options, digits, scope):
    """Build network and loss; return what is fed, and loss and accuracy."""
    weights = digits_data.initial_weights([digits_data.NUM_PIXELS, options.hidden, digits_data.NUM_CLASSES],
                                          np.random.default_rng(options.seed))
    images = tf.placeholder(tf.float32, [None, digits_data.NUM_PIXELS])
    labels = tf.placeholder(tf.int64, [None])
    value = images
    for number, (kernel, bias) in enumerate(weights):
        with tf.variable_scope(f"{scope}/layer{number}", reuse=tf.AUTO_REUSE, use_resource=options.resource):
            value = tf.nn.bias_add(tf.matmul(value, tf.get_variable("kernel", initializer=kernel)),
                                   tf.get_variable("bias", initializer=bias))
        if number < len(weights) - 1:
            value = tf.nn.relu(value)
    loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=value))
    accuracy = tf.reduce_mean(tf.cast(tf.equal(tf.argmax(value, axis=1), labels), tf.float32))
    return (images, labels), loss, accuracy


def say(**values):
    print(json.dumps(values), flush=True)


def train_in_graph(cluster, options, digits):
    """Train with one client, whose graph has a part for every worker."""
    optimizer = tf.train.AdamOptimizer(options.learning_rate)
    workers = cluster.num_tasks("worker")
    places, losses, gradients = [], [], []
    for task in range(workers):
        with tf.device(tf.train.replica_device_setter(worker_device=f"/job:worker/task:{task}", cluster=cluster)):
            fed, loss, accuracy = network(options, digits, "in_graph")
            gradients.append(optimizer.compute_gradients(loss))
        places.append(fed)
        losses.append(loss)
    with tf.device("/job:ps/task:0"):
        averaged = [(tf.add_n([gradient for gradient, _ in found]) / workers, found[0][1]) for found in zip(*gradients)]
        train = optimizer.apply_gradients(averaged)
    start = tf.global_variables_initializer()
    with tf.Session(options.master or f"grpc://{cluster.task_address('worker', 0)}") as session:
        session.run(start)
        batches = [digits_data.endless_batches(digits, options.batch, (options.seed, task)) for task in range(workers)]
        for step in range(options.steps):
            feeds = {}
            for fed, some in zip(places, batches):
                feeds.update(zip(fed, next(some)))
            found, _ = session.run([losses, train], feeds)
            for task, loss in enumerate(found):
                say(task=task, step=step, loss=float(loss))
        feeds = dict(zip(places[-1], (digits.test_images, digits.test_labels)))
        say(test_accuracy=float(session.run(accuracy, feeds)))


def train_between_graphs(cluster, options, digits, task, side_by_side):
    """Train as one worker of several, each with a graph and a client of its own; worker 0 is the chief."""
    is_chief, workers = task == 0, cluster.num_tasks("worker")
    hooks = []
    with tf.Graph().as_default():
        setter = tf.train.replica_device_setter(worker_device=f"/job:worker/task:{task}", cluster=cluster)
        with tf.device(setter):
            global_step = tf.train.get_or_create_global_step()
            fed, loss, accuracy = network(options, digits, options.mode)
            optimizer = tf.train.AdamOptimizer(options.learning_rate)
            if options.mode == "sync":
                optimizer = tf.train.SyncReplicasOptimizer(optimizer, workers, workers)
                # Without tokens to begin with, no worker is a step ahead of the others.
                hooks.append(optimizer.make_session_run_hook(is_chief, num_tokens=0))
            train = optimizer.minimize(loss, global_step)
        config = tf.ConfigProto(device_filters=["/job:ps", f"/job:worker/task:{task}"])
        side_by_side.wait_for_chief(is_chief)
        with tf.train.MonitoredTrainingSession(
                f"grpc://{cluster.task_address('worker', task)}", is_chief, hooks=hooks, config=config,
                log_step_count_steps=None, stop_grace_period_secs=1) as session:
            side_by_side.chief_is_ready.set()
            batches = digits_data.endless_batches(digits, options.batch, (options.seed, task))
            for step in side_by_side.steps(task, options):
                found, _ = session.run([loss, train], dict(zip(fed, next(batches))))
                say(task=task, step=step, loss=float(found))
            side_by_side.wait()
            if is_chief:
                found, done = session.run([accuracy, global_step], dict(zip(fed, (digits.test_images,
                                                                                 digits.test_labels))))
                say(test_accuracy=float(found), updates=int(done))
            side_by_side.wait()


class SideBySide:
    """Clients of several workers in one program: the chief opens its session first, and they wait for each other."""

    def __init__(self, tasks):
        self.chief_is_ready = threading.Event()
        self._tasks = tasks
        self._barrier = threading.Barrier(len(tasks))
        self.errors = []

    def wait(self):
        self._barrier.wait()

    def steps(self, task, options):
        """Yield the numbers of a worker's steps, each when it is time for it."""
        for step in range(options.steps):
            if options.mode == "sync":
                self.wait()
            if not options.in_turns:
                yield step
                continue
            for turn in self._tasks:
                if turn == task:
                    yield step
                self.wait()

    def wait_for_chief(self, is_chief):
        if not is_chief and self._barrier.parties > 1:
            self.chief_is_ready.wait()

    def work(self, function, *arguments):
        try:
            function(*arguments, self)
        except BaseException as error:
            if not isinstance(error, threading.BrokenBarrierError):
                self.errors.append(error)
            self.chief_is_ready.set()
            self._barrier.abort()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("cluster", help="JSON text or file with the addresses of the jobs ps and worker")
    parser.add_argument("mode", choices=["in-graph", "async", "sync"])
    parser.add_argument("--tasks", type=int, nargs="+", help="workers that this program is the client of; default: all")
    parser.add_argument("--master", help="grpc://HOST:PORT, in-graph: the server to connect to, in place of worker 0")
    parser.add_argument("--in-turns", action="store_true",
                        help="async: one worker's step behind the other's, so that every run gives the same losses")
    parser.add_argument("--data", help=".npz file with images and labels; scikit-learn's digits when not given")
    parser.add_argument("--steps", type=int, default=400, help="of each worker")
    parser.add_argument("--batch", type=int, default=32, help="images per step and worker")
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=0.002)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--resource", action=argparse.BooleanOptionalAction, default=True,
                        help="resource variables, or those of old")
    options = parser.parse_args()
    if options.in_turns and options.mode != "async":
        parser.error(f"--in-turns is for the mode async, not for {options.mode}")

    given = options.cluster if options.cluster.lstrip().startswith("{") else Path(options.cluster).read_text()
    cluster = tf.train.ClusterSpec({job: tasks for job, tasks in json.loads(given).items() if job in ("ps", "worker")}
                                   if options.mode != "in-graph" else json.loads(given))
    digits = digits_data.load(options.data, options.seed)
    tf.disable_eager_execution()
    if options.mode == "in-graph":
        train_in_graph(cluster, options, digits)
        return
    tasks = options.tasks or range(cluster.num_tasks("worker"))
    side_by_side = SideBySide(tasks)
    threads = [threading.Thread(target=side_by_side.work, args=(train_between_graphs, cluster, options, digits, task))
               for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if side_by_side.errors:
        raise side_by_side.errors[0]


if __name__ == "__main__":
    main()
