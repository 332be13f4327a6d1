"""Begin steps that never end with TensorFlow's client, and wait to be killed.

Run in the peer interpreter: ``dying_tf.py TARGET``. Prints ``ready`` when the steps are under way.
"""

from __future__ import annotations

import sys
import threading
import time

import tensorflow.compat.v1 as tf


def main() -> None:
    tf.disable_eager_execution()
    with tf.Graph().as_default() as graph:
        queue = tf.raw_ops.FIFOQueueV2(component_types=[tf.float32], shared_name="of_the_dead_tf")
        (take,) = tf.raw_ops.QueueDequeueV2(handle=queue, component_types=[tf.float32])
        size = tf.raw_ops.QueueSizeV2(handle=queue)
        endless = tf.while_loop(lambda i: tf.constant(True), lambda i: i + 1, [tf.constant(0)])
        session = tf.Session(sys.argv[1], graph=graph)
        session.run(size)
        for fetch in (take, endless):
            threading.Thread(target=session.run, args=(fetch,), daemon=True).start()
        time.sleep(0.5)  # until both have reached the server
        print("ready", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
