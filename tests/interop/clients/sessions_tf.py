"""Sessions: made, extended, isolated, reset, closed, timed out (checklist 2, 7 to 23, 60)."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import tensorflow.compat.v1 as tf
from checks import Background, check, failure, main, session
from tensorflow.core.protobuf import cluster_pb2

tf.disable_eager_execution()

MEGABYTE = 1 << 20


@check
def hundred_megabytes(target: str) -> Any:
    with tf.Graph().as_default() as graph:
        x = tf.placeholder(tf.float32, [None], name="x")
        y = tf.identity(x, name="y") + 1.0
        value = np.arange(25 * MEGABYTE, dtype=np.float32)
        with session(target, graph) as sess:
            answer = sess.run(y, {x: value})
            return {"bytes": answer.nbytes, "right": bool((answer == value + 1.0).all())}


def queue_graph() -> tuple[Any, Any, Any, Any]:
    queue = tf.FIFOQueue(10, [tf.float32], shapes=[[]], name="q")
    x = tf.placeholder(tf.float32, [], name="x")
    return x, queue.enqueue(x, name="put"), queue.dequeue(name="take"), queue.size(name="size")


@check
def blocked_step_and_its_timeout(target: str) -> Any:
    with tf.Graph().as_default() as graph:
        x, put, take, size = queue_graph()
        with session(target, graph) as sess:
            sess.run(size)
            started = time.monotonic()
            error = failure(sess.run, take, options=tf.RunOptions(timeout_in_ms=500))
            seconds = time.monotonic() - started
            # What follows must find that the cancelled dequeue takes nothing.
            time.sleep(0.2)
            sess.run(put, {x: 5.0})
            return {"code": error["code"], "in time": 0.4 < seconds < 2.0, "next": sess.run(take)}


@check
def timeout_of_the_session(target: str) -> Any:
    with tf.Graph().as_default() as graph:
        _, _, take, _ = queue_graph()
        with tf.Session(target, graph=graph, config=tf.ConfigProto(operation_timeout_in_ms=500)) as sess:
            started = time.monotonic()
            error = failure(sess.run, take)
            return {"code": error["code"], "in time": 0.4 < time.monotonic() - started < 2.0}


@check
def blocked_step_gets_what_another_session_puts(target: str) -> Any:
    with tf.Graph().as_default() as graph:
        queue = tf.FIFOQueue(10, [tf.float32], shapes=[[]], shared_name=f"shared_{time.time_ns()}", name="q")
        x = tf.placeholder(tf.float32, [], name="x")
        put, take = queue.enqueue(x), queue.dequeue()
        with session(target, graph) as first, session(target, graph) as second:
            waiting = Background(first.run, take)
            time.sleep(0.2)
            second.run(put, {x: 7.0})
            return waiting.result()


@check
def close_during_a_blocked_step(target: str) -> Any:
    with tf.Graph().as_default() as graph:
        _, _, take, size = queue_graph()
        sess = session(target, graph)
        sess.run(size)
        waiting = Background(sess.run, take)
        time.sleep(0.3)
        started = time.monotonic()
        sess.close()
        return {"closed": time.monotonic() - started < 2.0, "step": waiting.result()}


@check
def error_of_a_kernel(target: str) -> Any:
    with tf.Graph().as_default() as graph:
        x = tf.placeholder(tf.float32, [None], name="x")
        bad = tf.reshape(x, [7], name="scope/bad")
        with session(target, graph) as sess:
            return [failure(sess.run, bad, {x: np.zeros(4)}) for _ in range(2)]


@check
def devices_of_an_empty_session(target: str) -> Any:
    with session(target, tf.Graph()) as sess:
        devices = sess.list_devices()
        return {
            "devices": [[device.name, device.device_type, device.memory_limit_bytes] for device in devices],
            "incarnation": all(device.incarnation != 0 for device in devices),
            "same again": [device.incarnation for device in devices]
            == [device.incarnation for device in sess.list_devices()],
        }


@check
def extension_that_fails(target: str) -> Any:
    """The client sends the nodes of a failed extension again with the next: the good ones among them come, too."""
    with tf.Graph().as_default() as graph:
        x = tf.placeholder(tf.float32, [2], name="x")
        with session(target, graph) as sess:
            first = sess.run(tf.identity(x), {x: [1, 2]})
            with tf.device("/job:nope"):
                tf.constant(1.0, name="nowhere")
            good = tf.identity(x, name="good")
            failed = [failure(sess.run, good, {x: [3, 4]})["code"] for _ in range(2)]
            return {"first": first, "failed": failed}


def variable_graph(name: str, resource: bool, container: str = "") -> tuple[tf.Graph, Any, Any, Any]:
    with tf.Graph().as_default() as graph, graph.container(container):
        variable = tf.get_variable(name, shape=[], use_resource=resource, initializer=tf.zeros_initializer())
        x = tf.placeholder(tf.float32, [], name="x")
        return graph, x, variable.assign(x), variable.read_value() if resource else tf.identity(variable, name="read")


@check
def isolated_sessions(target: str) -> Any:
    seen = {}
    for resource in (False, True):
        graph, x, assign, read = variable_graph("isolated", resource)
        with (
            session(target, graph) as shared,
            session(target, graph, isolate_session_state=True) as first,
            session(target, graph, isolate_session_state=True) as second,
        ):
            shared.run(assign, {x: 1.0})
            before = [failure(sess.run, read)["code"] for sess in (first, second)]
            first.run(assign, {x: 2.0})
            second.run(assign, {x: 3.0})
            seen["resource" if resource else "ref"] = {
                "before": before,
                "values": [sess.run(read) for sess in (shared, first, second)],
            }
    return seen


@check
def variables_outlive_their_session(target: str) -> Any:
    seen = {}
    for resource in (False, True):
        graph, x, assign, read = variable_graph("outlives", resource)
        first, second = session(target, graph), session(target, graph)
        first.run(assign, {x: 7.0})
        values = [second.run(read)]
        first.close()
        values.append(second.run(read))
        second.close()
        with session(target, graph) as third:
            values.append(third.run(read))
        seen["resource" if resource else "ref"] = values
    return seen


@check
def reset_without_containers(target: str) -> Any:
    graph, x, assign, read = variable_graph("reset_all", False)
    resource_graph, rx, rassign, rread = variable_graph("reset_all_resource", True)
    sess, other = session(target, graph), session(target, resource_graph)
    sess.run(assign, {x: 7.0})
    other.run(rassign, {rx: 8.0})
    tf.Session.reset(target)
    closed = [failure(sess.run, read), failure(other.run, rread)]
    with session(target, graph) as again, session(target, resource_graph) as other_again:
        return {"closed": closed, "after": [failure(again.run, read), failure(other_again.run, rread)]}


@check
def reset_of_one_container(target: str) -> Any:
    graph, x, assign, read = variable_graph("kept", False)
    graph_c, xc, assign_c, read_c = variable_graph("gone", False, container="c")
    graph_d, xd, assign_d, read_d = variable_graph("gone_resource", True, container="c")
    triples = ((graph, x, assign), (graph_c, xc, assign_c), (graph_d, xd, assign_d))
    for one, feed, op in triples:
        session(target, one).run(op, {feed: 3.0})
    sess = session(target, graph)
    before = sess.run(read)
    tf.Session.reset(target, ["c"])
    closed = failure(sess.run, read)
    with session(target, graph) as kept, session(target, graph_c) as gone, session(target, graph_d) as gone_resource:
        return {
            "before": before,
            "closed": closed["code"],
            "kept": kept.run(read),
            "gone": [failure(gone.run, read_c), failure(gone_resource.run, read_d)],
        }


@check
def thread_pools(target: str) -> Any:
    with tf.Graph().as_default() as graph:
        c = tf.constant(1.0)
    configs = [
        tf.ConfigProto(use_per_session_threads=True),
        tf.ConfigProto(session_inter_op_thread_pool=[tf.ConfigProto().session_inter_op_thread_pool.add()]),
    ]
    seen = []
    for config in configs:
        with session(target, graph, config) as sess:
            seen.append(failure(sess.run, c))
    return seen


@check
def device_filters(target: str) -> Any:
    with tf.Graph().as_default() as graph:
        c = tf.constant(1.0)
        with session(target, graph, device_filters=["/job:elsewhere"]) as sess:
            return {"devices": [device.name for device in sess.list_devices()], "value": sess.run(c)}


@check
def cluster_in_the_config(target: str) -> Any:
    cluster = cluster_pb2.ClusterDef()
    cluster.job.add(name="renamed").tasks[3] = target.removeprefix("grpc://")
    graph, x, assign, read = variable_graph("of_a_cluster", False)
    with session(target, graph) as plain_session:
        plain_session.run(assign, {x: 1.0})
        own = plain_session.list_devices()
    with session(target, graph, cluster_def=cluster) as sess:
        devices = sess.list_devices()
        before = failure(sess.run, read)
        sess.run(assign, {x: 2.0})
        metadata = tf.RunMetadata()
        value = sess.run(read, options=tf.RunOptions(output_partition_graphs=True), run_metadata=metadata)
        places = sorted({node.device for part in metadata.partition_graphs for node in part.node})
    with session(target, graph) as plain_session:
        return {
            "names": [device.name for device in devices],
            "same incarnations": [device.incarnation for device in devices] == [device.incarnation for device in own],
            "before": before,
            "value": value,
            "places": places,
            "shared": plain_session.run(read),
        }


@check
def cluster_without_the_master(target: str) -> Any:
    with tf.Graph().as_default() as graph:
        c = tf.constant(1.0)
    cluster = cluster_pb2.ClusterDef()
    cluster.job.add(name="w").tasks[0] = "127.0.0.1:1"
    with session(target, graph, cluster_def=cluster) as sess:
        return failure(sess.run, c)["message"].split(". ")[0]


@check
def uninitialized_variables(target: str) -> Any:
    with tf.Graph().as_default() as graph:
        ref = tf.get_variable("never_ref", shape=[], use_resource=False)
        resource = tf.get_variable("scope/never_resource", shape=[], use_resource=True)
        fetched, read, added = ref, tf.identity(ref, name="read"), ref.assign_add(1.0)
        resource_read, resource_added = resource.read_value(), resource.assign_add(1.0)
        known = [tf.is_variable_initialized(ref), resource.is_initialized()]
        missing = tf.report_uninitialized_variables()
        with session(target, graph) as sess:
            return {
                "known": sess.run(known),
                "missing": sorted(sess.run(missing).tolist()),
                "fetched": failure(sess.run, fetched),
                "read": failure(sess.run, read),
                "added": failure(sess.run, added),
                "resource read": failure(sess.run, resource_read),
                "resource added": failure(sess.run, resource_added),
            }


@check
def operations_on_a_closed_session(target: str) -> Any:
    with tf.Graph().as_default() as graph:
        c = tf.constant(1.0)
    sess = session(target, graph)
    sess.run(c)
    sess.close()
    try:
        sess.run(c)
    except RuntimeError as error:
        return str(error)
    return "no error"


if __name__ == "__main__":
    main()
