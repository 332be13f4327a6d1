"""Loops as real programs build them: while_loop in both forms, nested, with conditionals, arrays and gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow.compat.v1 as tf
from checks import check, failure, main, session

tf.disable_eager_execution()

ROWS = np.arange(12, dtype=np.float32).reshape(4, 3) / 7.0
COUNTS = (0, 1, 3, 7)


class control_flow:
    """Build conditionals and loops as nodes (1) or as functions (2) within a block."""

    def __init__(self, version: int) -> None:
        self.version = version

    def __enter__(self) -> None:
        (tf.enable_control_flow_v2 if self.version == 2 else tf.disable_control_flow_v2)()

    def __exit__(self, *_: Any) -> None:
        tf.enable_control_flow_v2()


def in_both_forms(work: Callable[[], tuple[Any, list[dict[Any, Any]]]]) -> Callable[[str], Any]:
    """Make a check of a function that builds a graph and returns what to fetch and the feeds of each run.

    A feed's key is the name of a placeholder.
    """

    def run(target: str) -> Any:
        seen = {}
        for version in (1, 2):
            with tf.Graph().as_default() as graph, control_flow(version):
                fetches, runs = work()
                with session(target, graph) as sess:
                    sess.run(tf.global_variables_initializer())
                    seen[f"v{version}"] = [
                        sess.run(fetches, {f"{name}:0": value for name, value in feeds.items()}) for feeds in runs
                    ]
        return seen

    run.__name__ = work.__name__
    return check(run)


def scalar(name: str, dtype: Any = tf.float32) -> Any:
    return tf.placeholder(dtype, [], name=name)


@in_both_forms
def counting() -> Any:
    n = scalar("n", tf.int32)
    outputs = [
        tf.while_loop(lambda i, s: i < n, lambda i, s: (i + 1, s * 0.5 + tf.cast(i, tf.float32)), [0, 1.0],
                      parallel_iterations=parallel)
        for parallel in (1, 2, 32)
    ]
    limited = tf.while_loop(lambda i: i < n, lambda i: i + 2, [0], maximum_iterations=2)
    return [outputs, limited], [{"n": count} for count in COUNTS]


@in_both_forms
def shapes_that_grow() -> Any:
    n = scalar("n", tf.int32)
    _, grown = tf.while_loop(
        lambda i, a: i < n,
        lambda i, a: (i + 1, tf.concat([a, [tf.cast(i, tf.float32)]], 0)),
        [0, tf.zeros([1])],
        shape_invariants=[tf.TensorShape([]), tf.TensorShape([None])],
    )
    return [grown, tf.shape(grown)], [{"n": count} for count in COUNTS]


@in_both_forms
def nested_loops() -> Any:
    n = scalar("n", tf.int32)

    def inner(i: Any, total: Any) -> Any:
        _, total = tf.while_loop(lambda j, t: j <= i, lambda j, t: (j + 1, t * 1.5 + tf.cast(i * j, tf.float32)),
                                 [0, total])
        return i + 1, total

    return tf.while_loop(lambda i, t: i < n, inner, [0, 0.25]), [{"n": count} for count in COUNTS]


@in_both_forms
def conditional_in_a_loop() -> Any:
    n = scalar("n", tf.int32)

    def body(i: Any, s: Any, text: Any) -> Any:
        s = tf.cond(tf.equal(i % 2, 0), lambda: s + 1.0, lambda: tf.cond(s > 3.0, lambda: s * s, lambda: s - 0.5))
        text = tf.cond(tf.equal(i % 3, 0), lambda: tf.strings.join([text, "a"]), lambda: text)
        return i + 1, s, text

    return tf.while_loop(lambda i, s, t: i < n, body, [0, 2.0, tf.constant("")]), [{"n": count} for count in COUNTS]


@in_both_forms
def loop_in_a_conditional() -> Any:
    p, n, x = scalar("p", tf.bool), scalar("n", tf.int32), scalar("x")
    power = lambda: tf.while_loop(lambda i, y: i < n, lambda i, y: (i + 1, y * x), [0, 1.0])[1]  # noqa: E731
    y = tf.cond(p, power, lambda: x - 1.0)
    (gradient,) = tf.gradients(y, x)
    return [y, gradient], [{"p": p, "n": n, "x": 1.5} for p in (True, False) for n in (0, 3)]


@in_both_forms
def gradient_of_a_loop() -> Any:
    n, x = scalar("n", tf.int32), scalar("x")
    w = tf.placeholder(tf.float32, [3, 3], name="w")
    state = tf.placeholder(tf.float32, [None, 3], name="state")
    _, out = tf.while_loop(lambda i, s: i < n, lambda i, s: (i + 1, tf.tanh(tf.matmul(s, w)) * x + state), [0, state],
                           shape_invariants=[tf.TensorShape([]), tf.TensorShape([None, 3])])
    loss = tf.reduce_sum(out * out)
    weights = (np.eye(3) * 0.5 + 0.1).astype(np.float32)
    feeds = {"x": 0.8, "w": weights, "state": ROWS}
    return [loss, *tf.gradients(loss, [x, w, state])], [{**feeds, "n": count} for count in COUNTS]


@in_both_forms
def second_derivative_of_a_loop() -> Any:
    x = scalar("x")
    _, y = tf.while_loop(lambda i, y: i < 4, lambda i, y: (i + 1, y * x), [0, 1.0])
    (first,) = tf.gradients(y, x)
    if tf.control_flow_v2_enabled():
        (second,) = tf.gradients(first, x)
    else:  # the older form refuses a derivative of its own derivative
        second = 12.0 * x * x
    return [y, first, second], [{"x": 1.5}, {"x": -2.0}]


@in_both_forms
def gradient_of_nested_loops() -> Any:
    n, x = scalar("n", tf.int32), scalar("x")

    def outer(i: Any, y: Any) -> Any:
        _, y = tf.while_loop(lambda j, z: j < i, lambda j, z: (j + 1, z * x + 0.5), [0, y])
        return i + 1, tf.sin(y)

    _, y = tf.while_loop(lambda i, y: i < n, outer, [0, x * 2.0])
    (gradient,) = tf.gradients(y, x)
    return [y, gradient], [{"n": count, "x": 0.7} for count in COUNTS]


@in_both_forms
def gradient_of_a_conditional_in_a_loop() -> Any:
    n, x = scalar("n", tf.int32), scalar("x")

    def body(i: Any, y: Any) -> Any:
        branch = lambda: tf.cond(y > 1.0, lambda: tf.sqrt(y) * x, lambda: y * y + x)  # noqa: E731
        return i + 1, tf.cond(tf.equal(i % 2, 0), lambda: y * x + tf.cast(i, tf.float32), branch)

    _, y = tf.while_loop(lambda i, y: i < n, body, [0, 1.0 + x])
    (gradient,) = tf.gradients(y, x)
    return [y, gradient], [{"n": count, "x": x} for count in COUNTS for x in (0.3, 1.7)]


@in_both_forms
def gradient_of_a_choice_in_a_loop() -> Any:
    n, x = scalar("n", tf.int32), scalar("x")

    def body(i: Any, y: Any) -> Any:
        return i + 1, tf.switch_case(i % 3, [lambda: y * x, lambda: tf.exp(-y) + x, lambda: y / (1.0 + x * x)])

    _, y = tf.while_loop(lambda i, y: i < n, body, [0, x])
    (gradient,) = tf.gradients(y, x)
    return [y, gradient], [{"n": count, "x": 1.3} for count in COUNTS]


@in_both_forms
def tensor_arrays() -> Any:
    x = tf.placeholder(tf.float32, [None, 3], name="x")
    count = tf.shape(x)[0]
    source = tf.TensorArray(tf.float32, count).unstack(x)
    target = tf.TensorArray(tf.float32, count, clear_after_read=False, element_shape=[3])

    def body(i: Any, array: Any, total: Any) -> Any:
        total = total * 0.5 + source.read(i)
        return i + 1, array.write(i, total * total), total

    _, target, last = tf.while_loop(lambda i, a, t: i < count, body, [0, target, tf.zeros([3])])
    stacked = target.stack()
    reversed_rows = target.gather(tf.range(count)[::-1])
    (gradient,) = tf.gradients(tf.reduce_sum(stacked * reversed_rows) + tf.reduce_sum(last), x)
    return [stacked, reversed_rows, last, target.size(), gradient], [{"x": ROWS}, {"x": ROWS[:1]}]


@in_both_forms
def arrays_of_uneven_parts() -> Any:
    lengths = tf.placeholder(tf.int32, [None], name="lengths")
    values = tf.range(tf.cast(tf.reduce_sum(lengths), tf.float32))
    parts = tf.TensorArray(tf.float32, tf.shape(lengths)[0], infer_shape=False, element_shape=[None])
    parts = parts.split(values, lengths)
    out = tf.TensorArray(tf.float32, 0, dynamic_size=True, infer_shape=False, element_shape=[None])

    def body(i: Any, array: Any) -> Any:
        return i + 1, array.write(i, parts.read(i) * tf.cast(i + 1, tf.float32))

    _, out = tf.while_loop(lambda i, a: i < tf.shape(lengths)[0], body, [0, out])
    joined = out.concat()
    return [joined, tf.gradients(joined, values)[0]], [{"lengths": [2, 0, 3]}, {"lengths": [1]}]


@in_both_forms
def higher_order_functions() -> Any:
    x = tf.placeholder(tf.float32, [None, 3], name="x")
    scanned = tf.scan(lambda a, row: a * 0.5 + tf.sin(row), x, initializer=tf.zeros([3]))
    backwards = tf.scan(lambda a, row: a + row, x, reverse=True)
    mapped = tf.map_fn(lambda row: (tf.reduce_sum(row), row[::-1]), x, dtype=(tf.float32, tf.float32))
    folded = tf.foldr(lambda a, row: a * row + 1.0, x)
    loss = tf.reduce_sum(scanned) + tf.reduce_sum(mapped[1] * x) + tf.reduce_sum(folded)
    (gradient,) = tf.gradients(loss, x)
    return [scanned, backwards, mapped, folded, gradient], [{"x": ROWS}]


@in_both_forms
def variables_in_a_loop() -> Any:
    n = scalar("n", tf.int32)
    v = tf.get_variable("v", initializer=1.0, use_resource=True)
    w = tf.get_variable("w", initializer=[1.0, 2.0, 3.0], use_resource=True)

    def body(i: Any, y: Any) -> Any:
        with tf.control_dependencies([v.assign_add(tf.cast(i, tf.float32))]):
            return i + 1, y + v.read_value() * tf.gather(w, i % 3)

    _, y = tf.while_loop(lambda i, y: i < n, body, [0, 0.0], parallel_iterations=1)
    _, z = tf.while_loop(lambda i, z: i < n, lambda i, z: (i + 1, z * tf.gather(w, i % 3)), [0, 1.0])
    (gradient,) = tf.gradients(z, w)
    gradient = tf.convert_to_tensor(gradient)
    with tf.control_dependencies([y]):
        after = v.read_value()
    # Without an iteration the older form knows no shape of the gradient, and TensorFlow fails, too.
    return [y, after, z, gradient], [{"n": count} for count in COUNTS[1:]]


@in_both_forms
def recurrent_cells() -> Any:
    x = tf.placeholder(tf.float32, [2, None, 3], name="x")
    lengths = tf.placeholder(tf.int32, [2], name="lengths")
    kernel = tf.get_variable("kernel", initializer=(np.arange(70).reshape(7, 10) % 11 / 11.0 - 0.5).astype(np.float32))

    def body(t: Any, h: Any, array: Any) -> Any:
        joined = tf.concat([x[:, t], h, tf.ones([2, 1])], 1)
        gates = tf.matmul(joined, kernel)
        new = tf.sigmoid(gates[:, :3]) * tf.tanh(gates[:, 3:6])
        new = tf.where_v2((t < lengths)[:, None], new, h)
        return t + 1, new, array.write(t, new)

    steps = tf.shape(x)[1]
    _, state, outputs = tf.while_loop(lambda t, h, a: t < steps, body,
                                      [0, tf.zeros([2, 3]), tf.TensorArray(tf.float32, steps, element_shape=[2, 3])])
    outputs = tf.transpose(outputs.stack(), [1, 0, 2])
    gradients = tf.gradients(tf.reduce_sum(outputs * outputs) + tf.reduce_sum(state), [x, kernel])
    feeds = {"x": np.arange(24, dtype=np.float32).reshape(2, 4, 3) / 10.0, "lengths": [4, 2]}
    return [outputs, state, gradients], [feeds]


@in_both_forms
def training_through_a_loop() -> Any:
    v = tf.get_variable("v", initializer=0.5, use_resource=True)
    _, y = tf.while_loop(lambda i, y: i < 5, lambda i, y: (i + 1, tf.cond(y > 0.2, lambda: y * v, lambda: y + v)),
                         [0, 1.0])
    loss = tf.square(y - 0.9)
    step = tf.train.GradientDescentOptimizer(0.05).minimize(loss)
    with tf.control_dependencies([step]):
        after = v.read_value()
    return [loss, after], [{}] * 5


@check
def a_failing_iteration(target: str) -> Any:
    def work(graph: tf.Graph) -> Any:
        n, values = scalar("n", tf.int32), tf.zeros([6])
        _, out = tf.while_loop(lambda i, y: i < n, lambda i, y: (i + 1, tf.reshape(values, [i + 1, -1])),
                               [0, tf.zeros([1, 6])],
                               shape_invariants=[tf.TensorShape([]), tf.TensorShape([None, None])])
        with session(target, graph) as sess:
            error = failure(sess.run, out, {n: 4})
            return [error["code"], error["message"].split("\n")[1], sess.run(out, {n: 3})]

    seen = {}
    for version in (1, 2):
        with tf.Graph().as_default() as graph, control_flow(version):
            seen[f"v{version}"] = work(graph)
    return seen


if __name__ == "__main__":
    main()
