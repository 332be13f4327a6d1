"""Time steps of one unmodified TensorFlow client against several servers, interleaved.

Runs in the interpreter that has TensorFlow: ``python steps_tf.py SPEC.json``, where the specification is
``{"targets": {name: "grpc://..."}, "pids": {name: number}, "cases": [names], "seconds": per case and server}``.
Prints one JSON object per line and case: for every server what `interleaved.summary` says, and for most the time of the
first call and the server's processor time per call.
"""

import json
import os
import sys
import threading
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from interleaved import PARTS, measure, summary

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
    "chain[10000]": chain(10_000),
    "wide[1000]": wide(1000),
    "wide[10000]": wide(10_000),
    "large[1MB]": large(1),
    "large[16MB]": large(16),
    "large[64MB]": large(64),
    "while[1000]": while_loop(1000),
    "while[10000]": while_loop(10_000),
}


def repeated_case(case, targets, pids, seconds):
    """One step, again and again."""
    graph = tf1.Graph()
    with graph.as_default():
        make = CASES[case]()
    sessions, calls, first = {}, {}, {}
    for name, target in targets.items():
        sessions[name] = tf1.Session(target, graph=graph)
        start = time.perf_counter()
        calls[name] = make(sessions[name])
        calls[name]()
        first[name] = time.perf_counter() - start
    times, cpu_us = measure(calls, seconds, pids)
    for session in sessions.values():
        session.close()
    return {name: {**summary(times[name]), "first_ms": first[name] * 1e3, "cpu_us": cpu_us[name]} for name in targets}


def threads_case(targets, seconds, count=8):
    """Small steps from several client threads: microseconds of wall time per call, all threads together."""
    graph = tf1.Graph()
    with graph.as_default():
        make = small_step()
    sessions = {name: tf1.Session(target, graph=graph) for name, target in targets.items()}
    per_call = {name: [] for name in targets}
    for _ in range(PARTS):
        for name, session in sessions.items():
            call = make(session)
            call()
            stop = time.perf_counter() + seconds / PARTS
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
            per_call[name].append((time.perf_counter() - start) / sum(counts))
    for session in sessions.values():
        session.close()
    return {name: summary(per_call[name]) for name in targets}


def first_run_case(targets, seconds, length=10_000):
    """A session made and its first step run, for a graph that the server has not seen in this session."""
    graph = tf1.Graph()
    with graph.as_default():
        make = chain(length)()
    times = {name: [] for name in targets}
    while min(map(len, times.values())) < PARTS or min(map(sum, times.values())) < seconds:
        for name, target in targets.items():
            start = time.perf_counter()
            session = tf1.Session(target, graph=graph)
            make(session)()
            times[name].append(time.perf_counter() - start)
            session.close()
    return {name: summary(times[name]) for name in targets}


OTHER_CASES = {"small-8-threads": threads_case, "first-run[10000]": first_run_case}


def main():
    spec = json.loads(sys.argv[1])
    for case in spec["cases"]:
        if case in OTHER_CASES:
            servers = OTHER_CASES[case](spec["targets"], spec["seconds"])
        else:
            servers = repeated_case(case, spec["targets"], spec["pids"], spec["seconds"])
        print(json.dumps({"case": case, "servers": servers}), flush=True)


if __name__ == "__main__":
    main()
