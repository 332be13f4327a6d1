"""Graphs over two tasks: what a client sees must not tell whose the tasks are."""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import tensorflow.compat.v1 as tf
from checks import Background, check, failure, main, plain, session

tf.disable_eager_execution()

WORKER = "/job:worker/task:0"


def worker() -> Any:
    return tf.device(WORKER)


@check
def devices(target: str) -> Any:
    with session(target, tf.Graph()) as client:
        return [[device.name, device.device_type, device.memory_limit_bytes] for device in client.list_devices()]


@check
def values_there_and_back(target: str) -> Any:
    graph = tf.Graph()
    with graph.as_default():
        fed = {}
        pairs = []
        for kind in ("float32", "float64", "float16", "bfloat16", "int32", "int64", "uint8", "bool", "complex64",
                     "string"):
            x = tf.placeholder(kind, [None])
            fed[x] = [b"a", b"\xff", b""] if kind == "string" else np.array([0, 1, 1], tf.as_dtype(kind).as_numpy_dtype)
            with worker():
                pairs.append(tf.concat([x, tf.identity(x)], 0))
        answers = [tf.identity(pair) for pair in pairs]
    with session(target, graph) as client:
        found = client.run(answers, fed)
        return [plain(value.astype(np.float32) if value.dtype == "bfloat16" else value) for value in found]


@check
def variables_of_both_kinds(target: str) -> Any:
    graph = tf.Graph()
    with graph.as_default():
        with worker():
            ref = tf.get_variable("ref", initializer=np.float32([1, 2]), use_resource=False)
            resource = tf.get_variable("resource", initializer=np.float32([3, 4]), use_resource=True)
            changed = [tf.assign_add(ref, [1.0, 1.0]), tf.assign_sub(resource, [1.0, 1.0])]
        with tf.control_dependencies(changed):  # control edges cross from the worker to the master
            total = tf.constant(1.0) + tf.reduce_sum(ref.read_value() if hasattr(ref, "read_value") else ref)
        start = tf.global_variables_initializer()
    with session(target, graph) as client:
        client.run(start)
        first = client.run([total, *changed])
    with session(target, graph) as client:  # what is named outlives the session
        return [plain(first), plain(client.run([ref, resource]))]


@check
def a_loop_whose_body_is_elsewhere(target: str) -> Any:
    tf.disable_control_flow_v2()
    graph = tf.Graph()
    with graph.as_default():
        def outer(i: Any, total: Any) -> Any:
            def inner(j: Any, value: Any) -> Any:
                with worker():
                    value = value * 2.0 + tf.cast(i, tf.float32)
                return j + 1, value
            _, total = tf.while_loop(lambda j, value: j < 3, inner, [0, total])
            with worker():
                total = total - 1.0
            return i + 1, total
        answer = tf.while_loop(lambda i, total: i < 4, outer, [tf.constant(0), tf.constant(1.0)], parallel_iterations=4)
    with session(target, graph) as client:
        return client.run(answer)


@check
def branches_that_cross(target: str) -> Any:
    tf.disable_control_flow_v2()
    graph = tf.Graph()
    with graph.as_default():
        choice = tf.placeholder(tf.bool, [])
        with worker():
            there = tf.constant(2.0) * 3.0
        picked = tf.cond(choice, lambda: _on_worker(there + 1.0), lambda: there - 1.0)
        with worker():
            answer = picked * 10.0
    with session(target, graph) as client:
        return [client.run(answer, {choice: value}) for value in (True, False, True)]


def _on_worker(value: Any) -> Any:
    with worker():
        return tf.square(value)


@check
def functions_and_v2_loops(target: str) -> Any:
    tf.enable_control_flow_v2()
    graph = tf.Graph()
    with graph.as_default(), worker():
        x = tf.placeholder(tf.float32, [])
        powers = tf.while_loop(lambda i, value: i < 5, lambda i, value: (i + 1, value * x), [tf.constant(0), 1.0])[1]
        slope, = tf.gradients(powers, x)
        chosen = tf.cond(x > 1.0, lambda: powers, lambda: -powers)
        mapped = tf.map_fn(lambda item: item * x, tf.range(4, dtype=tf.float32))
    tf.disable_control_flow_v2()
    with session(target, graph) as client:
        return [client.run([powers, slope, chosen, mapped], {x: value}) for value in (2.0, 0.5)]


@check
def training_on_the_worker(target: str) -> Any:
    random = np.random.default_rng(3)
    data = random.normal(size=(32, 12, 12, 1)).astype(np.float32)
    labels = (data.sum((1, 2, 3)) > 0).astype(np.int64)
    weights = {"conv": random.normal(size=(3, 3, 1, 8)).astype(np.float32) * 0.3,
               "dense": random.normal(size=(200, 16)).astype(np.float32) * 0.1,
               "out": random.normal(size=(16, 2)).astype(np.float32) * 0.1}
    graph = tf.Graph()
    with graph.as_default():
        x, y = tf.placeholder(tf.float32, [None, 12, 12, 1]), tf.placeholder(tf.int64, [None])
        with worker():
            made = {name: tf.get_variable(name, initializer=value) for name, value in weights.items()}
            bias = [tf.get_variable(f"bias{i}", initializer=np.zeros(size, np.float32)) for i, size in
                    enumerate((8, 16, 2))]
            hidden = tf.nn.relu(tf.nn.bias_add(tf.nn.conv2d(x, made["conv"], 1, "VALID"), bias[0]))
            hidden = tf.reshape(tf.nn.max_pool2d(hidden, 2, 2, "VALID"), [-1, 200])
            hidden = tf.nn.relu(tf.nn.bias_add(tf.matmul(hidden, made["dense"]), bias[1]))
            scores = tf.nn.bias_add(tf.matmul(hidden, made["out"]), bias[2])
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=scores))
            train = tf.train.AdamOptimizer(0.01).minimize(loss)
            predicted = tf.argmax(scores, 1)
        right = tf.reduce_mean(tf.cast(tf.equal(predicted, y), tf.float32))
        start = tf.global_variables_initializer()
    with session(target, graph) as client:
        client.run(start)
        losses = [client.run([loss, train], {x: data, y: labels})[0] for _ in range(15)]
        return [plain(losses), plain(client.run(right, {x: data, y: labels}))]


@check
def normalised_activations(target: str) -> Any:
    """Inference that the master's optimizer fuses: batch norm, bias, activations behind convolutions and products."""
    random = np.random.default_rng(5)
    graph = tf.Graph()
    with graph.as_default(), worker():
        x = tf.placeholder(tf.float32, [2, 8, 8, 3])
        kernel = tf.Variable(random.normal(size=(3, 3, 3, 4)).astype(np.float32))
        scale, offset, mean = (tf.Variable(random.normal(size=4).astype(np.float32)) for _ in range(3))
        variance = tf.Variable(random.uniform(0.5, 1.5, size=4).astype(np.float32))
        answers = []
        for activation in (tf.nn.relu, tf.nn.relu6, tf.nn.elu, tf.nn.leaky_relu, tf.identity):
            found = tf.nn.conv2d(x, kernel, 1, "SAME")
            normal, _, _ = tf.nn.fused_batch_norm(found, scale, offset, mean, variance, is_training=False)
            answers.append(tf.reduce_sum(activation(normal), [1, 2]))
            answers.append(tf.reduce_sum(activation(tf.nn.bias_add(found, offset)), [1, 2]))
            product = tf.matmul(tf.reshape(found, [2, -1]), tf.ones([256, 3]))
            answers.append(activation(tf.nn.bias_add(product, [0.5, -1.0, 3.0])))
        start = tf.global_variables_initializer()
    data = random.normal(size=(2, 8, 8, 3)).astype(np.float32)
    with session(target, graph) as client:
        client.run(start)
        return [client.run(answers, {x: data}) for _ in range(2)]


@check
def an_error_names_the_worker(target: str) -> Any:
    graph = tf.Graph()
    with graph.as_default():
        with worker():
            v = tf.get_variable("unset", initializer=1.0, use_resource=False)
            read = tf.identity(v, name="read")
        answer = read + 1.0
        with worker():
            both = tf.matmul(tf.placeholder_with_default(np.ones((2, 3), np.float32), None),
                             tf.placeholder_with_default(np.ones((2, 3), np.float32), None), name="product")
    with session(target, graph) as client:
        return [failure(client.run, answer), failure(client.run, both)]


@check
def a_blocked_dequeue_is_cancelled(target: str) -> Any:
    graph = tf.Graph()
    with graph.as_default(), worker():
        queue = tf.FIFOQueue(10, tf.float32, shapes=[()])
        put, get = queue.enqueue(7.0), queue.dequeue()
    with session(target, graph) as client:
        options = tf.RunOptions(timeout_in_ms=400)
        began = time.monotonic()
        code = failure(client.run, get, options=options)["code"]
        in_time = time.monotonic() - began < 5
        waiting = Background(client.run, get)
        time.sleep(0.2)
        client.run(put)
        return [code, in_time, waiting.result()]


@check
def a_closed_session_ends_its_steps(target: str) -> Any:
    graph = tf.Graph()
    with graph.as_default(), worker():
        get = tf.FIFOQueue(10, tf.float32, shapes=[()]).dequeue()
    client = session(target, graph)
    waiting = Background(client.run, get)
    time.sleep(0.4)
    client.close()
    return waiting.result()["code"]


@check
def reset_empties_the_worker(target: str) -> Any:
    graph = tf.Graph()
    with graph.as_default(), worker():
        v = tf.get_variable("kept", initializer=5.0, use_resource=False)
        known = tf.is_variable_initialized(v)
        start = tf.global_variables_initializer()
    seen = []
    with session(target, graph) as client:
        client.run(start)
    with session(target, graph) as client:
        seen.append(client.run(known))
    tf.Session.reset(target)
    with session(target, graph) as client:
        seen.append(client.run(known))
    return seen


@check
def a_partial_run_over_both_tasks(target: str) -> Any:
    graph = tf.Graph()
    with graph.as_default():
        x, y = tf.placeholder(tf.float32, []), tf.placeholder(tf.float32, [])
        with worker():
            first = x * 2.0
        second = first + y
    with session(target, graph) as client:
        handle = client.partial_run_setup([first, second], [x, y])
        return [client.partial_run(handle, first, {x: 3.0}), client.partial_run(handle, second, {y: 1.0})]


def _partial_graph() -> tuple[Any, ...]:
    """Return a graph with values on both tasks that come one after the other."""
    graph = tf.Graph()
    with graph.as_default():
        x, y = tf.placeholder(tf.float32, [], name="x"), tf.placeholder(tf.float32, [], name="y")
        with worker():
            first = tf.multiply(x, 2.0, name="first")
            kept = tf.get_variable("kept_by_partial_runs", initializer=0.0, use_resource=True)
            counted = tf.assign_add(kept, x)
        second = tf.add(first, y, name="second")
        with worker():
            third = tf.square(second, name="third")
    return graph, x, y, first, second, third, counted, kept


@check
def partial_runs_are_refused_what_they_cannot_do(target: str) -> Any:
    graph, x, y, first, second, third, *_ = _partial_graph()
    seen = []
    with session(target, graph) as client:
        handle = client.partial_run_setup([first, second], [x, y])
        seen.append(failure(client.partial_run, handle, second, {x: 1.0}))
        seen.append(client.partial_run(handle, first, {x: 3.0}))
        seen.append(failure(client.partial_run, handle, first))
        seen.append(failure(client.partial_run, handle, second, {x: 3.0}))
        seen.append(failure(client.partial_run, handle, third, {y: 3.0}))
        seen.append(client.partial_run(handle, second, {y: 1.0}))
        seen.append(failure(client.partial_run, handle, second))
    return seen


@check
def partial_runs_side_by_side_and_with_a_target(target: str) -> Any:
    graph, x, y, first, second, third, counted, kept = _partial_graph()
    with session(target, graph) as client:
        with graph.as_default():
            start = tf.variables_initializer([kept])
        client.run(start)
        handles = [client.partial_run_setup([first, third, counted.op], [x, y]) for _ in range(3)]
        seen = [client.partial_run(handle, first, {x: float(number)}) for number, handle in enumerate(handles)]
        seen += [client.partial_run(handle, third, {y: 10.0}) for handle in reversed(handles)]
        return [plain(seen), client.run(kept)]


@check
def a_partial_run_that_fails_ends_and_leaves_the_session_usable(target: str) -> Any:
    graph = tf.Graph()
    with graph.as_default():
        x, y = tf.placeholder(tf.float32, [None], name="x"), tf.placeholder(tf.float32, [None], name="y")
        with worker():
            first = x + 1.0
            bad = tf.reshape(y, [3], name="bad")
        answer = tf.reduce_sum(first) + tf.reduce_sum(bad)
    with session(target, graph) as client:
        handle = client.partial_run_setup([first, answer], [x, y])
        seen = [client.partial_run(handle, first, {x: [1.0, 2.0]})]
        error = failure(client.partial_run, handle, answer, {y: [1.0]})
        seen += [error["code"], "{{node bad}}" in error["message"]]
        seen.append(failure(client.partial_run, handle, answer)["message"])
        seen.append(client.run(answer, {x: [1.0, 2.0], y: [1.0, 2.0, 3.0]}))
        return plain(seen)


@check
def a_partial_run_left_open_ends_with_its_session(target: str) -> Any:
    graph = tf.Graph()
    with graph.as_default():
        x = tf.placeholder(tf.float32, [], name="x")
        with worker():
            queue = tf.FIFOQueue(10, tf.float32, shapes=[()])
            first = x * 2.0
            taken = queue.dequeue() + x
    client = session(target, graph)
    handle = client.partial_run_setup([first, taken], [x])
    seen = [client.partial_run(handle, first, {x: 3.0})]
    waiting = Background(client.partial_run, handle, taken)
    time.sleep(0.3)
    client.close()
    seen.append(waiting.result()["code"])
    idle = session(target, graph)
    seen.append(idle.partial_run(idle.partial_run_setup([first, taken], [x]), first, {x: 4.0}))
    began = time.monotonic()
    idle.close()
    return plain([*seen, time.monotonic() - began < 8.0])


@check
def callables_over_both_tasks(target: str) -> Any:
    graph = tf.Graph()
    with graph.as_default():
        x, y = tf.placeholder(tf.float32, [None], name="x"), tf.placeholder(tf.float32, [None], name="y")
        with worker():
            total = tf.add(x, y, name="total")
            tf.constant([7.0, 7.0], name="sevens")
            v = tf.get_variable("counted_by_callables", initializer=0.0, use_resource=True)
            with tf.control_dependencies([tf.assign_add(v, 1.0)]):
                tf.no_op(name="count")
            start = tf.variables_initializer([v])
        tf.multiply(total, 10.0, name="shown")
        with worker():
            tf.reshape(x, [3], name="bad")
    seen: list[Any] = []
    with session(target, graph) as client:
        client.run(start)

        def make(**fields: Any) -> Any:
            return client._make_callable_from_options(_options(**fields))

        both = make(feed=["y:0", "x:0"], fetch=["shown:0", "total:0"], target=["count"])
        for number in range(3):
            seen.append(both(np.float32([number]), np.float32([1, 2])))
        seen.append(client.run(v))
        fails = make(feed=["x:0"], fetch=["bad:0"])
        error = failure(fails, np.float32([1.0]))
        seen += [error["code"], "{{node bad}}" in error["message"]]
        seen.append(fails(np.float32([1, 2, 3])))
        connected = _options(feed=["x:0"], fetch=["shown:0"])
        connected.tensor_connection.add(from_tensor="sevens:0", to_tensor="y:0")
        seen.append(client._make_callable_from_options(connected)(np.float32([2.0, 4.0])))
        traced = _options(feed=["x:0", "y:0"], fetch=["total:0"])
        traced.run_options.trace_level = tf.RunOptions.FULL_TRACE
        metadata = tf.RunMetadata()
        seen.append(client._make_callable_from_options(traced)(np.float32([1.0]), np.float32([2.0]),
                                                               run_metadata=metadata))
        nodes = {entry.node_name for device in metadata.step_stats.dev_stats for entry in device.node_stats}
        seen.append("total" in nodes)
        return plain(seen)


def _options(**fields: Any) -> Any:
    from tensorflow.core.protobuf import config_pb2

    return config_pb2.CallableOptions(**fields)


@check
def a_callable_at_its_limit(target: str) -> Any:
    graph = tf.Graph()
    with graph.as_default(), worker():
        queue = tf.FIFOQueue(10, tf.float32, shapes=[()])
        put = queue.enqueue(7.0)
        tf.identity(queue.dequeue(), name="got")
    with session(target, graph, tf.ConfigProto(operation_timeout_in_ms=700)) as client:
        taken = client._make_callable_from_options(_options(fetch=["got:0"]))
        code = failure(taken)["code"]
        client.run(put)
        return [code, plain(taken())]


@check
def a_dead_value_that_crosses_cannot_be_fetched(target: str) -> Any:
    graph = tf.Graph()
    with graph.as_default():
        choice = tf.placeholder(tf.bool, [])
        with worker():
            there, here = tf.raw_ops.Switch(data=tf.constant(2.0), pred=choice)
            taken = tf.identity(here, name="taken")
        back = tf.identity(taken, name="back")
        merged = tf.raw_ops.Merge(inputs=[back, tf.identity(there) - 1.0]).output
    with session(target, graph) as client:
        error = failure(client.run, back, {choice: False})
        return [error["code"], "Failed to fetch outputs for step" in error["message"],
                "was not valid.)" in error["message"], client.run(back, {choice: True}),
                client.run(merged, {choice: True}), client.run(merged, {choice: False})]


@check
def isolated_sessions_share_nothing_on_the_worker(target: str) -> Any:
    graph = tf.Graph()
    with graph.as_default(), worker():
        v = tf.get_variable("apart", initializer=1.0, use_resource=False)
        known, start, more = tf.is_variable_initialized(v), v.initializer, tf.assign_add(v, 1.0)
    seen = []
    with session(target, graph, isolate_session_state=True) as one, \
            session(target, graph, isolate_session_state=True) as other, session(target, graph) as shared:
        one.run(start)
        seen += [one.run(more), other.run(known), shared.run(known)]
        other.run(start)
        seen += [other.run(v), one.run(v)]
    with session(target, graph) as shared:
        seen.append(shared.run(known))
    return plain(seen)


@check
def floats_that_cross_as_bfloat16(target: str) -> Any:
    graph = tf.Graph()
    with graph.as_default():
        x = tf.placeholder(tf.float32, [None])
        with worker():
            there = -x
        back = there + 1.0
    options = tf.GraphOptions(enable_bfloat16_sendrecv=True)
    with session(target, graph, graph_options=options) as client:
        return plain(client.run(back, {x: [1.00390625, 1.01171875, -3.1415927, 1e-40, 3.4e38]}))


@check
def a_trace_shows_both_tasks(target: str) -> Any:
    graph = tf.Graph()
    with graph.as_default():
        x = tf.placeholder(tf.float32, [4], name="x")
        with worker():
            y = tf.square(x, name="squared")
        answer = y + 1.0
    metadata = tf.RunMetadata()
    with session(target, graph) as client:
        for _ in range(2):
            metadata = tf.RunMetadata()
            client.run(answer, {x: np.ones(4)}, options=tf.RunOptions(trace_level=tf.RunOptions.FULL_TRACE,
                                                                      output_partition_graphs=True),
                       run_metadata=metadata)
    entries = [(device.device, entry) for device in metadata.step_stats.dev_stats for entry in device.node_stats]
    nodes = {entry.node_name for _, entry in entries}
    transfers = sorted((device.split("/")[1], entry.timeline_label.split("]")[0],
                        entry.timeline_label.split(" from ")[1].split("\n")[0].split(" by ")[0],
                        entry.output[0].tensor_description.allocation_description.requested_bytes
                        if entry.output else -1, entry.all_start_micros > 0 < entry.all_end_rel_micros)
                       for device, entry in entries if entry.node_name == "RecvTensor")
    graphs = {node.name for found in metadata.partition_graphs for node in found.node}
    with_defaults = {node.name: sorted(node.attr) for found in metadata.partition_graphs for node in found.node}
    from tensorflow.python.client import timeline

    events = json.loads(timeline.Timeline(metadata.step_stats).generate_chrome_trace_format())["traceEvents"]
    return ["squared" in nodes, "squared" in graphs, transfers, len(metadata.partition_graphs),
            len({device for device, _ in entries}),
            with_defaults.get("squared"), any(event.get("name") == "RecvTensor" for event in events)]


if __name__ == "__main__":
    main()
