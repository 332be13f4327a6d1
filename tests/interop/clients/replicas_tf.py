"""Synchronous training as TensorFlow's own SyncReplicasOptimizer builds it, both replicas in this process."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import tensorflow.compat.v1 as tf
from checks import Background, check, main, session

tf.disable_eager_execution()

REPLICAS, ROUNDS = 2, 5


def _train(target: str, make_loss: Any, feeds: list[Any]) -> Any:
    """Let replicas train together; return the global step and the variables afterwards."""
    with tf.Graph().as_default() as graph:
        x = tf.placeholder(tf.float32, name="x")
        global_step = tf.train.create_global_step()
        loss = make_loss(x)
        optimizer = tf.train.SyncReplicasOptimizer(tf.train.MomentumOptimizer(0.1, 0.5), REPLICAS, REPLICAS)
        train = optimizer.minimize(loss, global_step=global_step)
        variables = tf.trainable_variables()
        # No token in advance: no replica may be ahead of the other, so that all gradients count.
        tokens, runner = optimizer.get_init_tokens_op(0), optimizer.get_chief_queue_runner()
        initialize = tf.global_variables_initializer()
        # The accumulators and the queue of tokens have names that all sessions share.
        with session(target, graph, isolate_session_state=True) as sess:
            sess.run(initialize)
            sess.run([optimizer.chief_init_op, tokens])
            coordinator = tf.train.Coordinator()
            runner.create_threads(sess, coordinator, daemon=True, start=True)

            together = threading.Barrier(REPLICAS, timeout=20.0)

            def replica(number: int) -> list[float]:
                losses = []
                for turn in range(ROUNDS):
                    losses.append(float(sess.run([loss, train], {x: feeds[number][turn]})[0]))
                    together.wait()
                return losses

            workers = [Background(replica, number) for number in range(REPLICAS)]
            losses = [worker.result() for worker in workers]
            values = sess.run([global_step, *variables])
            coordinator.request_stop()
            sess.run(runner.cancel_op)  # the runner waits for gradients until the session ends
            return {"losses": sorted(len(item) for item in losses), "values": values}


@check
def dense_gradients(target: str) -> Any:
    def loss(x: Any) -> Any:
        w = tf.get_variable("w", initializer=[[0.5, -0.25], [1.0, 2.0]])
        b = tf.get_variable("b", initializer=[0.1, 0.2], use_resource=True)
        return tf.reduce_sum(tf.square(tf.matmul(x, w) + b))

    rows = np.arange(20, dtype=np.float32).reshape(ROUNDS, 2, 1, 2) / 40.0
    return _train(target, loss, [[rows[turn, 0] for turn in range(ROUNDS)]] * REPLICAS)


@check
def sparse_gradients(target: str) -> Any:
    def loss(x: Any) -> Any:
        table = tf.get_variable("table", initializer=np.arange(12, dtype=np.float32).reshape(6, 2) / 10.0)
        rows = tf.gather(table, tf.cast(x, tf.int32))
        return tf.reduce_sum(rows * rows)

    return _train(target, loss, [[[0.0, 2.0, 5.0]] * ROUNDS, [[1.0, 2.0, 3.0]] * ROUNDS])


if __name__ == "__main__":
    main()
