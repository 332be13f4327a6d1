"""Run steps with TensorFlow's client on a master that is frozen and goes on again.

Run in the peer interpreter: ``frozen_tf.py TARGET FOLDER TIMEOUT_MS``, with 0 for no timeout of operations. Before each
step it waits for a file ``step-N`` in the folder. Prints one JSON object a line: ``{"begun": N}`` before each of them,
then the value, or the code and the text of the error, and the seconds that it took.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import tensorflow.compat.v1 as tf

NUM_STEPS = 3


def say(**values: Any) -> None:
    print(json.dumps(values), flush=True)


def main() -> None:
    target, folder, timeout_ms = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    tf.disable_eager_execution()
    number = tf.placeholder(tf.float32, [])
    double = number * 2.0
    config = tf.ConfigProto(operation_timeout_in_ms=timeout_ms)
    with tf.Session(target, config=config) as session:
        for step in range(NUM_STEPS):
            while not (folder / f"step-{step}").exists():
                time.sleep(0.005)
            say(begun=step)
            began = time.monotonic()
            try:
                value = float(session.run(double, {number: step}))
            except tf.errors.OpError as error:
                say(code=error.error_code, message=error.message, seconds=time.monotonic() - began)
            else:
                say(value=value, seconds=time.monotonic() - began)


if __name__ == "__main__":
    main()
