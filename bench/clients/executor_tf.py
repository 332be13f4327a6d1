"""TensorFlow's side of ``bench_executor``: the same GraphDefs in a session of its own.

Runs in the interpreter that has TensorFlow: ``python executor_tf.py SPEC``, where the specification is
``{"cases": [{"case", "graph": path, "count", "fed"}], "seconds": per case}``. Prints one JSON object per case:
``{"case", "best_ns"}``, nanoseconds per node or turn.
"""

import json
import sys
import time

import numpy as np
import tensorflow as tf


def best_s(call, seconds):
    """Return the shortest time of a call in seconds."""
    call()
    best = float("inf")
    end = time.perf_counter() + seconds
    rounds = 0
    while time.perf_counter() < end or rounds < 3:
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
        rounds += 1
    return best


def main():
    spec = json.loads(sys.argv[1])
    for case in spec["cases"]:
        with open(case["graph"], "rb") as file:
            graph_def = tf.compat.v1.GraphDef.FromString(file.read())
        config = tf.compat.v1.ConfigProto(intra_op_parallelism_threads=1)
        if case["fed"]:
            config.graph_options.rewrite_options.disable_meta_optimizer = True
            config.graph_options.optimizer_options.opt_level = -1
        with tf.Graph().as_default() as graph:
            tf.import_graph_def(graph_def, name="")
            with tf.compat.v1.Session(graph=graph, config=config) as session:
                feeds = {"x:0": np.ones(4, np.float32)} if case["fed"] else {}
                target = graph.get_operation_by_name("all")
                best = best_s(lambda: session.run(target, feeds), spec["seconds"])  # noqa: B023
        print(json.dumps({"case": case["case"], "best_ns": best / case["count"] * 1e9}), flush=True)


if __name__ == "__main__":
    main()
