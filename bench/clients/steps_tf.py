"""Time steps of one unmodified TensorFlow client against several servers, interleaved.

Runs in the interpreter that has TensorFlow: ``python steps_tf.py SPEC.json``, where the specification is
``{"targets": {name: "grpc://..."}, "cases": [names], "seconds": per case and server}``. Prints one JSON object per
line and case: for every server what `interleaved.summary` says, and the time of the first call.
"""

import json
import os
import sys
import threading
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from interleaved import measure, percentile, summary

tf1 = tf.compat.v1
tf1.disable_eager_execution()


def constant_fetch():
    value = tf1.constant([1.0, 2.0, 3.0, 4.0])
    return lambda session: lambda: session.run(value)


def small_step():
    x = tf1.placeholder(tf.float32, [4])
    y = x + 1.0
    data = np.ones(4, np.float32)
    return lambda session: lambda: session.run(y, {x: data})


def callable_step():
    x = tf1.placeholder(tf.float32, [4])
    y = x + 1.0
    data = np.ones(4, np.float32)
    from tensorflow.core.protobuf import config_pb2

    options = config_pb2.CallableOptions(feed=[x.name], fetch=[y.name])

    def make(session):
        run = session._make_callable_from_options(options)
        return lambda: run(data)

    return make


def chain(length):
    """Sums and maxima in turn, so that no optimiser can shorten the chain."""

    def build():
        x = tf1.placeholder(tf.float32, [4])
        y = x
        for index in range(length):
            y = tf1.add(y, x) if index % 2 == 0 else tf1.maximum(y, x)
        data = np.ones(4, np.float32)
        return lambda session: lambda: session.run(y, {x: data})

    return build


def wide(width):
    def build():
        x = tf1.placeholder(tf.float32, [4])
        y = tf1.add_n([tf1.maximum(x, tf1.constant(float(index))) for index in range(width)])
        data = np.ones(4, np.float32)
        return lambda session: lambda: session.run(y, {x: data})

    return build


def large(megabytes):
    def build():
        count = megabytes * 1024 * 1024 // 4
        x = tf1.placeholder(tf.float32, [count])
        y = x + 1.0
        data = np.ones(count, np.float32)
        return lambda session: lambda: session.run(y, {x: data})

    return build


def while_loop(iterations):
    def build():
        n = tf1.placeholder(tf.int32, [])
        out = tf1.while_loop(lambda i, acc: i < n, lambda i, acc: (i + 1, acc + 1.0), [0, tf1.constant(0.0)])
        return lambda session: lambda: session.run(out[1], {n: iterations})

    return build


CASES = {
    "constant": constant_fetch,
    "small": small_step,
    "callable": callable_step,
    "chain[1]": chain(1),
    "chain[100]": chain(100),
    "chain[1000]": chain(1000),
    "wide[1000]": wide(1000),
    "large[1MB]": large(1),
    "large[16MB]": large(16),
    "large[64MB]": large(64),
    "while[1000]": while_loop(1000),
}


def threads_case(targets, seconds, count=8):
    """Small steps from several client threads: microseconds of wall time per call, all threads together."""
    graph = tf1.Graph()
    with graph.as_default():
        make = small_step()
    result = {}
    sessions = {name: tf1.Session(target, graph=graph) for name, target in targets.items()}
    totals = {name: [] for name in targets}
    for _ in range(3):
        for name, session in sessions.items():
            call = make(session)
            call()
            stop = time.perf_counter() + seconds / 3
            counts = [0] * count

            def loop(index, call=call, stop=stop, counts=counts):
                while time.perf_counter() < stop:
                    call()
                    counts[index] += 1

            workers = [threading.Thread(target=loop, args=(index,)) for index in range(count)]
            start = time.perf_counter()
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
            totals[name].append((time.perf_counter() - start) / sum(counts))
    for name in targets:
        best = min(totals[name]) * 1e6
        result[name] = {"p10_us": best, "median_us": percentile(totals[name], 0.5) * 1e6,
                        "mean_us": sum(totals[name]) / len(totals[name]) * 1e6, "calls": 3}
        sessions[name].close()
    return result


def main():
    spec = json.loads(sys.argv[1])
    targets = spec["targets"]
    for case in spec["cases"]:
        if case == "small-8-threads":
            print(json.dumps({"case": case, "servers": threads_case(targets, spec["seconds"])}), flush=True)
            continue
        graph = tf1.Graph()
        with graph.as_default():
            make = CASES[case]()
        sessions = {}
        calls = {}
        first = {}
        for name, target in targets.items():
            sessions[name] = tf1.Session(target, graph=graph)
            start = time.perf_counter()
            calls[name] = make(sessions[name])
            calls[name]()
            first[name] = time.perf_counter() - start
        times = measure(calls, spec["seconds"])
        servers = {name: {**summary(times[name]), "first_ms": first[name] * 1e3} for name in targets}
        print(json.dumps({"case": case, "servers": servers}), flush=True)
        for session in sessions.values():
            session.close()


if __name__ == "__main__":
    main()
