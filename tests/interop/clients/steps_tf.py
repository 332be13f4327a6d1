"""Steps: dead values, partial runs, callables, metadata (checklist 36, 37, 40 to 45)."""

from __future__ import annotations

import json
import re
import threading
from typing import Any

import numpy as np
import tensorflow.compat.v1 as tf
from checks import check, failure, main, session
from tensorflow.core.protobuf import config_pb2
from tensorflow.python.client import timeline

tf.disable_eager_execution()

DEAD = re.compile(
    r"From (?P<task>\S+):\nFailed to fetch outputs for step (?P<step>\d+)\. \(Original error message: "
    r"The tensor returned for (?P<source>[^;]+);(?P<incarnation>[0-9a-f]{16});(?P<sink>[^;]+);(?P<name>[^;]+);0:0 was "
    r"not valid\.\)"
)


def dead_graph() -> tuple[Any, Any]:
    x = tf.placeholder(tf.float32, [], name="x")
    false_side, true_side = tf.raw_ops.Switch(data=x, pred=tf.constant(True), name="switch")
    return x, (tf.identity(false_side, name="dead"), tf.identity(true_side, name="live"))


@check
def dead_fetch(target: str) -> Any:
    with tf.Graph().as_default() as graph:
        x, (dead, live) = dead_graph()
        with session(target, graph) as sess:
            value = sess.run(live, {x: 1.0})
            runs_through = sess.run([live, dead.op], {x: 2.0})
            errors = [failure(sess.run, [live, dead], {x: 1.0}) for _ in range(10)]
            # A fetch that is dead ends its step alone.
            after = sess.run(live, {x: 3.0})
            incarnation = sess.list_devices()[0].incarnation % (1 << 64)
    found = [DEAD.fullmatch(error["message"]) for error in errors]
    if not all(found):
        return errors
    return {
        "values": [value, runs_through[0], after],
        "codes": sorted({error["code"] for error in errors}),
        "names": sorted({match["task"] + ": " + match["source"] + " " + match["name"] for match in found}),
        "steps differ": len({match["step"] for match in found}) == 10,
        "steps are short": all(int(match["step"]) < 1 << 57 for match in found),
        "incarnation": {match["incarnation"] for match in found} == {f"{incarnation:016x}"},
    }


@check
def same_signature_again(target: str) -> Any:
    with tf.Graph().as_default() as graph:
        x = tf.placeholder(tf.float32, [None], name="x")
        y, z = x * 2.0, x + 1.0
        with session(target, graph) as sess:
            seen = []
            for index in range(50):
                seen.append([row.tolist() for row in sess.run([y, z] if index % 2 else [z, y], {x: [index]})])
            return seen


@check
def concurrent_steps(target: str) -> Any:
    """Sixteen threads of one session, each with feeds of its own, and one that extends the graph meanwhile."""
    with tf.Graph().as_default() as graph:
        x = tf.placeholder(tf.float32, [None], name="x")
        y = tf.reduce_sum(x * x)
        with session(target, graph) as sess:
            sess.run(y, {x: [0.0]})
            wrong: list[Any] = []

            def work(number: int) -> None:
                for index in range(40):
                    value = float(number * 40 + index)
                    answer = sess.run(y, {x: [value]})
                    if answer != np.float32(value) ** 2:
                        wrong.append([value, answer])

            threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
            for thread in threads:
                thread.start()
            for index in range(10):
                with graph.as_default():
                    more = tf.constant(float(index)) + 1.0
                sess.run(more)
            for thread in threads:
                thread.join(30)
            return {"wrong": wrong, "left": sum(thread.is_alive() for thread in threads)}


def partial_graph() -> tuple[Any, ...]:
    x = tf.placeholder(tf.float32, [], name="x")
    w = tf.placeholder(tf.float32, [], name="w")
    y = tf.identity(x, name="y")
    return x, w, y, tf.add(y, w, name="s")


@check
def partial_run(target: str) -> Any:
    with tf.Graph().as_default() as graph:
        x, w, y, s = partial_graph()
        with session(target, graph) as sess:
            seen = []
            for number in range(3):
                handle = sess.partial_run_setup([y, s], [x, w])
                first = sess.partial_run(handle, y, {x: float(number)})
                second = sess.partial_run(handle, s, {w: first * 10.0})
                seen.append([first, second])
            # Fetches without a feed in the second call.
            handle = sess.partial_run_setup([y, s], [x, w])
            sess.partial_run(handle, [], {x: 1.0, w: 2.0})
            seen.append(sess.partial_run(handle, [y, s]))
            return seen


@check
def partial_run_texts(target: str) -> Any:
    with tf.Graph().as_default() as graph:
        x, w, y, s = partial_graph()
        c = tf.constant(1.0, name="c")
        with session(target, graph) as sess:
            handle = sess.partial_run_setup([y, s], [x, w])
            seen = {
                "feed not set up": failure(sess.partial_run, handle, y, {c: 1.0}),
                "fetch not set up": failure(sess.partial_run, handle, c, {x: 1.0}),
                "too early": failure(sess.partial_run, handle, s, {x: 1.0}),
            }
            handle = sess.partial_run_setup([y, s], [x, w])
            seen["first"] = sess.partial_run(handle, y, {x: 1.0})
            seen["fed again"] = failure(sess.partial_run, handle, s, {x: 1.0})
            handle = sess.partial_run_setup([y, s], [x, w])
            sess.partial_run(handle, y, {x: 1.0})
            seen["fetched again"] = failure(sess.partial_run, handle, y, {w: 1.0})
            handle = sess.partial_run_setup([y, s], [x, w])
            sess.partial_run(handle, y, {x: 1.0})
            seen["last"] = sess.partial_run(handle, s, {w: 1.0})
            seen["after the end"] = failure(sess.partial_run, handle, s, {w: 1.0})
            return seen


@check
def partial_run_with_state(target: str) -> Any:
    """A policy's step and its update in one run: what is fetched first feeds what comes later."""
    with tf.Graph().as_default() as graph:
        v = tf.get_variable("partial_state", initializer=[[1.0, 2.0]], use_resource=True)
        state = tf.placeholder(tf.float32, [2, 1], name="state")
        reward = tf.placeholder(tf.float32, [1, 1], name="reward")
        action = tf.matmul(v, state)
        loss = tf.reduce_sum((action - reward) ** 2)
        train = tf.train.GradientDescentOptimizer(0.1).minimize(loss)
        with session(target, graph) as sess:
            sess.run(v.initializer)
            handle = sess.partial_run_setup([action, loss, train], [state, reward])
            chosen = sess.partial_run(handle, action, {state: [[1.0], [1.0]]})
            lost = sess.partial_run(handle, loss, {reward: chosen - 1.0})
            return [chosen, lost, sess.run(v)]


@check
def made_callable(target: str) -> Any:
    with tf.Graph().as_default() as graph:
        x, w, y, s = partial_graph()
        with session(target, graph) as sess:
            function = sess.make_callable([s, y], feed_list=[w, x])
            bare = sess.make_callable(tf.constant(4.0))
            return [function(1.0, 2.0), function(np.float32(3), 4), bare()]


@check
def callable_from_options(target: str) -> Any:
    with tf.Graph().as_default() as graph:
        x, w, y, s = partial_graph()
        tf.constant(5.0, name="c")
        vector = tf.placeholder(tf.float32, [None], name="vector")
        doubled = vector * 2.0
        with session(target, graph) as sess:
            options = config_pb2.CallableOptions(feed=["w:0", "x:0"], fetch=["s:0", "y:0"])
            function = sess._make_callable_from_options(options)
            connected = config_pb2.CallableOptions(feed=["w:0"], fetch=["s:0"])
            connected.tensor_connection.add(from_tensor="c:0", to_tensor="x:0")
            bound = sess._make_callable_from_options(connected)
            only_target = sess._make_callable_from_options(config_pb2.CallableOptions(target=["c"]))
            vectors = sess._make_callable_from_options(
                config_pb2.CallableOptions(feed=[vector.name], fetch=[doubled.name])
            )
            metadata = tf.RunMetadata()
            traced = sess._make_callable_from_options(
                config_pb2.CallableOptions(
                    feed=["x:0"],
                    fetch=["y:0"],
                    run_options=config_pb2.RunOptions(trace_level=config_pb2.RunOptions.FULL_TRACE),
                )
            )
            one = np.float32(1)
            seen = {
                "values": function(np.float32(2), np.float32(5)),
                "again": function(np.float32(3), np.float32(5)),
                "connected": bound(one),
                "target": only_target(),
                "vectors": [vectors(np.arange(n, dtype=np.float32)) for n in (0, 1, 3)],
                "wrong type": failure(function, np.int32(2), np.float32(5)),
                "traced": traced(one, run_metadata=metadata),
                "devices": [dev.device for dev in metadata.step_stats.dev_stats],
            }
            del function
            seen["after"] = bound(np.float32(6))
            return seen


@check
def callable_that_cannot_be(target: str) -> Any:
    with tf.Graph().as_default() as graph:
        partial_graph()
        tf.constant(1.0, name="c")
        with session(target, graph) as sess:

            def refused(connections: tuple[tuple[str, str], ...] = (), **fields: Any) -> Any:
                options = config_pb2.CallableOptions(**fields)
                for source, sink in connections:
                    options.tensor_connection.add(from_tensor=source, to_tensor=sink)
                return failure(sess._make_callable_from_options, options)

            return {
                "nothing": refused(),
                "fetch": refused(fetch=["nono:0"]),
                "feed": refused(feed=["zzz:0"], fetch=["y:0"]),
                "twice": refused(feed=["x:0", "x:0"], fetch=["y:0"]),
                "target": refused(target=["nope"]),
                "devices": refused(feed=["x:0"], fetch=["y:0"], feed_devices={"x:0": "/cpu:0"}),
                "connection": refused((("zz:0", "x:0"),), fetch=["y:0"]),
                "cycle": refused((("y:0", "x:0"),), fetch=["y:0"]),
            }


@check
def full_trace(target: str) -> Any:
    with tf.Graph().as_default() as graph:
        x = tf.placeholder(tf.float32, [None, 3], name="x")
        weights = tf.get_variable("traced", shape=[3, 4], use_resource=True, initializer=tf.ones_initializer())
        y = tf.nn.relu(tf.matmul(x, weights), name="y")
        with session(target, graph) as sess:
            sess.run(weights.initializer)
            metadata, bare = tf.RunMetadata(), tf.RunMetadata()
            value = sess.run(
                y,
                {x: np.ones((2, 3))},
                options=tf.RunOptions(trace_level=tf.RunOptions.FULL_TRACE),
                run_metadata=metadata,
            )
            sess.run(y, {x: np.ones((2, 3))}, run_metadata=bare)
    stats = metadata.step_stats
    chrome = json.loads(timeline.Timeline(stats).generate_chrome_trace_format(show_memory=True))
    entries = [entry for device in stats.dev_stats for entry in device.node_stats]
    labels = {entry.timeline_label.split(" = ")[0] for entry in entries}
    return {
        "value": value,
        "devices": sorted({device.device for device in stats.dev_stats}),
        "ops": sorted(
            {event["args"]["op"] for event in chrome["traceEvents"] if "args" in event and "op" in event["args"]}
            & {"MatMul", "Relu", "_FusedMatMul", "ReadVariableOp"}
        ),
        "named": "y" in {entry.node_name.split(":")[0] for entry in entries} or "y" in labels,
        "events": len(chrome["traceEvents"]) > 3,
        "times": all(
            entry.all_start_micros > 0
            and 0 <= entry.op_start_rel_micros <= entry.op_end_rel_micros
            and entry.op_end_rel_micros <= entry.all_end_rel_micros
            for entry in entries
        ),
        "shapes": any(
            [dim.size for dim in output.tensor_description.shape.dim] == [2, 4]
            for entry in entries
            for output in entry.output
        ),
        "bare": len(bare.step_stats.dev_stats),
    }


@check
def graphs_that_ran(target: str) -> Any:
    with tf.Graph().as_default() as graph:
        x = tf.placeholder(tf.float32, [2, 2], name="x")
        y = tf.matmul(x, x, name="y")
        tf.identity(x, name="unneeded")
        with session(target, graph) as sess:
            metadata = tf.RunMetadata()
            sess.run(y, {x: np.eye(2)}, options=tf.RunOptions(output_partition_graphs=True), run_metadata=metadata)
    (part,) = metadata.partition_graphs
    nodes = {node.name: node for node in part.node}
    return {
        "names": sorted(nodes),
        "devices": sorted({node.device for node in part.node}),
        "transpose_a": nodes["y"].attr["transpose_a"].WhichOneof("value"),
        "fed as": nodes["_recv_x_0"].attr["tensor_name"].s,
        "sent as": nodes["_send_y_0"].attr["tensor_name"].s,
        "input": list(nodes["y"].input),
    }


if __name__ == "__main__":
    main()
