"""TensorFlow's side of ``bench_codec``: its own conversions between arrays and TensorProto.

Runs in the interpreter that has TensorFlow: ``python codec_tf.py SPEC``, where the specification is
``{"sizes": [bytes of float32 content], "seconds": per case}``. Prints one JSON object per case:
``{"operation", "nbytes", "best_us", "median_us"}``.
"""

import json
import sys
import time

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2


def measure(call, seconds):
    """Return best and median time of a call in microseconds, over blocks that last about a millisecond."""
    call()
    start = time.perf_counter()
    call()
    once = max(time.perf_counter() - start, 1e-7)
    repeats = max(1, int(1e-3 / once))
    times = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 3:
        start = time.perf_counter()
        for _ in range(repeats):
            call()
        times.append((time.perf_counter() - start) / repeats * 1e6)
    times.sort()
    return times[0], times[len(times) // 2]


def main():
    spec = json.loads(sys.argv[1])
    for nbytes in spec["sizes"]:
        array = np.arange(nbytes // 4, dtype=np.float32)
        message = tf.make_tensor_proto(array).SerializeToString()
        cases = {
            "encode": lambda array=array: tf.make_tensor_proto(array).SerializeToString(),
            "decode": lambda message=message: tf.make_ndarray(tensor_pb2.TensorProto.FromString(message)),
        }
        for operation, call in cases.items():
            best, median = measure(call, spec["seconds"])
            print(json.dumps({"operation": operation, "nbytes": nbytes, "best_us": best, "median_us": median}),
                  flush=True)


main()
