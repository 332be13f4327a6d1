"""Train a classifier of handwritten digits on several servers at once, without TensorFlow.

    python examples/digits_cluster.py                            starts a cluster of its own: ps, two workers
    python examples/digits_cluster.py --cluster JSON_OR_FILE     uses one that runs, this project's or TensorFlow's
    python examples/digits_cluster.py --mode async               a client for each worker
    python examples/digits_cluster.py --mode sync                the same, with gradients averaged over all of them

The weights lie on the parameter server, each worker has batches of its own. In-graph, the default, one client has a
graph with a part for every worker, and a step averages their gradients. Async, each worker has a graph and a client of
its own, a thread of this program here, and updates the weights as it comes to it. Sync, it leaves its gradients on the
parameter server and waits until the weights have been updated with the average. ``examples/digits_cluster_tf.py`` is
the same for TensorFlow's client. Ends with status 0 if at least 95 % of the test images are recognised.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import digits_data
import numpy as np
from progress import Progress

import runtime
from runtime.cluster_spec import ClusterSpec
from runtime.errors import Aborted, DeadlineExceeded, Error
from runtime.graph.optimizers import Adam

GOAL = 0.95
PS = "/job:ps/task:0"
# Seconds that a worker waits for the others; a step takes milliseconds.
PATIENCE_S = 120.0


class Weights:
    """The network's variables, on the parameter server; graphs that make them alike share their values."""

    def __init__(self, graph: runtime.Graph, options: argparse.Namespace) -> None:
        sizes = [digits_data.NUM_PIXELS, options.hidden, digits_data.NUM_CLASSES]
        initial = digits_data.initial_weights(sizes, np.random.default_rng(options.seed))
        with graph.device(PS):
            self.layers = [(graph.variable(kernel, name=f"{options.mode}/layer{number}/kernel"),
                            graph.variable(bias, name=f"{options.mode}/layer{number}/bias"))
                           for number, (kernel, bias) in enumerate(initial)]


class Replica:
    """The network as one worker computes it: what is fed, loss and accuracy."""

    def __init__(self, graph: runtime.Graph, weights: Weights, task: int) -> None:
        with graph.device(f"/job:worker/task:{task}"):
            self.images = graph.placeholder("float32", [None, digits_data.NUM_PIXELS], name=f"images{task}")
            self.labels = graph.placeholder("int64", [None], name=f"labels{task}")
            value: Any = self.images
            for number, (kernel, bias) in enumerate(weights.layers):
                value = graph.bias_add(graph.matmul(value, kernel), bias)
                if number < len(weights.layers) - 1:
                    value = graph.relu(value)
            self.loss = graph.reduce_mean(graph.sparse_softmax_cross_entropy(self.labels, value))
            is_right = graph.equal(graph.argmax(value, axis=1), self.labels)
            self.accuracy = graph.reduce_mean(graph.cast(is_right, "float32"))

    def feeds(self, images: Any, labels: Any) -> dict[Any, Any]:
        return {self.images: images, self.labels: labels}


class Averaging:
    """Updates of the weights with gradients averaged over all workers: what SyncReplicasOptimizer is for TensorFlow.

    Each worker adds its gradients to accumulators on the parameter server. The first one waits there for those of all,
    updates the weights with their average, and tells the others by a token for each.
    """

    def __init__(self, graph: runtime.Graph, loss: Any, options: argparse.Namespace, task: int, workers: list[int]
                 ) -> None:
        optimizer = Adam(options.learning_rate)
        with graph.device(f"/job:worker/task:{task}"):
            gradients = optimizer.compute_gradients(loss)
        self._is_first = task == workers[0]
        self._step = graph.placeholder("int64", [], name="step")
        averages, pushes, resets = [], [], []
        with graph.device(PS):
            for gradient, variable in gradients:
                place = graph.op("ResourceConditionalAccumulator", dtype=variable.dtype, shape=variable.shape,
                                 shared_name=f"{variable.name}/gradients")
                pushes.append(graph.op("ResourceAccumulatorApplyGradient", place, self._step, gradient))
                resets.append(graph.op("ResourceAccumulatorSetGlobalStep", place, np.int64(0)))
                average = graph.op("ResourceAccumulatorTakeGradient", place, np.int32(len(workers)),
                                   dtype=variable.dtype)
                averages.append((average, variable))
            tokens = {other: graph.op("FIFOQueueV2", component_types=["bool"], shapes=[[]],
                                      shared_name=f"{options.mode}/tokens{other}") for other in workers[1:]}
            with graph.control_dependencies([optimizer.apply_gradients(averages)]):
                told = [graph.op("QueueEnqueueV2", queue, [np.bool_(True)]) for queue in tokens.values()]
            with graph.control_dependencies(told):
                update = graph.op("NoOp")
            self.start = [graph.global_variables_initializer(), *resets]
            self.push = pushes
            self._then = update if self._is_first else graph.op("QueueDequeueV2", tokens[task],
                                                                component_types=["bool"])[0]

    def feeds(self, step: int) -> dict[Any, Any]:
        """Return what says which update a gradient belongs to."""
        return {self._step: np.int64(step)}

    def wait(self, session: runtime.Session) -> None:
        """Return when the weights have been updated."""
        session.run(self._then)


class Meeting:
    """Where workers wait for each other, though not for ever."""

    def __init__(self, workers: list[int]) -> None:
        self._barrier = threading.Barrier(len(workers))
        self._lock = threading.Lock()
        self._times = dict.fromkeys(workers, 0)
        self._is_over = False

    def wait(self, task: int, when: str) -> None:
        """Return when all workers are here."""
        with self._lock:
            self._times[task] += 1
        try:
            self._barrier.wait(PATIENCE_S)
        except threading.BrokenBarrierError:
            if self._is_over:
                raise Aborted(f"worker {task} ends because another one has failed") from None
            late = [str(other) for other, times in self._times.items() if times < self._times[task]]
            raise DeadlineExceeded(f"worker {task} has waited {PATIENCE_S:g} s for worker {' and '.join(late)}, {when}"
                                   ) from None

    def end(self) -> None:
        """Have nobody wait any more: a worker has failed."""
        self._is_over = True
        self._barrier.abort()


class Training:
    """What a training run shows and keeps."""

    def __init__(self, options: argparse.Namespace, workers: int, losses: Path | None) -> None:
        self._progress = Progress(options.steps)
        self._lock = threading.Lock()
        self._workers = workers
        self._out = None if losses is None else losses.open("w")
        self._seen = 0
        self._last: dict[int, float] = {}
        self.started = time.perf_counter()

    def note(self, task: int, step: int, loss: float) -> None:
        with self._lock:
            self._seen += 1
            self._last[task] = loss
            if self._out is not None:
                print(json.dumps({"task": task, "step": step, "loss": loss}), file=self._out)
            if self._seen % self._workers == 0:
                text = "  ".join(f"worker {number} {self._last[number]:.4f}" for number in sorted(self._last))
                self._progress.show(self._seen // self._workers, f"loss  {text}")

    def end(self) -> float:
        """Close what is open; return the seconds that it took."""
        self._progress.end()
        if self._out is not None:
            self._out.close()
        return time.perf_counter() - self.started


def train_in_graph(spec: ClusterSpec, master: str, digits: digits_data.Digits, options: argparse.Namespace,
                   training: Training) -> float:
    """Train with one client; return the accuracy."""
    workers = sorted(spec.jobs["worker"])
    graph = runtime.Graph()
    weights = Weights(graph, options)
    optimizer = Adam(options.learning_rate)
    replicas, gradients = [], []
    for task in workers:
        replicas.append(Replica(graph, weights, task))
        with graph.device(f"/job:worker/task:{task}"):
            gradients.append(optimizer.compute_gradients(replicas[-1].loss))
    with graph.device(PS):
        averaged = [(graph.add_n([gradient for gradient, _ in found]) / float(len(workers)), found[0][1])
                    for found in zip(*gradients)]
        train = optimizer.apply_gradients(averaged)
    start = graph.global_variables_initializer()
    batches = [digits_data.endless_batches(digits, options.batch, (options.seed, task)) for task in workers]
    with runtime.Session(master, graph) as session:
        session.run(start)
        for step in range(options.steps):
            feeds: dict[Any, Any] = {}
            for replica, some in zip(replicas, batches):
                feeds |= replica.feeds(*next(some))
            losses, _ = session.run([[replica.loss for replica in replicas], train], feeds)
            for task, loss in zip(workers, losses):
                training.note(task, step, float(loss))
        return float(session.run(replicas[0].accuracy, replicas[0].feeds(digits.test_images, digits.test_labels)))


def train_between_graphs(spec: ClusterSpec, digits: digits_data.Digits, options: argparse.Namespace,
                         training: Training) -> float:
    """Train with a client for each worker; return the accuracy."""
    workers = sorted(spec.jobs["worker"])
    meeting = Meeting(workers)
    sessions: list[runtime.Session] = []
    errors: list[Exception] = []

    def steps(task: int) -> Iterator[int]:
        """Yield the numbers of a worker's steps, each when its turn has come."""
        for step in range(options.steps):
            if not options.in_turns:
                yield step
                continue
            for turn in workers:
                if turn == task:
                    yield step
                meeting.wait(task, f"in step {step}")

    def work(task: int) -> float:
        try:
            return train(task)
        except Exception as error:
            errors.append(error)
            meeting.end()
            for session in list(sessions):
                session.close()
            raise

    def train(task: int) -> float:
        is_chief = task == workers[0]
        graph = runtime.Graph()
        replica = Replica(graph, Weights(graph, options), task)
        averaging = None
        if options.mode == "sync":
            averaging = Averaging(graph, replica.loss, options, task, workers)
            update, start = averaging.push, averaging.start
        else:
            with graph.device(PS):
                update = Adam(options.learning_rate).minimize(replica.loss)
                start = graph.global_variables_initializer()
        # A worker that dies then stops its own client, and no other one.
        config = runtime.wire.ConfigProto(device_filters=["/job:ps", f"/job:worker/task:{task}"])
        with runtime.Session(f"grpc://{spec.address('worker', task)}", graph, config) as session:
            sessions.append(session)
            if is_chief:
                session.run(start)
            else:
                session.list_devices()
            meeting.wait(task, "before the first step")
            batches = digits_data.endless_batches(digits, options.batch, (options.seed, task))
            for step in steps(task):
                feeds = replica.feeds(*next(batches)) | (averaging.feeds(step) if averaging else {})
                loss, _ = session.run([replica.loss, update], feeds)
                training.note(task, step, float(loss))
                if averaging:
                    averaging.wait(session)
            return float(session.run(replica.accuracy, replica.feeds(digits.test_images, digits.test_labels)))

    with ThreadPoolExecutor(len(workers)) as threads:
        running = [threads.submit(work, task) for task in workers]
    if errors:
        raise errors[0]  # the one that the others broke off for
    # Whoever ends last has seen all updates.
    return max(one.result() for one in running)


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cluster", help='JSON: {"ps": ["host:port"], "worker": ["host:port", ...]}, or a file of it')
    parser.add_argument("--mode", choices=["in-graph", "async", "sync"], default="in-graph")
    parser.add_argument("--in-turns", action="store_true",
                        help="async: one worker's step behind the other's, so that every run gives the same losses")
    parser.add_argument("--master", help="grpc://HOST:PORT, in-graph: the server to connect to, in place of worker 0")
    parser.add_argument("--workers", type=int, default=2, help="of a cluster of its own")
    parser.add_argument("--steps", type=int, default=600, help="of each worker")
    parser.add_argument("--batch", type=int, default=32, help="images per step and worker")
    parser.add_argument("--hidden", type=int, default=128, help="width of the hidden layer")
    parser.add_argument("--learning-rate", type=float, default=0.002)
    parser.add_argument("--seed", type=int, default=1, help="decides the split, the order and the initial weights")
    parser.add_argument("--losses", type=Path, help="file for the losses of all steps, one JSON object a line")
    parser.add_argument("--data", help=".npz file with images and labels; scikit-learn's digits when not given")
    options = parser.parse_args(arguments)
    for name in ("steps", "batch", "hidden", "workers"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(options, name)}")
    if options.in_turns and options.mode != "async":
        parser.error(f"--in-turns is for --mode async, not for {options.mode}")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Train and report; return the exit status."""
    options = parse_arguments(arguments)
    digits = digits_data.load(options.data, options.seed)
    with contextlib.ExitStack() as stack:
        try:
            if options.cluster:
                spec = ClusterSpec.parse(options.cluster)
            else:
                spec = stack.enter_context(runtime.Cluster(options.workers, 1, services=["graph"])).spec
            workers = len(spec.jobs["worker"])
            print(f"Handwritten digits: {len(digits.train_images)} images to learn from, {len(digits.test_images)} for "
                  f"the test; {options.mode}, {workers} workers{'' if options.cluster else ' (started for this)'}")
            training = Training(options, workers, options.losses)
            if options.mode == "in-graph":
                master = options.master or f"grpc://{spec.address('worker', min(spec.jobs['worker']))}"
                accuracy = train_in_graph(spec, master, digits, options, training)
            else:
                accuracy = train_between_graphs(spec, digits, options, training)
            seconds = training.end()
        except Error as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            return 1
    print(f"test accuracy  {accuracy:.4f} ({'at least' if accuracy >= GOAL else 'below the goal of'} {GOAL})")
    print(f"speed          {workers * options.steps / seconds:.0f} batches/s, {seconds:.1f} s")
    return 0 if accuracy >= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
