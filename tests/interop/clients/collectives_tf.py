"""Collectives of two workers: in one graph that a master runs, and in two, each with a master of its own.

A target is that of both workers, joined by a comma.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow.compat.v1 as tf
from checks import Background, check, failure, main, plain, session
from tensorflow.python.ops import collective_ops

tf.disable_eager_execution()

LEADER = "/job:worker/replica:0/task:0"


def config(**fields: Any) -> tf.ConfigProto:
    made = tf.ConfigProto(**fields)
    made.experimental.collective_group_leader = LEADER
    return made


def worker(index: int) -> Any:
    return tf.device(f"/job:worker/task:{index}/device:CPU:0")


def in_one_graph(target: str, build: Callable[[int], list[Any]], fetch: Callable[[list[Any]], Any] = plain) -> Any:
    """Run what both workers build, from a master of one of them; return what is fetched by the first and second run."""
    graph = tf.Graph()
    with graph.as_default():
        made = []
        for index in range(2):
            with worker(index):
                made += build(index)
    with session(target.split(",")[0], graph, config()) as client:
        return [fetch(client.run(made)) for _ in range(2)]


@check
def reductions_of_every_kind(target: str) -> Any:
    def build(index: int) -> list[Any]:
        made = []
        key = iter(range(1, 100))
        for kind in ("float32", "float64", "int32", "int64", "float16"):
            value = tf.constant(np.array([[1, 2, 3], [-4, 5, 7]]) * (index + 1), kind)
            for merge, final in (("Add", "Id"), ("Add", "Div"), ("Mul", "Id"), ("Max", "Id"), ("Min", "Id")):
                made.append(collective_ops.all_reduce(value, 2, 1, next(key), merge, final))
        return made

    return in_one_graph(target, build)


@check
def sizes_and_subdivisions(target: str) -> Any:
    def build(index: int) -> list[Any]:
        made = []
        for key, size in enumerate((1, 2, 15, 16, 17, 32, 33, 1000, 5_000_000), 200):
            value = tf.range(tf.cast(size, tf.float32)) * (index + 1.0)
            made.append(tf.reduce_sum(collective_ops.all_reduce(value, 2, 2, key, "Add", "Id", (0,))[-7:]))
        chosen = tf.fill([6_000_000], index + 1.0)  # no offsets: one subdivision
        made.append(tf.reduce_sum(collective_ops.all_reduce(chosen, 2, 2, 300, "Add", "Id", ())[-9:]))
        return made

    return in_one_graph(target, build)


@check
def gathers_and_broadcasts(target: str) -> Any:
    def build(index: int) -> list[Any]:
        value = tf.constant([[1, 2], [3, 4]], tf.int32) + 10 * index
        made = [collective_ops.all_gather(value, 2, 3, 1)]
        for source, key in ((0, 2), (1, 3)):
            if source == index:
                made.append(collective_ops.broadcast_send(value, [2, 2], tf.int32, 2, 3, key))
            else:
                made.append(collective_ops.broadcast_recv([2, 2], tf.int32, 2, 3, key))
        return made

    return in_one_graph(target, build)


@check
def masters_of_their_own(target: str) -> Any:
    """Train one variable on each worker, with the mean of both gradients."""
    found: list[Any] = [None, None]

    def train(index: int) -> None:
        graph = tf.Graph()
        with graph.as_default(), worker(index):
            weight = tf.get_variable(f"own{index}", initializer=np.float32([1, 2]))
            gradient = weight.read_value() * (index + 1.0)
            mean = collective_ops.all_reduce(gradient, 2, 5, 1, "Add", "Div")
            step = tf.assign_sub(weight, 0.1 * mean)
            start = tf.global_variables_initializer()
        filters = config(device_filters=[f"/job:worker/task:{index}"])
        with session(target.split(",")[index], graph, filters) as client:
            client.run(start)
            found[index] = [plain(client.run(step)) for _ in range(4)]

    both = [Background(train, index) for index in range(2)]
    errors = [one.result(30) for one in both]
    return [errors, found]


@check
def shapes_that_differ(target: str) -> Any:
    def build(index: int) -> list[Any]:
        return [collective_ops.all_reduce(tf.ones([3 + index]), 2, 6, 1, "Add", "Id")]

    return failure(lambda: in_one_graph(target, build))["code"]


if __name__ == "__main__":
    main()
