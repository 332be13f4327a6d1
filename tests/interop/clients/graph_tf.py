"""Graphs, feeds, fetches and placement, as TensorFlow's own client sees them (checklist 24 to 35)."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow.compat.v1 as tf
from checks import check, failure, main, session
from tensorflow.core.framework import graph_pb2

tf.disable_eager_execution()


@check
def fetches_of_every_form(target: str) -> Any:
    with tf.Graph().as_default() as graph:
        x = tf.placeholder(tf.float32, [None], name="x")
        y = tf.identity(x * 2.0, name="y")
        target_only = tf.no_op(name="nothing")
        sparse = tf.SparseTensor([[0, 1]], tf.identity(x)[:1], [2, 2])
        with session(target, graph) as sess:
            feed = {x: [1.0, 2.0]}
            return {
                "name": sess.run("y:0", feed),
                "dict": sess.run({"a": y, "b": [y, y]}, feed),
                "operation": sess.run([y, target_only], feed),
                "twice": sess.run([y, y], feed),
                "sparse": list(sess.run(sparse, feed)),
                "fed": sess.run([x, y], feed),
                "empty": sess.run([], feed),
            }


@check
def feed_of_a_constant(target: str) -> Any:
    with tf.Graph().as_default() as graph:
        c = tf.constant(1.0, name="c")
        y = tf.identity(c, name="y")
        z = tf.negative(y, name="z")
        with session(target, graph) as sess:
            return [sess.run(z), sess.run(z, {c: 5.0}), sess.run(z, {y: 6.0}), sess.run(z)]


@check
def feed_of_a_variable(target: str) -> Any:
    with tf.Graph().as_default() as graph:
        v = tf.get_variable("feed_of_a_variable", initializer=3.0, use_resource=False)
        y = v * 2.0
        with session(target, graph) as sess:
            fed = sess.run(y, {v: 10.0})
            sess.run(v.initializer)
            return [fed, sess.run(y)]


@check
def feed_of_every_python_form(target: str) -> Any:
    with tf.Graph().as_default() as graph:
        f = tf.placeholder(tf.float32, name="f")
        i = tf.placeholder(tf.int64, name="i")
        s = tf.placeholder(tf.string, name="s")
        b = tf.placeholder(tf.bool, name="b")
        out = [tf.identity(item) for item in (f, i, s, b)]
        with session(target, graph) as sess:
            return [
                sess.run(out, {f: 1, i: 2, s: "text", b: True}),
                sess.run(out, {f: [[1, 2], [3, 4]], i: np.arange(3), s: [b"\xff\x00", "\u00e9"], b: [True, False]}),
                sess.run(
                    out, {f: np.zeros((0, 2)), i: np.arange(6).reshape(2, 3).T, s: [["", "x"]], b: np.array([], bool)}
                ),
            ]


@check
def control_successor_of_a_fed_placeholder(target: str) -> Any:
    with tf.Graph().as_default() as graph:
        x = tf.placeholder(tf.float32, name="x")
        with tf.control_dependencies([x]):
            c = tf.constant(4.0, name="c")
        with session(target, graph) as sess:
            return {"fed": sess.run(c, {x: 1.0}), "unfed": failure(sess.run, c)}


@check
def only_what_is_needed_runs(target: str) -> Any:
    with tf.Graph().as_default() as graph:
        x = tf.placeholder(tf.float32, [None], name="x")
        bad = tf.reshape(x, [7], name="bad")
        y = tf.identity(x, name="y")
        v = tf.get_variable("only_what_is_needed", initializer=1.0, use_resource=True)
        bump = v.assign_add(1.0)
        with session(target, graph) as sess:
            sess.run(v.initializer)
            seen = [sess.run(y, {x: [1.0, 2.0]}), sess.run(v)]
            return {"seen": seen, "bad": failure(sess.run, [y, bad], {x: [1.0, 2.0]}), "bump": sess.run(bump)}


@check
def unfed_placeholders(target: str) -> Any:
    seen = {}
    for shape in (None, [], [None], [None, 3]):
        with tf.Graph().as_default() as graph:
            y = tf.identity(tf.placeholder(tf.int32, shape, name="x"))
            with session(target, graph) as sess:
                seen[str(shape)] = failure(sess.run, y)
    return seen


@check
def device_that_is_not_there(target: str) -> Any:
    with tf.Graph().as_default() as graph:
        with tf.device("/job:nope/task:3"):
            a = tf.constant(1.0, name="a")
        with session(target, graph) as sess:
            created = failure(sess.run, a)
    with tf.Graph().as_default() as graph:
        b = tf.constant(1.0, name="b")
        with session(target, graph) as sess:
            first = sess.run(b)
            with tf.device("/job:nope/task:3"):
                a = tf.constant(1.0, name="a")
            extended = failure(sess.run, b)
            again = failure(sess.run, a)
    with tf.Graph().as_default() as graph:
        with tf.device("/job:nope/task:3"):
            a = tf.constant(1.0, name="a")
        with session(target, graph, allow_soft_placement=True) as sess:
            soft = failure(sess.run, a)
    return {"created": created, "first": first, "extended": extended, "again": again, "soft": soft}


@check
def gpu_request(target: str) -> Any:
    with tf.Graph().as_default() as graph:
        with tf.device("/gpu:0"):
            a = tf.constant(1.0, name="a") + tf.constant(2.0, name="b")
        with session(target, graph) as sess:
            hard = failure(sess.run, a)
        with session(target, graph, allow_soft_placement=True) as sess:
            soft = sess.run(a)
            metadata = tf.RunMetadata()
            sess.run(a, options=tf.RunOptions(output_partition_graphs=True), run_metadata=metadata)
            places = sorted({node.device for part in metadata.partition_graphs for node in part.node})
    return {"hard": hard, "soft": soft, "places": places}


@check
def places_of_unplaced_nodes(target: str) -> Any:
    with tf.Graph().as_default() as graph:
        x = tf.placeholder(tf.float32, name="x")
        y = tf.identity(tf.exp(x), name="y")
        with tf.device("/device:CPU:*"):
            z = tf.identity(tf.exp(y), name="z")
        with session(target, graph) as sess:
            metadata = tf.RunMetadata()
            sess.run(z, {x: 1.0}, options=tf.RunOptions(output_partition_graphs=True), run_metadata=metadata)
            return sorted({node.device for part in metadata.partition_graphs for node in part.node})


@check
def colocation_with_a_variable(target: str) -> Any:
    """The reference edge alone puts Assign with its variable, whatever device the Assign asks for."""
    with tf.Graph().as_default() as graph:
        with tf.device("/cpu:0"):
            v = tf.get_variable("colocated", initializer=1.0, use_resource=False)
        with tf.colocate_with(v.op):
            named = tf.constant(5.0, name="named")
        assign = v.assign(named)
        with session(target, graph) as sess:
            metadata = tf.RunMetadata()
            sess.run(assign, options=tf.RunOptions(output_partition_graphs=True), run_metadata=metadata)
            places = sorted({node.device for part in metadata.partition_graphs for node in part.node})
            return {"value": sess.run(v), "places": places, "class": plain_class(named)}


def plain_class(tensor: tf.Tensor) -> list[str]:
    return [item.decode() for item in tensor.op.get_attr("_class")]


@check
def stateful_nodes_stay_over_an_extension(target: str) -> Any:
    with tf.Graph().as_default() as graph:
        ref = tf.get_variable("stays_ref", initializer=1.0, use_resource=False)
        resource = tf.get_variable("stays_resource", initializer=1.0, use_resource=True)
        with session(target, graph) as sess:
            sess.run([ref.initializer, resource.initializer])
            sess.run([ref.assign_add(1.0), resource.assign_add(2.0)])
            seen = [sess.run([ref, resource])]
            more = [ref.assign_add(1.0), resource.assign_add(1.0), tf.identity(ref), resource.read_value()]
            sess.run(more[:2])
            seen.append(sess.run(more[2:]))
            return seen


@check
def graph_from_elsewhere(target: str) -> Any:
    """A GraphDef with nothing but what is needed: no attrs that have defaults, an odd producer."""
    graph_def = graph_pb2.GraphDef()
    graph_def.versions.producer = 134
    x = graph_def.node.add(name="x", op="Placeholder")
    x.attr["dtype"].type = tf.float32.as_datatype_enum
    square = graph_def.node.add(name="scope/y", op="MatMul", input=["x", "x:0"])
    square.attr["T"].type = tf.float32.as_datatype_enum
    graph_def.node.add(name="scope/done", op="NoOp", input=["^scope/y"])
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(graph_def, name="in")
        with session(target, graph) as sess:
            return sess.run(["in/scope/y:0", "in/scope/done"], {"in/x:0": [[2.0, 1.0], [0.0, 3.0]]})


@check
def growing_graph(target: str) -> Any:
    """The client extends the session's graph before every run in which it has grown."""
    with tf.Graph().as_default() as graph, session(target, graph) as sess:
        total, seen = tf.constant(0.0), []
        for index in range(20):
            total = total + float(index)
            seen.append(float(sess.run(total)))
        return seen


@check
def unknown_op(target: str) -> Any:
    """An op that this client knows and no server can run: a Python function of the client's own process."""
    with tf.Graph().as_default() as graph:
        y = tf.py_func(lambda: np.float32(1), [], tf.float32, name="mine")
        with session(target, graph) as sess:
            return failure(sess.run, y)


if __name__ == "__main__":
    main()
