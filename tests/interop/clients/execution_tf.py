"""What runs: conditionals, loops, functions, random numbers, queues (checklist 56 to 59, and functions)."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import tensorflow.compat.v1 as tf
from checks import Background, check, failure, failure_or_value, main, session, skip
from tensorflow.python.framework import function as old_function

tf.disable_eager_execution()


class control_flow:
    """Build conditionals and loops as nodes (1) or as functions (2) within a block."""

    def __init__(self, version: int) -> None:
        self.version = version

    def __enter__(self) -> None:
        (tf.enable_control_flow_v2 if self.version == 2 else tf.disable_control_flow_v2)()

    def __exit__(self, *_: Any) -> None:
        tf.enable_control_flow_v2()


def in_both_forms(work: Any) -> Any:
    seen = {}
    for version in (1, 2):
        with tf.Graph().as_default() as graph, control_flow(version):
            seen[f"v{version}"] = work(graph)
    return seen


@check
def merge_takes_the_live_input(target: str) -> Any:
    with tf.Graph().as_default() as graph:
        x = tf.placeholder(tf.float32, [], name="x")
        p = tf.placeholder(tf.bool, [], name="p")
        false_side, true_side = tf.raw_ops.Switch(data=x, pred=p)
        merged = tf.raw_ops.Merge(inputs=[false_side * 10.0, true_side * 100.0])
        with session(target, graph) as sess:
            return [list(sess.run(merged, {x: 1.0, p: value})) for value in (False, True)]


@check
def conditionals(target: str) -> Any:
    def work(graph: tf.Graph) -> Any:
        p = tf.placeholder(tf.bool, [], name="p")
        x = tf.placeholder(tf.float32, [None], name="x")
        v = tf.get_variable("taken", initializer=0.0, use_resource=True)
        bad = tf.cond(p, lambda: tf.reduce_sum(x), lambda: tf.reduce_sum(tf.reshape(x, [7])))
        counted = tf.cond(p, lambda: v.assign_add(1.0), lambda: v.assign_add(100.0))
        nested = tf.cond(p, lambda: tf.cond(x[0] > 0, lambda: 1.0, lambda: 2.0), lambda: 3.0)
        choice = tf.switch_case(tf.placeholder(tf.int32, [], name="i"), [lambda: 10.0, lambda: 20.0], lambda: 30.0)
        with session(target, graph) as sess:
            sess.run(v.initializer)
            sess.run([counted.op, counted.op], {p: True})
            return {
                "taken": sess.run(bad, {p: True, x: [1.0, 2.0]}),
                "other": failure(sess.run, bad, {p: False, x: [1.0, 2.0]})["code"],
                "counted": sess.run(v),
                "nested": [sess.run(nested, {p: a, x: [b]}) for a, b in ((True, 1.0), (True, -1.0), (False, 1.0))],
                "case": [sess.run(choice, {"i:0": index}) for index in (0, 1, 2, -1)],
            }

    return in_both_forms(work)


@check
def gradient_through_a_conditional(target: str) -> Any:
    def work(graph: tf.Graph) -> Any:
        x = tf.placeholder(tf.float32, [], name="x")
        y = tf.cond(x > 0, lambda: x * x, lambda: -3.0 * x)
        (gradient,) = tf.gradients(y, x)
        with session(target, graph) as sess:
            return [sess.run(gradient, {x: value}) for value in (2.0, -2.0)]

    return in_both_forms(work)


@check
def loops(target: str) -> Any:
    def work(graph: tf.Graph) -> Any:
        n = tf.placeholder(tf.int32, [], name="n")
        seen = {}
        results = []
        for parallel in (1, 10):
            results.append(
                tf.while_loop(
                    lambda i, s: i < n,
                    lambda i, s: (i + 1, s + tf.cast(i, tf.float32)),
                    [0, 0.0],
                    parallel_iterations=parallel,
                )
            )
        nested = tf.while_loop(
            lambda i, s: i < n,
            lambda i, s: (
                i + 1,
                s + tf.while_loop(lambda j, t: j < i, lambda j, t: (j + 1, t + i * j), [0, 0])[1],
            ),
            [0, 0],
        )
        with session(target, graph) as sess:
            for count in (0, 1, 100):
                seen[str(count)] = [list(item) for item in sess.run(results, {n: count})]
            seen["nested"] = list(sess.run(nested, {n: 8}))
        return seen

    return in_both_forms(work)


@check
def loop_in_an_untaken_branch(target: str) -> Any:
    def work(graph: tf.Graph) -> Any:
        p = tf.placeholder(tf.bool, [], name="p")
        looped = lambda: tf.while_loop(lambda i: i < 10, lambda i: i + 3, [0])  # noqa: E731
        y = tf.cond(p, looped, lambda: tf.constant(-1))
        with session(target, graph) as sess:
            return [sess.run(y, {p: value}) for value in (True, False, True)]

    return in_both_forms(work)


@check
def arrays_in_loops(target: str) -> Any:
    def work(graph: tf.Graph) -> Any:
        x = tf.placeholder(tf.float32, [None, 2], name="x")
        scanned = tf.scan(lambda a, b: a + b, x)
        mapped = tf.map_fn(lambda row: tf.reduce_sum(row) * 2.0, x)
        folded = tf.foldl(lambda a, row: a + row, x)
        (gradient,) = tf.gradients(tf.reduce_sum(scanned * scanned), x)
        with session(target, graph) as sess:
            return sess.run([scanned, mapped, folded, gradient], {x: [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]})

    return in_both_forms(work)


@check
def gradient_through_a_loop(target: str) -> Any:
    def work(graph: tf.Graph) -> Any:
        x = tf.placeholder(tf.float32, [], name="x")
        _, power = tf.while_loop(lambda i, y: i < 3, lambda i, y: (i + 1, y * x), [0, tf.ones([])])
        (gradient,) = tf.gradients(power, x)
        with session(target, graph) as sess:
            return sess.run([power, gradient], {x: 2.0})

    return in_both_forms(work)


@check
def recurrent_network(target: str) -> Any:
    """A cell over time in both forms of the loop, and its gradient for the weights."""

    def work(graph: tf.Graph) -> Any:
        x = tf.placeholder(tf.float32, [2, 5, 3], name="x")
        w = tf.constant(np.linspace(-1, 1, 28).reshape(7, 4), tf.float32)

        def body(t: Any, h: Any) -> Any:
            return t + 1, tf.tanh(tf.matmul(tf.concat([x[:, t], h], 1), w))

        _, last = tf.while_loop(lambda t, h: t < 5, body, [0, tf.zeros([2, 4])])
        loss = tf.reduce_sum(last**2)
        (gradient,) = tf.gradients(loss, w)
        with session(target, graph) as sess:
            value, slope = sess.run([loss, gradient], {x: np.linspace(-1, 1, 30).reshape(2, 5, 3)})
            return [round(float(value), 4), np.round(slope, 3)]

    return in_both_forms(work)


@check
def functions(target: str) -> Any:
    @tf.function
    def double(x: Any) -> Any:
        return x * 2.0

    @tf.function
    def deep(x: Any, v: Any) -> Any:
        v.assign_add(double(x))
        return double(double(x)) + v

    @old_function.Defun(tf.float32, tf.float32, func_name=f"Older{time.time_ns()}")
    def older(a: Any, b: Any) -> Any:
        return a - b, a * b

    with tf.Graph().as_default() as graph:
        x = tf.placeholder(tf.float32, [None], name="x")
        v = tf.get_variable("called", initializer=[1.0, 1.0], use_resource=True)
        y = deep(x, v)
        (gradient,) = tf.gradients(tf.reduce_sum(double(x) ** 2), x)
        pair = older(x, x + 1.0)
        with session(target, graph) as sess:
            sess.run(v.initializer)
            return [sess.run([y, gradient, pair[0], pair[1]], {x: [1.0, 2.0]}), sess.run(v)]


@check
def error_in_a_function(target: str) -> Any:
    @tf.function(autograph=False)
    def bad(x: Any, shape: Any) -> Any:
        return tf.reshape(x, shape, name="inner")

    with tf.Graph().as_default() as graph:
        x = tf.placeholder(tf.float32, [None], name="x")
        shape = tf.placeholder(tf.int32, [1], name="shape")
        y = tf.identity(bad(x, shape), name="y")
        with session(target, graph) as sess:
            error = failure(sess.run, y, {x: [1.0, 2.0], shape: [7]})
            return {
                "code": error["code"],
                "start": error["message"].split("\n")[:2],
                "inner": error["message"].count("inner}}") == 1,
                "after": sess.run(y, {x: np.arange(7), shape: [7]}),
            }


@check
def random_ops(target: str) -> Any:
    with tf.Graph().as_default() as graph:
        y = tf.random.uniform([2], seed=3)
        n = tf.random.normal([3], seed=5)
        truncated = tf.random.truncated_normal([3], seed=6)
        whole = tf.random.uniform([4], 0, 100, tf.int32, seed=7)
        shuffled = tf.random.shuffle(tf.range(8), seed=8)
        stateless = tf.random.stateless_uniform([3], seed=[1, 2])
        dropped = tf.nn.dropout(tf.ones([8]), rate=0.5, seed=10)
        seen = []
        for _ in range(2):
            with session(target, graph) as sess:
                for _ in range(2):
                    values = sess.run([y, n, truncated, whole, shuffled, stateless, dropped])
                    seen.append([np.round(np.asarray(value, np.float64), 5) for value in values])
        return seen


@check
def random_choices(target: str) -> Any:
    with tf.Graph().as_default() as graph:
        chosen = tf.random.categorical(tf.math.log([[0.1, 0.2, 0.7]]), 6, seed=9)
        with session(target, graph) as sess:
            return [sess.run(chosen) for _ in range(3)]


@check
def unseeded_random_ops(target: str) -> Any:
    with tf.Graph().as_default() as graph:
        y = tf.random.uniform([4])
        with session(target, graph) as first, session(target, graph) as second:
            rows = [first.run(y), first.run(y), second.run(y)]
            return {
                "differ": len({row.tobytes() for row in rows}) == 3,
                "range": all((r >= 0).all() and (r < 1).all() for r in rows),
            }


@check
def queues_in_order(target: str) -> Any:
    with tf.Graph().as_default() as graph:
        queue = tf.FIFOQueue(3, [tf.float32, tf.string], shapes=[[2], []], name="q")
        x = tf.placeholder(tf.float32, [2], name="x")
        s = tf.placeholder(tf.string, [], name="s")
        many = queue.enqueue_many([tf.ones([2, 2]), ["m0", "m1"]])
        put, take, size = queue.enqueue([x, s]), queue.dequeue(), queue.size()
        take_many, take_up_to = queue.dequeue_many(2), queue.dequeue_up_to(2)
        close = queue.close()
        with session(target, graph) as sess:
            seen = []
            for index in range(2):
                sess.run(put, {x: [index, index], s: f"s{index}"})
            full = Background(sess.run, many)
            time.sleep(0.2)
            seen.append(["waits for room", full.thread.is_alive(), sess.run(size)])
            seen.append(sess.run(take))
            full.result()
            seen.append(sess.run(take_many))
            seen.append(sess.run(size))
            sess.run(close)
            seen.append(sess.run(take_up_to))
            seen.append(failure(sess.run, take))
            seen.append(failure(sess.run, put, {x: [0, 0], s: ""}))
            return seen


@check
def closing_a_queue_ends_what_waits(target: str) -> Any:
    with tf.Graph().as_default() as graph:
        queue = tf.FIFOQueue(1, [tf.float32], shapes=[[]], name="q")
        put, take, size = queue.enqueue(1.0), queue.dequeue(), queue.size()
        close, cancel = queue.close(), queue.close(cancel_pending_enqueues=True)
        with session(target, graph) as sess:
            sess.run(size)
            waiting = Background(sess.run, take)
            time.sleep(0.2)
            sess.run(close)
            starved = waiting.result()
        with session(target, graph) as sess:
            sess.run(put)
            waiting = Background(sess.run, put)
            time.sleep(0.2)
            sess.run(cancel)
            return {"dequeue": starved, "enqueue": waiting.result(), "kept": sess.run(size)}


@check
def waiters_are_served_in_order(target: str) -> Any:
    with tf.Graph().as_default() as graph:
        queue = tf.FIFOQueue(100, [tf.int32], shapes=[[]], name="q")
        x = tf.placeholder(tf.int32, [None], name="x")
        put, take, size = queue.enqueue_many(x), queue.dequeue(), queue.size()
        with session(target, graph) as sess:
            sess.run(size)
            waiting = []
            for _ in range(5):
                waiting.append(Background(sess.run, take))
                time.sleep(0.1)
            sess.run(put, {x: np.arange(7)})
            return [[item.result() for item in waiting], sess.run(size)]


@check
def other_queues(target: str) -> Any:
    with tf.Graph().as_default() as graph:
        shuffle = tf.RandomShuffleQueue(100, 2, [tf.int32], shapes=[[]], seed=1, name="shuffle")
        priority = tf.PriorityQueue(100, [tf.string], [[]], name="priority")
        padding = tf.PaddingFIFOQueue(100, [tf.int32], [[None]], name="padding")
        fill = [
            shuffle.enqueue_many([tf.range(10)]),
            priority.enqueue_many([tf.constant([3, 1, 2], tf.int64), ["c", "a", "b"]]),
            padding.enqueue([[1]]),
        ]
        with session(target, graph) as sess:
            sess.run(fill)
            sess.run(padding.enqueue([[2, 3]]))
            sess.run(shuffle.close())
            return {
                "shuffle": sorted(sess.run(shuffle.dequeue_many(10)).tolist()),
                "priority": [list(sess.run(priority.dequeue())) for _ in range(3)],
                "padding": sess.run(padding.dequeue_many(2)),
            }


@check
def first_error_wins(target: str) -> Any:
    """A failing kernel ends a step in which another node waits, at once."""
    with tf.Graph().as_default() as graph:
        queue = tf.FIFOQueue(1, [tf.float32], shapes=[[]], name="q")
        x = tf.placeholder(tf.float32, [None], name="x")
        take, bad, size = queue.dequeue(), tf.reshape(x, [7], name="bad"), queue.size()
        with session(target, graph) as sess:
            sess.run(size)
            started = time.monotonic()
            error = failure(sess.run, [take, bad], {x: [1.0]})
            return {"error": error, "soon": time.monotonic() - started < 2.0}


@check
@skip("tensorflow")  # its executor looks for a cancellation only between steps that wait: the loop would never end
def endless_loop_and_its_timeout(target: str) -> Any:
    def work(graph: tf.Graph) -> Any:
        endless = tf.while_loop(lambda i: tf.constant(True), lambda i: i + 1, [tf.constant(0)])
        fine = tf.constant(1.0)
        with session(target, graph) as sess:
            sess.run(fine)
            started = time.monotonic()
            error = failure(sess.run, endless, options=tf.RunOptions(timeout_in_ms=500))
            return {"code": error["code"], "in time": time.monotonic() - started < 3.0, "after": sess.run(fine)}

    return in_both_forms(work)


@check
def lookup_tables(target: str) -> Any:
    with tf.Graph().as_default() as graph:
        table = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(["a", "b"], tf.constant([1, 2], tf.int64)),
            -1,
            name=f"t{time.time_ns()}",
        )
        found, size = table.lookup(tf.constant(["b", "zz", "a"])), table.size()
        with session(target, graph) as sess:
            before = failure(sess.run, found)["code"]
            sess.run(tf.tables_initializer())
            return [before, sess.run([found, size])]


@check
def assert_and_print(target: str) -> Any:
    with tf.Graph().as_default() as graph:
        x = tf.placeholder(tf.float32, [], name="x")
        with tf.control_dependencies([tf.Assert(x > 0, ["not positive", x], name="positive")]):
            y = tf.identity(x)
        with session(target, graph) as sess:
            return [sess.run(y, {x: 1.0}), failure_or_value(sess.run, y, {x: -1.0})]


if __name__ == "__main__":
    main()
